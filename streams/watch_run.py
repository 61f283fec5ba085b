"""The monitor: the process that watches for drift. It reads what the roads leave behind, and nothing waits for it.

    hop-join p      ─> slices  ─┐
    dead-letters p  ─> dead    ─┼─> drift-slices (one partition) ─> alerts ─> drift-alerts, control
    outcomes        ─> labels  ─┘

One consumer group, `<pipeline>.monitor`: several monitors share the partitions of hop-join and dead-letters; outcomes and
drift-slices have one partition each, so one monitor counts labels and one raises alerts, and others stand by.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from features.errors import DriftwoodError
from features.redis_watch import RedisWatch
from features.store import PartitionId
from features.watch_store import WatchStore
from models.drift.columns import watched_columns
from models.drift.label_counting import LabelCounting
from models.drift.reference import Reference
from models.drift.watch import DriftWatch
from models.model_store import ModelStore
from models.pipeline import Pipeline
from streams.alert_delivery import AlertDelivery
from streams.batch import Partition, Record
from streams.entity_batch import stage_plans
from streams.figures import watch_figures
from streams.foundation import Foundation
from streams.metrics import Metrics, Now
from streams.outcomes import OutcomeCodec
from streams.predict_road import Publishing
from streams.producer import Outgoing
from streams.run import Crew, Started, run_process
from streams.settings import Settings
from streams.stage import Stage
from streams.topic_log import TopicLog
from streams.topics import PipelineTopics, monitor_group
from streams.watch_alerts import AlertWatch, Placed
from streams.watch_dead import DeadWatch
from streams.watch_frames import SliceFrames
from streams.watch_labels import LabelWatch
from streams.watch_slices import SliceWatch, upstream_of
from streams.watch_stage import Watching, WatchStage
from streams.worker import Stages, Worker

log = logging.getLogger(__name__)

SLICES, LABELS, DEAD, ALERTS = "watch-slices", "watch-labels", "watch-dead", "watch-alerts"
"""The stages' names in metrics."""


class StoredReferences(Protocol):
    """Where references stand beside the models (`models/model_store.py`)."""

    def reference(self, pipeline: str, version: str) -> bytes | None:
        """That of a version, encoded; None where there is none."""


class TopicLogs(Protocol):
    """Reads partitions outside any group (`streams/topic_log.py`), and raises as that does."""

    def bounds(self, place: Partition) -> tuple[int, int]:
        """The offset of the oldest record, and the one that the next record will have."""

    def read(self, place: Partition, first: int, end: int) -> Iterable[Sequence[Record]]:
        """The records from `first` to before `end`."""


@dataclass(frozen=True)
class WatchGround:
    """What the stages of the monitor stand on. `identities` has the identity of each topic by its full name."""

    pipeline: Pipeline
    topics: PipelineTopics
    identities: Mapping[str, str]
    store: WatchStore
    publisher: Publishing
    metrics: Metrics
    models: StoredReferences
    logs: TopicLogs


def run_monitor(
    pipeline: Pipeline, settings: Settings, started: Callable[[Started], None] = lambda _: None
) -> None:
    """Watch a pipeline until SIGTERM or SIGINT, then stop gracefully; as `streams.run.run_worker`.

    Raises `DeveloperError` for a pipeline that does not learn: nothing is on hop-join.
    """
    run_process(pipeline, settings, monitoring, started)


async def monitoring(ground: Foundation, down: AsyncExitStack) -> Crew:
    """The crew of a monitor."""
    store = RedisWatch.connect(ground.settings.redis_url)
    down.push_async_callback(store.aclose)
    below = WatchGround(
        *(ground.pipeline, ground.topics, ground.identities, store, ground.publisher, ground.metrics),
        ModelStore(ground.settings.models_dir),
        TopicLog(ground.settings),
    )
    stages = watch_stages(below)

    def figures(worker: Worker) -> Sequence[Now]:
        return watch_figures(worker.memories)

    return Crew(monitor_group(ground.pipeline.name), stages, (), figures, lambda: "")


def watch_stages(ground: WatchGround) -> Stages:
    """The stages of the monitor, by their topic."""
    learning = ground.topics.learning
    stages: dict[str, Stage] = {
        learning.hop_join.name: slice_stage(ground),
        learning.outcomes.name: label_stage(ground),
        ground.topics.dead_letters.name: dead_stage(ground),
        learning.drift_slices.name: alert_stage(ground),
    }
    return Stages(ground.pipeline.name, {}, stages, ground.identities)


def slice_stage(ground: WatchGround) -> WatchStage[Outgoing]:
    """Counts what was served."""
    frames, expected = _frames(ground), _served_from(ground)

    def make(partition: PartitionId, state: bytes | None) -> SliceWatch:
        return SliceWatch(ground.pipeline, frames, upstream_of(partition), expected, state)

    return _counting(ground, SLICES, make)


def label_stage(ground: WatchGround) -> WatchStage[Outgoing]:
    """Counts labels, and watches what they say about what was served."""
    frames, codec = _frames(ground), OutcomeCodec(ground.pipeline)
    counting = partial(LabelCounting, ground.pipeline)

    def make(partition: PartitionId, state: bytes | None) -> LabelWatch:
        return LabelWatch(codec, frames, upstream_of(partition), counting, state)

    return _counting(ground, LABELS, make)


def dead_stage(ground: WatchGround) -> WatchStage[Outgoing]:
    """Counts dead letters."""
    frames, events = _frames(ground), ground.topics.events.name

    def make(partition: PartitionId, state: bytes | None) -> DeadWatch:
        return DeadWatch(ground.pipeline, frames, upstream_of(partition), events, state)

    return _counting(ground, DEAD, make)


def alert_stage(ground: WatchGround) -> WatchStage[Placed]:
    """Raises alerts."""
    frames, learning = _frames(ground), ground.topics.learning
    watch = partial(
        DriftWatch,
        ground.pipeline,
        watched_columns(ground.pipeline),
        references(ground.pipeline, ground.models),
    )
    delivery = AlertDelivery(
        ground.pipeline, learning, ground.publisher, partial(_all_of, ground.logs), ground.metrics
    )

    def make(partition: PartitionId, state: bytes | None) -> AlertWatch:
        return AlertWatch(ground.pipeline, frames, learning.hop_join.partitions, watch, state)

    async def take_over() -> None:
        await asyncio.to_thread(delivery.look)

    return WatchStage(
        ALERTS, make, delivery.deliver, ground.store, ground.metrics, _oldest(ground), take_over=take_over
    )


def references(pipeline: Pipeline, models: StoredReferences) -> Callable[[str], Reference | None]:
    """What a champion was trained on, by its version; None, and a line in the log, where nobody knows."""
    columns = watched_columns(pipeline)

    def reference(version: str) -> Reference | None:
        try:
            data = models.reference(pipeline.name, version)
            found = None if data is None else Reference.decoded(data, columns)
        except (DriftwoodError, ValueError) as error:
            log.warning("the reference of model %s cannot be used: %s", version, error)
            return None
        if found is None:
            log.warning("model %s has no reference (driftwood train makes one)", version)
        return found

    return reference


def _counting(
    ground: WatchGround, name: str, make: Callable[[PartitionId, bytes | None], Watching[Outgoing]]
) -> WatchStage[Outgoing]:
    publish = ground.publisher.deliver
    return WatchStage(name, make, publish, ground.store, ground.metrics, _oldest(ground))


def _frames(ground: WatchGround) -> SliceFrames:
    return SliceFrames(ground.pipeline, ground.topics.learning.drift_slices.name)


def _oldest(ground: WatchGround) -> Callable[[Partition], int]:
    return lambda place: ground.logs.bounds(place)[0]


def _served_from(ground: WatchGround) -> frozenset[str]:
    """All partitions of the last stage: time goes on when each of them was heard of."""
    topic = ground.topics.hops[stage_plans(ground.pipeline.feature_set)[-1].entity]
    name = f"{topic.name}@{ground.identities[topic.name]}"
    return frozenset(f"{name}/{number}" for number in range(topic.partitions))


def _all_of(logs: TopicLogs, place: Partition) -> Iterable[Sequence[Record]]:
    return logs.read(place, *logs.bounds(place))
