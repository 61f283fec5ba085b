"""`driftwood why` for a person: the scores first, then the features that they were made from, then what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from driftwood.feed_view import duration
from driftwood.why import Judgement, Why
from features.durations import duration_text
from features.feature_set import FeatureSet, FeatureSpec
from features.schema import MASK
from models.outcomes import CENSORED, DUPLICATE, EARLY, EXPIRED, LATE, SILENT
from models.pipeline import Pipeline
from streams.flags import MEANINGS

# Why an outcome is none that anybody learns from, or where its label comes from if nobody has sent one.
REASONS = {
    CENSORED: "an action has prevented it, or it is null",
    DUPLICATE: "it says what is known already, or was known before what has replaced it",
    EARLY: "it came before its event was answered, and waits",
    EXPIRED: "none came within the horizon, or what was served is not known any more",
    LATE: "it became known after the horizon, or came when its event had been settled",
    SILENT: "none came within the horizon, which says it as well",
}

# Of these a label came, though the outcome carries none.
CAME = {DUPLICATE, EARLY, LATE}


@dataclass(frozen=True)
class Block:
    """A part of the account: lines of text, or a table under its headings."""

    title: str
    lines: Sequence[str] = ()
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    @property
    def text(self) -> str:
        """As it is printed: the columns of a table aligned, those of numbers to the right.

        Example:
            >>> print(Block("parts", headings=("model", "score"), rows=[("lightgbm", "0.3"), ("tree", "0.25")]).text)
            parts
              model     score
              lightgbm    0.3
              tree       0.25
        """
        return "\n".join([self.title, *(f"  {line}".rstrip() for line in [*self.lines, *self._table()])])

    def _table(self) -> Iterator[str]:
        table = [self.headings, *self.rows] if self.headings else []
        columns = list(zip(*table, strict=True))
        widths = [max(map(len, column)) for column in columns]
        right = [all(map(_is_number, column[1:])) for column in columns]
        for row in table:
            cells = [
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(row, widths, right, strict=True)
            ]
            yield "  ".join(cells)


def blocks(pipeline: Pipeline, found: Why, *, personal: bool = False) -> Iterator[Block]:
    """The account of one event. Personal and sensitive features are masked unless `personal`."""
    prediction = found.prediction
    yield Block("prediction", list(_head(prediction)))
    losses = next((one.losses for one in reversed(found.outcomes) if one.learnt), {})
    headings = ("model", "score", "weight", "version", *(["loss"] if losses else []))
    yield Block("parts", headings=headings, rows=_parts(prediction, losses))
    served = prediction["features"] if personal else pipeline.feature_set.masked(prediction["features"])
    rows = list(_features(pipeline.feature_set, served, prediction["ages_s"]))
    yield Block(
        "features as served", headings=("feature", "value", "unit", "window", "entity last seen"), rows=rows
    )
    told = [_told(pipeline.label.name, one, prediction["event_time"]) for one in found.outcomes]
    yield Block("what became of it", told or ["no label has come yet"])


def _head(prediction: Mapping[str, Any]) -> Iterator[str]:
    yield f"event {prediction['event_id']}, at {prediction['event_time']}, {prediction['position']}"
    decided = (
        "no decision rule" if prediction["decision"] is None else f"decision {_word(prediction['decision'])}"
    )
    at = "" if prediction["threshold"] is None else f" at threshold {prediction['threshold']:.4f}"
    named = prediction.get("threshold_version")
    yield f"score {_score(prediction['score'])}, {decided}{at}{f' (of model {named})' if named else ''}"
    if (interval := prediction.get("uncertainty")) is not None:
        yield f"uncertainty {_score(interval)}: {prediction['uncertainty_of']}"
    if "mode" in prediction:
        snapshot = prediction["snapshot"]
        learnt = "no snapshot of the learners" if snapshot is None else f"snapshot {snapshot} of the learners"
        yield f"mode {prediction['mode']}, {learnt}, pipeline {prediction['pipeline_version']}"
    for flag in prediction["flags"]:
        yield f"flag {flag}: {MEANINGS[flag]}"


def _parts(prediction: Mapping[str, Any], losses: Mapping[str, float]) -> list[list[str]]:
    rows = [
        [name, _score(part["score"]), f"{part['weight']:.3f}", str(part["version"]), _loss(losses, name)]
        for name, part in prediction["parts"].items()
    ]
    if losses:
        return [*rows, ["served", _score(prediction["score"]), "", "", _loss(losses, "served")]]
    return [row[:-1] for row in rows]


def _loss(losses: Mapping[str, float], name: str) -> str:
    return f"{losses[name]:.4f}" if name in losses else ""


def _features(
    features: FeatureSet, served: Mapping[str, object], ages_s: Mapping[str, float | None]
) -> Iterator[tuple[str, ...]]:
    for spec in features.features:
        age_s = ages_s.get(spec.entity) if spec.entity else None
        window = duration_text(spec.window_us) if spec.window_us else ""
        age = "" if spec.entity is None else "never" if age_s is None else f"{spec.entity} {_ago(age_s)}"
        yield spec.name, _shown(spec, served[spec.name]), spec.unit, window, age


def _ago(seconds: float) -> str:
    """A time before the event, in the unit that it is thought of.

    Example:
        >>> _ago(64_111.2), _ago(30), _ago(700_000)
        ('17.8 h before', '30 s before', '8.1 d before')
    """
    return f"{duration(seconds) if seconds >= 60 else f'{seconds:.0f} s'} before"


def _shown(spec: FeatureSpec, value: object) -> str:
    if value is None:
        return "missing"
    if value == MASK or not isinstance(value, int | float):
        return str(value)
    low = -math.inf if spec.low is None else spec.low
    high = math.inf if spec.high is None else spec.high
    return f"{value:.6g}" if low <= value <= high else f"{value:.6g} (out of range)"


def _told(label: str, one: Judgement, event_time: str) -> str:
    none = "a label" if one.kind in CAME else "no label"
    said = f"{label} = {_word(one.label)}" if one.label is not None else none
    instead = f" instead of {_word(one.replaced)}" if one.replaced is not None else ""
    reason = f" ({REASONS[one.kind]})" if one.kind in REASONS else ""
    after = (datetime.fromisoformat(one.known_at) - datetime.fromisoformat(event_time)).total_seconds()
    when = f"known at {one.known_at}, {_ago(after).replace('before', 'after')} the event"
    text = f"{one.kind}: {said}{instead}{reason}, {when}"
    if not one.learnt:
        return f"{text}; nothing was learnt from it"
    return f"{text}; learnt, in snapshots from {one.version} on, after the losses above were measured"


def _is_number(cell: str) -> bool:
    return not cell or cell == "missing" or cell.replace(".", "").replace("-", "").replace("e", "").isdigit()


def _score(score: Any) -> str:
    if isinstance(score, Mapping):
        return ", ".join(f"{name} {_score(value)}" for name, value in score.items())
    if isinstance(score, Sequence):
        return " to ".join(_score(value) for value in score)
    return "none" if score is None else f"{score:.4f}"


def _word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
