"""A pipeline: one Python file in which a user says what an event is, what is predicted, and from what."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date

import msgspec

from features.compiler import Declared, compile_features
from features.elements import Element
from features.errors import PipelineError
from features.event_times import DEFAULT_EARLIEST
from features.expressions import Expression, parse_expression
from features.feature_set import FeatureSet
from features.schema import Kind, is_name
from models.blend import Blend
from models.decision import CostMatrix, DailyCapacity, DecisionRule, Threshold
from models.drift.spec import Drift
from models.label import Label
from models.learners import checked_learners
from models.lightgbm_spec import LightGBM
from models.online_model import LearnerSpec

Fallback = float | tuple[float, ...] | Expression
"""The score without a model: a number, one for each class, or an expression of the features."""

# The name stands in topics, Redis keys, folders and Feast's project, which takes nothing else.
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, init=False)
class Pipeline:
    """Everything there is to say about one prediction, checked when it is made. docs/recipes/pipeline.md teaches it.

    - `name`: prefix of its topics and keys; lower-case letters, digits and _.
    - `event`: the event's `msgspec.Struct`; `id`, `time`: its fields with the event's id and event time. The event
      time IS the moment of decision: everything in the event is known by then. `decided` says the moment in words.
    - `features`: the model's input, in this order; `label`: what is predicted; `decide`: when the prediction is a yes
      (default `Threshold(0.5)` for a binary label, else none).
    - `online`: what learns from every label as it comes, beside the batch model: `[scaled_logistic(), bounded_tree()]`,
      or any estimator of River in `river_model(…)`; the order is that of the parts of a score (default: none).
    - `blend`: how they and the batch model become one score (default `Blend()`, which suits most).
    - `drift`: how it is watched, what may be called a false alarm, and what an alert leads to (default `Drift()`).
    - `batch`: the model; `fallback`: the score while there is none (a number, one for each class, or an expression
      of the features; default: no opinion).
    - `time_unit` ("s", "ms", "us") for a number as event time; `time_zone` for clock times without an offset.
    - `earliest`: event times before it are mistakes (default 2000-01-01); `max_ahead`: so are those further past the
      broker's clock (default "1h").
    - `allow_personal`: the personal fields that may be features all the same.

    Raises PipelineError at the first mistake, with its place, what was seen and what was expected.

    Example:
        >>> from features.windows import Entity
        >>> class Payment(msgspec.Struct):
        ...     payment_id: str
        ...     at: int
        ...     card: str
        ...     amount: float
        >>> card = Entity("card")
        >>> payments = Pipeline(
        ...     "payments", event=Payment, id="payment_id", time="at", time_unit="s",
        ...     features=["amount", card.count("1d"), card.mean("amount", "30d")],
        ...     label=Label("fraud", horizon="7d"),
        ... )
        >>> payments.feature_set.names
        ('amount', 'card_count_1d', 'card_amount_mean_30d')
    """

    name: str
    event: type[msgspec.Struct]
    feature_set: FeatureSet
    label: Label
    decide: DecisionRule | None
    batch: LightGBM
    online: tuple[LearnerSpec, ...]
    blend: Blend
    drift: Drift
    fallback: Fallback
    decided: str
    version: str

    def __init__(
        self,
        name: str,
        *,
        event: type[msgspec.Struct],
        id: str,  # noqa: A002  # the user's word for it; nothing here needs the builtin
        time: str,
        features: Sequence[Element],
        label: Label,
        decide: DecisionRule | None = None,
        batch: LightGBM | None = None,
        online: Sequence[LearnerSpec] = (),
        blend: Blend | None = None,
        drift: Drift | None = None,
        fallback: float | str | Sequence[float] | None = None,
        decided: str = "at the event time",
        time_unit: str | None = None,
        time_zone: str | None = None,
        earliest: str | date = DEFAULT_EARLIEST,
        max_ahead: str = "1h",
        allow_personal: Sequence[str] = (),
    ) -> None:
        place = f"pipeline {name}"
        if not (is_name(name, 40) and _NAME.fullmatch(name)):
            expected = "lower-case letters, digits and _, beginning with a letter, at most 40"
            raise PipelineError("pipeline", f"the name {name!r}", expected)
        if not isinstance(label, Label):
            raise PipelineError(
                f"{place}, label", f"{label!r}", "a Label such as Label('late', horizon='3d')"
            )
        if batch is not None and not isinstance(batch, LightGBM):
            raise PipelineError(f"{place}, batch", f"{batch!r}", "a model such as LightGBM(rounds=200)")
        if blend is not None and not isinstance(blend, Blend):
            raise PipelineError(f"{place}, blend", f"{blend!r}", "settings such as Blend(floor=0.2)")
        if drift is not None and not isinstance(drift, Drift):
            raise PipelineError(f"{place}, drift", f"{drift!r}", "settings such as Drift(0.5)")
        declared = Declared(
            place,
            event,
            id,
            time,
            features,
            label.name,
            time_unit=time_unit,
            time_zone=time_zone,
            earliest=earliest,
            max_ahead=max_ahead,
            allow_personal=allow_personal,
            label_kind=label.kind,
            label_values=label.values,
            label_definition=label.definition,
            watched=() if drift is None else drift.fields,
            segments=() if drift is None else drift.segments,
        )
        feature_set = compile_features(declared)
        put = object.__setattr__  # frozen: what was checked stays as it was
        put(self, "name", name)
        put(self, "event", event)
        put(self, "feature_set", feature_set)
        put(self, "label", label)
        put(self, "decide", _decision(decide, label, f"{place}, decide"))
        put(self, "batch", batch if batch is not None else LightGBM())
        put(self, "online", checked_learners(online, label, f"{place}, online"))
        put(self, "blend", blend if blend is not None else Blend())
        put(self, "drift", drift if drift is not None else Drift())
        put(self, "fallback", _fallback(fallback, label, feature_set, f"{place}, fallback"))
        put(self, "decided", decided)
        put(self, "version", self._version())

    @property
    def learns(self) -> bool:
        """Whether labels are of use while it runs: something learns from them, or windows count them."""
        return bool(self.online) or any(plan.label_inputs for plan in self.feature_set.entities)

    def _version(self) -> str:
        """12 hex digits over everything that changes an answer."""
        rule = None if self.decide is None else (type(self.decide).__name__, repr(self.decide))
        fallback = self.fallback.source if isinstance(self.fallback, Expression) else self.fallback
        feature_set = self.feature_set
        content: dict[str, object] = {
            "name": self.name,
            "features": feature_set.hash,
            "id": feature_set.id_field,
            "bounds": (feature_set.earliest_us, feature_set.max_ahead_us),
            "ranges": [
                (field.name, str(field.limits), repr(field.choices)) for field in feature_set.schema.fields
            ],
            "label": asdict(self.label),
            "decide": rule,
            "batch": repr(self.batch),
            "fallback": fallback,
        }
        if self.online:
            content["online"] = [learner.identity for learner in self.online]
            content["blend"] = repr(self.blend)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _decision(rule: object, label: Label, place: str) -> DecisionRule | None:
    if rule is None:
        return Threshold(0.5) if label.kind == "binary" else None
    if not isinstance(rule, Threshold | CostMatrix | DailyCapacity):
        raise PipelineError(place, f"{rule!r}", "Threshold(0.5), CostMatrix(…) or DailyCapacity(…)")
    if label.kind == "multiclass":
        raise PipelineError(
            place, f"{rule!r} for a multiclass label", "none: the likeliest class is the decision"
        )
    if label.kind == "regression" and isinstance(rule, CostMatrix):
        raise PipelineError(
            place, f"{rule!r} for a regression", "Threshold(…) or DailyCapacity(…): it needs a probability"
        )
    return rule


def _fallback(given: object, label: Label, feature_set: FeatureSet, place: str) -> Fallback:
    if given is None:
        return label.neutral
    if isinstance(given, str) and label.kind != "multiclass":
        kinds: dict[str, Kind] = {
            feature.name: "text" if feature.kind == "category" else "number"
            for feature in feature_set.features
        }
        return parse_expression(given, kinds, place)
    if label.kind == "multiclass":
        return _class_scores(given, label, place)
    top = 1.0 if label.kind == "binary" else float("inf")
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float)
        or not (-top < given < top or 0 <= given <= top)
    ):
        expected = "a probability from 0 to 1" if label.kind == "binary" else "a finite number"
        raise PipelineError(place, repr(given), f"{expected}, or an expression of the features")
    if label.kind == "binary" and given < 0:
        raise PipelineError(place, repr(given), "a probability from 0 to 1, or an expression of the features")
    return float(given)


def _class_scores(given: object, label: Label, place: str) -> tuple[float, ...]:
    scores = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    numbers = all(isinstance(score, int | float) and 0 <= score <= 1 for score in scores)
    if len(scores) != len(label.classes) or not numbers or abs(sum(scores) - 1) > 1e-6:
        expected = (
            f"{len(label.classes)} probabilities that add up to 1, one for each of {list(label.classes)}"
        )
        raise PipelineError(place, repr(given), expected)
    return tuple(float(score) for score in scores)
