"""Puts the stages of a pipeline together from what they stand on: store, models, publisher, topics, metrics."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from features.decode import Decoder
from features.errors import SettingError
from features.feast_rows import FeastRows
from features.layout import bytes_per_entity
from features.store import StateStore
from models.pipeline import Pipeline
from streams.answering import AnsweringStage
from streams.dead_letters import DeadLetterWriter
from streams.entity_batch import EntityBatches, stage_plans
from streams.frames import MAX_FRAME_BYTES, FrameCodec
from streams.hop import Hop
from streams.metrics import Metrics
from streams.predict_road import EntityStage, Ingest, Onward, Publishing
from streams.prediction import Answers
from streams.served import JoinHop, ServedCodec
from streams.serving import Serving
from streams.settings import Settings
from streams.topics import PipelineTopics
from streams.worker import Stages

# Of a frame: a row has eight columns of eight bytes, and an id.
MOST_ROWS = MAX_FRAME_BYTES // 64

INGEST = "ingest"


@dataclass(frozen=True)
class Ground:
    """What the stages of a worker stand on. `identities` has the identity of each topic by its full name."""

    pipeline: Pipeline
    settings: Settings
    topics: PipelineTopics
    identities: Mapping[str, str]
    store: StateStore
    serving: Serving
    publisher: Publishing
    metrics: Metrics


def stage_names(pipeline: Pipeline) -> list[str]:
    """The stages of a pipeline, in order: `ingest`, then the entities."""
    return [INGEST, *(plan.entity for plan in stage_plans(pipeline.feature_set))]


def assemble(ground: Ground, chosen: Collection[str] = ()) -> Stages:
    """The chosen stages, or all of them. Raises `SettingError` for the name of a stage that the pipeline lacks."""
    names = stage_names(ground.pipeline)
    for name in chosen:
        if name not in names:
            raise SettingError("--stages", name, f"stages of {ground.pipeline.name}: {', '.join(names)}")
    wanted = set(chosen or names)
    plans = stage_plans(ground.pipeline.feature_set)
    entities = {
        ground.topics.hops[plan.entity].name: _entity_stage(ground, number)
        for number, plan in enumerate(plans)
        if plan.entity in wanted
    }
    ingest = {ground.topics.events.name: _ingest(ground)} if INGEST in wanted else {}
    return Stages(ground.pipeline.name, ingest, entities, ground.identities)


def _ingest(ground: Ground) -> Ingest:
    settings = ground.settings
    events = ground.topics.events.name
    decoder = Decoder(ground.pipeline.feature_set, settings.unknown_fields, settings.max_record_bytes)
    source = f"{events}@{ground.identities[events]}"
    return Ingest(
        source, decoder, _hop(ground, 0), _dead_letters(ground, events), ground.publisher, ground.metrics
    )


def _entity_stage(ground: Ground, number: int) -> EntityStage:
    plans = stage_plans(ground.pipeline.feature_set)
    last = number == len(plans) - 1
    onward: Onward = _answers(ground) if last else _hop(ground, number + 1)
    plan = plans[number]
    dead_letters = _dead_letters(ground, ground.topics.hops[plan.entity].name)
    batches = entity_batches(ground.pipeline, ground.settings, number)
    made = (batches, onward, ground.store, dead_letters, ground.publisher, ground.metrics, last)
    learn = ground.topics.learn
    if last and learn is not None:
        return AnsweringStage(*made, learn.hop_join, lambda: time.time() * 1_000)
    return EntityStage(*made)


def entity_batches(pipeline: Pipeline, settings: Settings, number: int) -> EntityBatches:
    """The steps of the stage of this number (0 = the first entity's)."""
    plan, name = stage_plans(pipeline.feature_set)[number], pipeline.name
    return EntityBatches(
        plan,
        FrameCodec(pipeline.feature_set, number),
        FeastRows(name, f"{name}_{plan.entity}", plan),
        first=number == 0,
        repeat_horizon_us=int(settings.repeat_horizon.total_seconds() * 1_000_000),
        capacity=hot_entities(pipeline, settings),
        expire_s=plan.longest_us // 1_000_000 + int(settings.events_retention.total_seconds()),
        most_rows=settings.batch_max_records,
    )


def hot_entities(pipeline: Pipeline, settings: Settings) -> int:
    """How many entities of each kind a worker keeps in memory for one partition.

    Not fewer than a frame has rows, whatever their bytes: one frame of so many entities could else not be worked on.
    """
    entity_bytes = sum(bytes_per_entity(plan) for plan in pipeline.feature_set.entities)
    fit = settings.hot_memory // max(settings.partitions * entity_bytes, 1)
    return min(settings.hot_entities, max(fit, MOST_ROWS))


def hop_to(pipeline: Pipeline, topics: PipelineTopics, number: int) -> Hop:
    """The way to the stage of this number (0 = the first entity's)."""
    plan = stage_plans(pipeline.feature_set)[number]
    topic = topics.hops[plan.entity]
    return Hop(topic.name, topic.partitions, FrameCodec(pipeline.feature_set, number), plan, pipeline.version)


def _hop(ground: Ground, number: int) -> Hop:
    return hop_to(ground.pipeline, ground.topics, number)


def _answers(ground: Ground) -> Answers:
    pipeline, topics = ground.pipeline, ground.topics
    learn = topics.learn
    join = None if learn is None else JoinHop(learn.hop_join, ServedCodec(pipeline), pipeline.version)
    return Answers(pipeline, ground.serving, topics.predictions, topics.events.name, join)


def dead_letter_writer(
    pipeline: Pipeline, settings: Settings, topics: PipelineTopics, source: str
) -> DeadLetterWriter:
    """Makes the dead letters of the topic `source`."""
    topic = topics.dead_letters
    return DeadLetterWriter(topic.name, topic.partitions, source, pipeline.version, settings.max_record_bytes)


def _dead_letters(ground: Ground, source: str) -> DeadLetterWriter:
    return dead_letter_writer(ground.pipeline, ground.settings, ground.topics, source)
