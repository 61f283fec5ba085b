"""A prediction as consumers read it: one JSON document an event, with everything that it was made from.

Nothing in it depends on when or where it was made, so a prediction that is made again after a crash is the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from features.feature_set import FeatureMatrix
from features.plan import Floats, Ints
from models.pipeline import Pipeline
from models.scoring import Scored, Scorer, UncertaintyOf
from streams import flags
from streams.frames import Frame
from streams.headers import PIPELINE_VERSION, POSITION
from streams.holdout import held_out
from streams.producer import Outgoing, partition_of
from streams.served import JoinHop, Served
from streams.serving import InService, Serving
from streams.topics import Topic
from streams.versions import NO_SNAPSHOT


class Part(msgspec.Struct):
    """One model's share of the score: `weight` is its weight in the blend, `version` the model's or its snapshot's.

    `score` is null where the model can say nothing of an event.
    """

    score: float | dict[str, float | None] | None
    weight: float
    version: str


class Prediction(msgspec.Struct):
    """The answer to one event.

    `score` is a probability (binary), a value (regression) or a probability by class (multiclass); `decision` is what
    the pipeline's decision rule says of it at `threshold`. `features` are the model's inputs as served, null where
    missing. `ages_s` gives, by entity, the seconds since the entity's newest earlier event, null when there was none.
    `arrived_ms` is the broker's timestamp of the event. `position` names the event's record: copies of a prediction
    have the same position. The last four stand on predictions of a pipeline that learns, and on no others.
    """

    event_id: str
    event_time: str
    score: float | dict[str, float]
    decision: bool | int | str | None
    threshold: float | None
    threshold_version: str | None
    parts: dict[str, Part]
    pipeline_version: str
    features: dict[str, float | str | None]
    ages_s: dict[str, float | None]
    flags: list[str]
    arrived_ms: int
    position: str
    mode: str | UnsetType = UNSET
    snapshot: int | UnsetType | None = UNSET
    uncertainty: list[float] | UnsetType | None = UNSET
    uncertainty_of: UncertaintyOf | UnsetType | None = UNSET


def position_text(events_topic: str, digest: int, partition: int, offset: int) -> str:
    """The position of an event, which is that of its prediction. `digest` is of the topic's identity.

    Example:
        >>> position_text("flights.events", 0x9C5D03B1, 0, 51200)
        'flights.events@9c5d03b1/0/51200'
    """
    return f"{events_topic}@{digest:08x}/{partition}/{offset}"


class Answers:
    """Step 5: rows with all their features become predictions on `topic`, scored by the models that `serving` holds.

    `join` None: the pipeline does not learn. Otherwise what was served goes there as well.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        serving: Serving,
        topic: Topic,
        events_topic: str,
        join: JoinHop | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._serving = serving
        self._topic, self._partitions = topic.name, topic.partitions
        self._events_topic = events_topic
        self._join = join
        plans = pipeline.feature_set.entities
        self._features = _record("Features", pipeline.feature_set.names)
        self._ages = _record("Ages", [plan.entity for plan in plans])
        self._longest_s = np.array([plan.longest_us / 1e6 for plan in plans])
        self._encode_lines = msgspec.json.Encoder().encode_lines
        self._constant_headers = [
            (PIPELINE_VERSION, pipeline.version.encode()),
            ("ce_specversion", b"1.0"),
            ("ce_type", b"driftwood.prediction.v1"),
            ("ce_source", topic.name.encode()),
        ]

    def versions(self) -> str:
        """The versions in force: of the pipeline, the model, the snapshot and the serve mode."""
        return self._serving.versions()

    async def ready(self, versions: str) -> None:
        """Have what answers under these versions at hand."""
        await self._serving.ready(versions)

    def messages(self, frame: Frame, upstream: str, versions: str) -> list[Outgoing]:
        """One prediction for each row, in order, and what was served for the join stage."""
        if len(frame) == 0:
            return []
        answering = self._serving.pinned(versions)
        matrix = self._pipeline.feature_set.assemble(frame.rows, frame.windows)
        scored = answering.scored(matrix)
        frame = replace(frame, flags=self._flags(frame, answering, matrix))
        predictions = self._predictions(frame, answering, matrix, scored)
        values = self._encode_lines(predictions).split(b"\n")  # the last line ends with one as well
        messages = list(map(self._message, predictions, values[:-1]))
        if self._join is not None:
            served = (scored.score, scored.parts, answering.versions, answering.champion.threshold)
            messages += self._join.messages(Served(frame, *served, scored.weights), upstream)
        return messages

    def _predictions(
        self, frame: Frame, answering: InService, matrix: FeatureMatrix, scored: Scored
    ) -> list[Prediction]:
        # By columns, and `map` over a C constructor: half the CPU of a loop that names the fields.
        champion = answering.champion
        decided = not math.isnan(champion.threshold)
        values = score_values(self._pipeline, scored.score)
        return list(
            map(
                Prediction,
                frame.rows.event_ids.to_pylist(),
                utc_texts(frame.rows.times_us),
                values,
                decisions(self._pipeline, champion, scored.score),
                repeat(champion.threshold),  # NaN is written as null
                repeat(champion.version if decided else None),
                self._parts(answering, scored, values),
                repeat(self._pipeline.version),
                map(self._features, *served_columns(matrix)),
                map(self._ages, *frame.ages_s.T.tolist()) if frame.ages_s.shape[1] else repeat({}),
                flags.flag_lists(frame.flags),
                frame.arrived_ms.tolist(),
                self._positions(frame),
                *self._of_learning(answering, scored),
            )
        )

    def _flags(self, frame: Frame, answering: InService, matrix: FeatureMatrix) -> Ints:
        bits = frame.flags | score_flags(answering.champion, matrix)
        bits |= flags.missing(matrix) | flags.stale(frame.ages_s, self._longest_s)
        if answering.lost:
            bits |= flags.SNAPSHOT_LOST
        if (share := self._pipeline.label.holdout) > 0:
            bits |= np.where(held_out(frame.rows.event_ids.to_pylist(), share), flags.HOLDOUT, 0)
        return bits

    def _parts(self, answering: InService, scored: Scored, values: Sequence[Any]) -> Iterator[msgspec.Struct]:
        champion = answering.champion
        columns = []
        for name, scores in scored.parts.items():
            own = values if scores is scored.score else score_values(self._pipeline, scores)
            version = champion.version if name == champion.name else str(answering.snapshot)
            columns.append(map(Part, own, repeat(scored.weights[name]), repeat(version)))
        return map(_parts_record(tuple(scored.parts)), *columns)

    def _of_learning(self, answering: InService, scored: Scored) -> Sequence[Iterable[Any]]:
        """The fields of a pipeline that learns."""
        if self._join is None:
            return ()
        snapshot = None if answering.snapshot == NO_SNAPSHOT else answering.snapshot
        either = (repeat(answering.mode), repeat(snapshot))
        if scored.low is None or scored.high is None:
            return (*either, repeat(None), repeat(None))
        return (*either, np.column_stack((scored.low, scored.high)).tolist(), repeat(scored.uncertainty_of))

    def _positions(self, frame: Frame) -> Iterator[str]:
        places = (frame.origin_topics, frame.origin_partitions, frame.origin_offsets)
        return map(position_text, repeat(self._events_topic), *(column.tolist() for column in places))

    def _message(self, prediction: Prediction, value: bytes) -> Outgoing:
        key, position = prediction.event_id.encode(), prediction.position.encode()
        headers = [
            (POSITION, position),
            *self._constant_headers,
            ("ce_id", position),
            ("ce_time", prediction.event_time.encode()),
        ]
        return Outgoing(self._topic, partition_of(key, self._partitions), key, value, headers)


@cache  # of the few sets of models that answer in a worker's life
def _parts_record(names: tuple[str, ...]) -> type[msgspec.Struct]:
    return _record("Parts", names)


def _record(name: str, fields: Sequence[str]) -> type[msgspec.Struct]:
    """A struct with these fields, whatever their names: msgspec writes one in half the time of a dictionary."""
    places = [f"f{number}" for number in range(len(fields))]
    rename = dict(zip(places, fields, strict=True))
    return msgspec.defstruct(name, [(place, Any) for place in places], rename=rename, gc=False)


def utc_texts(times_us: np.ndarray[Any, np.dtype[np.int64]]) -> list[str]:
    """Times as RFC 3339 in UTC with microseconds.

    Example:
        >>> utc_texts(np.array([1364811300000000]))
        ['2013-04-01T10:15:00.000000Z']
    """
    texts: list[str] = np.datetime_as_string(
        times_us.astype("datetime64[us]"), unit="us", timezone="UTC"
    ).tolist()
    return texts


def score_values(pipeline: Pipeline, scores: Floats) -> Sequence[Any]:
    """Scores as they stand in the JSON: numbers, or for several classes a probability by class."""
    if scores.ndim == 1:
        return list(scores.tolist())
    classes = [str(name) for name in pipeline.label.classes]
    return [dict(zip(classes, row, strict=True)) for row in scores.tolist()]


def score_flags(scorer: Scorer, matrix: FeatureMatrix) -> Ints:
    """int64[n]: the flags that the model has to raise."""
    always = flags.FALLBACK if "fallback" in scorer.flags else 0
    return np.where(scorer.unseen_categories(matrix), flags.UNSEEN_CATEGORY, 0) | always


def decisions(pipeline: Pipeline, scorer: Scorer, scores: Floats) -> Sequence[Any]:
    """The decision rule's answer: true or false at the threshold, the most probable class, or None without a rule."""
    if scores.ndim == 1 and math.isnan(scorer.threshold):
        return [None] * len(scores)
    if scores.ndim == 1:
        return list((scores >= scorer.threshold).tolist())
    return [pipeline.label.classes[best] for best in scores.argmax(axis=1).tolist()]


def served_columns(matrix: FeatureMatrix) -> list[Sequence[Any]]:
    """The model's inputs by feature; a missing number stays NaN, which JSON writes as null."""
    columns: list[Sequence[Any]] = matrix.values.T.tolist()
    for index, texts in matrix.categories.items():
        columns[index] = texts.to_pylist()
    return columns
