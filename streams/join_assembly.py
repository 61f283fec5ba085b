"""Puts the join of a pipeline together: the sources of labels and actions, and the join stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from features.store import StateStore
from models.pipeline import Pipeline
from streams.dead_letters import DeadLetterWriter
from streams.entity_batch import stage_plans
from streams.join_frames import ACTIONS, LABELS, ReportCodec
from streams.join_stage import JoinBatches
from streams.label_frames import LabelFrameCodec
from streams.label_ingest import LabelIngest
from streams.labels import LabelDecoder
from streams.learn_road import JoinStage, LabelHop
from streams.ledger import Horizons
from streams.metrics import Metrics
from streams.outcomes import OutcomeCodec
from streams.predict_road import Publishing
from streams.served import ServedCodec
from streams.served_rows import Archive, ServedRows, label_plans
from streams.settings import Settings
from streams.topics import PipelineTopics, Topic


def _wall_ms() -> float:
    return time.time() * 1_000


@dataclass(frozen=True)
class JoinGround:
    """What the join of a pipeline stands on. `identities` has the identity of each topic by its full name.

    `wait_for_all`: nothing times out before every partition upstream was heard of; they say every second how far they are.
    """

    pipeline: Pipeline
    settings: Settings
    topics: PipelineTopics
    identities: Mapping[str, str]
    store: StateStore
    publisher: Publishing
    metrics: Metrics
    archive: Archive | None = None
    now_ms: Callable[[], float] = _wall_ms
    wait_for_all: bool = True


def label_sources(ground: JoinGround) -> dict[str, LabelIngest]:
    """The sources by their topic."""
    learning = ground.topics.learning
    feeds = {LABELS: learning.labels, ACTIONS: learning.actions}
    return {topic.name: _source(ground, feed, topic) for feed, topic in feeds.items()}


def join_stage(ground: JoinGround) -> JoinStage:
    """The join stage, which reads hop-join."""
    pipeline, learning = ground.pipeline, ground.topics.learning
    return JoinStage(
        join_batches(ground),
        OutcomeCodec(pipeline),
        learning.outcomes.name,
        [
            LabelHop(topic.name, topic.partitions, LabelFrameCodec(plan), plan.label_inputs)
            for plan in label_plans(pipeline)
            for topic in [ground.topics.hops[plan.entity]]
        ],
        ground.store,
        _letters(ground, learning.hop_join.name),
        _letters(ground, learning.labels.name),
        ground.publisher,
        ground.metrics,
    )


def join_batches(ground: JoinGround) -> JoinBatches:
    """The steps of the join stage."""
    pipeline, settings = ground.pipeline, ground.settings
    horizons = Horizons(pipeline.label.horizon_us, _us(settings.ledger_hot), settings.ledger_rows)
    return JoinBatches(
        pipeline,
        horizons,
        _us(settings.label_silence) // 1_000,
        _upstreams(ground) if ground.wait_for_all else frozenset(),
        settings.batch_max_records,
        ground.archive,
        ServedCodec(pipeline),
        ReportCodec(pipeline),
        ServedRows(pipeline),
    )


def _source(ground: JoinGround, feed: str, topic: Topic) -> LabelIngest:
    hop = ground.topics.learning.hop_join
    return LabelIngest(
        feed,
        f"{topic.name}@{ground.identities[topic.name]}",
        LabelDecoder(ground.pipeline.feature_set, ground.pipeline.label),
        ReportCodec(ground.pipeline),
        hop.name,
        hop.partitions,
        ground.pipeline.version,
        _letters(ground, topic.name),
        ground.publisher,
        ground.metrics,
        ground.now_ms,
    )


def _upstreams(ground: JoinGround) -> frozenset[str]:
    """All partitions that write into hop-join: of the last stage, of labels and of actions."""
    last = stage_plans(ground.pipeline.feature_set)[-1].entity
    learning = ground.topics.learning
    topics = (ground.topics.hops[last], learning.labels, learning.actions)
    return frozenset(
        f"{topic.name}@{ground.identities[topic.name]}/{number}"
        for topic in topics
        for number in range(topic.partitions)
    )


def _letters(ground: JoinGround, source: str) -> DeadLetterWriter:
    topic, version = ground.topics.dead_letters, ground.pipeline.version
    return DeadLetterWriter(topic.name, topic.partitions, source, version, ground.settings.max_record_bytes)


def _us(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
