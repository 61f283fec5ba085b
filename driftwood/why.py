"""Why one event got its score: the prediction as it was served, what became of it, and what was learnt from that.

Found in the topics themselves, by reading them once: so far back as the broker keeps them, and with nothing in between
that could say something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.errors import DeveloperError
from models.losses import row_losses
from models.matured import Matured
from models.outcomes import LEARNT
from models.pipeline import Pipeline
from streams.headers import FRAME, header
from streams.outcomes import OutcomeCodec
from streams.prediction import utc_texts
from streams.producer import partition_of
from streams.topic_log import TopicLog
from streams.topics import PipelineTopics


@dataclass(frozen=True)
class Judgement:
    """One outcome of the event. `losses`: of the served score and of each part, before anything was learnt from it.

    `version` is the offset of the outcome: snapshots from there on have it.
    """

    kind: str
    label: object
    replaced: object
    known_at: str
    version: int
    losses: Mapping[str, float]
    learnt: bool


@dataclass(frozen=True)
class Why:
    """`prediction` as it stands in its topic; `outcomes` in their order, none while no label has come."""

    prediction: Mapping[str, Any]
    outcomes: tuple[Judgement, ...]


def why(pipeline: Pipeline, topics: PipelineTopics, log: TopicLog, event_id: str) -> Why:
    """Look an event up. Raises DeveloperError where no prediction of that id is in the log."""
    prediction = _prediction(topics, log, event_id)
    if prediction is None:
        raise DeveloperError(
            f"no prediction of event {event_id!r} is in {topics.predictions.name}: it was never answered (driftwood tail "
            "dead-letters), or it is older than what the topic keeps"
        )
    if topics.learn is None:
        return Why(prediction, ())
    codec = OutcomeCodec(pipeline)
    return Why(prediction, tuple(_judgements(pipeline, codec, topics, log, event_id)))


def _prediction(topics: PipelineTopics, log: TopicLog, event_id: str) -> Mapping[str, Any] | None:
    key = event_id.encode()
    place = (topics.predictions.name, partition_of(key, topics.predictions.partitions))
    for records in log.read(place, *log.bounds(place)):
        for record in records:
            if record.key == key and record.value is not None:
                found: dict[str, Any] = json.loads(record.value)
                return found
    return None


def _judgements(
    pipeline: Pipeline, codec: OutcomeCodec, topics: PipelineTopics, log: TopicLog, event_id: str
) -> Iterator[Judgement]:
    place = (topics.learning.outcomes.name, 0)
    wanted, seen = event_id.encode(), set()
    for records in log.read(place, *log.bounds(place)):
        for record in records:
            # Nearly every record is another event's: looking for the id in its bytes is a hundred times cheaper.
            if wanted not in (record.value or b"") or header(record, FRAME) != codec.version:
                continue
            upstream, frame = codec.read(record)
            for row in (row for row, found in enumerate(frame.matured.event_ids) if found == event_id):
                position = (upstream, int(frame.upstream_offsets[row]), int(frame.upstream_rows[row]))
                if position not in seen:  # a copy, written again after a crash
                    seen.add(position)
                    yield _judgement(pipeline, frame.matured, row, record.offset)


def _judgement(pipeline: Pipeline, matured: Matured, row: int, version: int) -> Judgement:
    code, replaced = float(matured.codes[row]), float(matured.replaced[row])
    kind = matured.kinds[row]
    learnt = kind in LEARNT and not np.isnan(code)
    scores = {"served": matured.score, **matured.parts} if learnt else {}
    losses = {
        name: float(row_losses(pipeline.label.kind, score[[row]], matured.codes[[row]])[0])
        for name, score in scores.items()
    }
    return Judgement(
        kind,
        _value(pipeline, code),
        _value(pipeline, replaced),
        utc_texts(matured.known_us[[row]])[0],
        version,
        {name: loss for name, loss in losses.items() if not np.isnan(loss)},
        learnt,
    )


def _value(pipeline: Pipeline, code: float) -> object:
    """The label as people write it; None: there is none."""
    if np.isnan(code):
        return None
    if pipeline.label.kind == "regression":
        return code
    return pipeline.label.classes[int(code)] if pipeline.label.classes else int(code)
