"""`driftwood why` for a person: the scores first, then the features that they were made from, then what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from driftwood.why import Judgement, Why
from features.durations import duration_text
from features.feature_set import FeatureSet, FeatureSpec
from features.schema import MASK
from models.pipeline import Pipeline


@dataclass(frozen=True)
class Block:
    """A part of the account: lines of text, or a table under its headings."""

    title: str
    lines: Sequence[str] = ()
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def blocks(pipeline: Pipeline, found: Why, *, personal: bool = False) -> Iterator[Block]:
    """The account of one event. Personal and sensitive features are masked unless `personal`."""
    prediction = found.prediction
    yield Block("prediction", list(_head(prediction)))
    yield Block("parts", headings=("model", "score", "weight", "version"), rows=_parts(prediction))
    served = prediction["features"] if personal else pipeline.feature_set.masked(prediction["features"])
    rows = list(_features(pipeline.feature_set, served, prediction["ages_s"]))
    yield Block(
        "features as served",
        headings=("feature", "value", "unit", "window", "seconds since the entity's last event"),
        rows=rows,
    )
    yield Block("what became of it", [_told(one) for one in found.outcomes] or ["no label has come yet"])


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
    if prediction["flags"]:
        yield f"flags {', '.join(prediction['flags'])}"


def _parts(prediction: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    return [
        (name, _score(part["score"]), f"{part['weight']:.3f}", str(part["version"]))
        for name, part in prediction["parts"].items()
    ]


def _features(
    features: FeatureSet, served: Mapping[str, object], ages_s: Mapping[str, float | None]
) -> Iterator[tuple[str, ...]]:
    for spec in features.features:
        age_s = ages_s.get(spec.entity) if spec.entity else None
        window = duration_text(spec.window_us) if spec.window_us else ""
        age = "" if spec.entity is None else "never seen before" if age_s is None else f"{age_s:,.0f}"
        yield spec.name, _shown(spec, served[spec.name]), spec.unit, window, age


def _shown(spec: FeatureSpec, value: object) -> str:
    if value is None:
        return "missing"
    if value == MASK or not isinstance(value, int | float):
        return str(value)
    low = -math.inf if spec.low is None else spec.low
    high = math.inf if spec.high is None else spec.high
    return f"{value:.6g}" if low <= value <= high else f"{value:.6g} (out of range)"


def _told(one: Judgement) -> str:
    said = f"label {_word(one.label)}" if one.label is not None else "no label"
    instead = f" instead of {_word(one.replaced)}" if one.replaced is not None else ""
    text = f"{one.kind}: {said}{instead}, known at {one.known_at}"
    if not one.learnt:
        return f"{text}; nothing was learnt from it"
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in one.losses.items())
    return f"{text}; learnt, in snapshots from {one.version} on; loss before that: {losses}"


def _score(score: Any) -> str:
    if isinstance(score, Mapping):
        return ", ".join(f"{name} {_score(value)}" for name, value in score.items())
    if isinstance(score, Sequence):
        return " to ".join(_score(value) for value in score)
    return "none" if score is None else f"{score:.4f}"


def _word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
