"""What the drift watch looks at: the features of a pipeline, the raw fields beside them, and the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.pipeline import Pipeline

ColumnKind = Literal["number", "probability", "category"]
"""A `probability` lies from 0 to 1; booleans are numbers 0 and 1."""

Source = Literal["feature", "field", "entity", "score"]
"""An `entity` is a raw field by which events belong together: its many values are no distribution to compare, but the share
of the largest one tells whether a change comes from one entity."""

SCORE = "score"
"""The champion's where the reference is its training, which knows no other; what was served where it is a trailing period."""
DECISION = "decision"
"""Of a row 1 where the score was at or above the decision threshold, else 0."""


@dataclass(frozen=True)
class Column:
    """One column. `low`, `high`: the declared range, None without one. `hidden`: its values are never shown."""

    name: str
    kind: ColumnKind
    source: Source
    low: float | None = None
    high: float | None = None
    hidden: bool = False

    @property
    def compared(self) -> bool:
        """Whether its distribution is compared with the reference."""
        return self.source != "entity"


def watched_columns(pipeline: Pipeline) -> tuple[Column, ...]:
    """Features, then raw fields that are none, then scores; numbers and categories in one order.

    Parts of the calendar are left out: they change with the date alone. So are times, which never stand still.

    Example:
        >>> import msgspec
        >>> from features.windows import Entity
        >>> from models.label import Label
        >>> class Payment(msgspec.Struct):
        ...     payment_id: str
        ...     at: int
        ...     card: str
        ...     amount: float
        >>> features = [Entity("card").mean("amount", "1d")]
        >>> one = Pipeline("one", event=Payment, id="payment_id", time="at", time_unit="s", features=features,
        ...                label=Label("fraud", horizon="7d"))
        >>> [(column.name, column.kind, column.source) for column in watched_columns(one)]
        [('card_amount_mean_1d', 'number', 'feature'), ('amount', 'number', 'field'), ('card', 'category', 'entity'), ('score', 'probability', 'score'), ('decision', 'number', 'score')]
    """
    return (*_features(pipeline), *_fields(pipeline), *_scores(pipeline))


def _features(pipeline: Pipeline) -> list[Column]:
    return [
        Column(
            feature.name,
            "category" if feature.kind == "category" else "number",
            "feature",
            feature.low,
            feature.high,
            feature.privacy != "free",
        )
        for feature in pipeline.feature_set.features
        if feature.origin != "calendar"
    ]


def _fields(pipeline: Pipeline) -> list[Column]:
    features = pipeline.feature_set
    taken = {feature.name for feature in features.features}
    keys = {field for plan in features.entities for field in plan.keys}
    fields = {field.name: field for field in features.schema.fields}
    found = []
    # A field that travels both ways is looked at once, as a text.
    for name in dict.fromkeys((*features.layout.numbers, *features.layout.texts)):
        field = fields[name]
        if name in taken or field.kind == "time":
            continue
        text = name in features.layout.texts
        source: Source = "entity" if name in keys else "field"
        hidden = field.privacy != "free"
        found.append(Column(name, "category" if text else "number", source, field.low, field.high, hidden))
    return found


def _scores(pipeline: Pipeline) -> list[Column]:
    label = pipeline.label
    if label.kind == "multiclass":
        return [Column(f"{SCORE}:{value}", "probability", "score") for value in label.classes]
    if label.kind == "regression":
        return [Column(SCORE, "number", "score")]
    return [Column(SCORE, "probability", "score"), Column(DECISION, "number", "score")]
