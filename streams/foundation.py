"""What every process of a pipeline stands on: settings, topics, Redis, the publisher; reached before anything is read."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass

from features.redis_agreement import RedisAgreement
from features.redis_pressure import RedisPressure
from features.redis_snapshots import RedisSnapshots
from features.redis_store import RedisStore
from models.pipeline import Pipeline
from models.snapshot import key_of_setting, signing_key
from streams.entity_batch import stage_plans
from streams.metrics import Metrics
from streams.pressure import MeasuredPublisher, Pressure
from streams.producer import Publisher, settings_for
from streams.settings import Settings
from streams.surroundings import Surroundings
from streams.topics import EMBEDDED_CLUSTER, PipelineTopics, TopicAdmin, pipeline_topics


@dataclass(frozen=True)
class Foundation:
    """What every process stands on. `identities` has the identity of each topic by its full name.

    `snapshots` are those of the learner, for a pipeline that learns.
    """

    pipeline: Pipeline
    settings: Settings
    topics: PipelineTopics
    identities: dict[str, str]
    store: RedisStore
    snapshots: RedisSnapshots
    publisher: MeasuredPublisher
    pressure: Pressure
    surroundings: Surroundings
    metrics: Metrics


async def reached(
    pipeline: Pipeline, settings: Settings, metrics: Metrics, down: AsyncExitStack
) -> Foundation:
    """Reach every server, and fail now rather than at the first batch; `down` closes what was opened."""
    entities = [plan.entity for plan in stage_plans(pipeline.feature_set)]
    topics = pipeline_topics(pipeline.name, entities, settings, learns=pipeline.learns)
    agreement = RedisAgreement.connect(settings.redis_url, pipeline.name)
    down.push_async_callback(agreement.aclose)
    admin = TopicAdmin(settings)
    begun = await agreement.begun()  # at once whether Redis answers
    identities = await asyncio.to_thread(admin.check, topics, begun)
    version = pipeline.feature_set.hash
    surroundings = Surroundings(topics, identities, version, admin.look_at, agreement, time.monotonic)
    await surroundings.enter()
    store = RedisStore.connect(settings.redis_url, settings.repeat_ids_per_bucket)
    down.push_async_callback(store.aclose)
    snapshots = RedisSnapshots.connect(settings.redis_url)
    down.push_async_callback(snapshots.aclose)
    shared = RedisPressure.connect(settings.redis_url, pipeline.name)
    down.push_async_callback(shared.aclose)
    troubled = metrics.errors.labels("redis").inc
    pressure = Pressure(shared, uuid.uuid4().hex, settings.unread_bytes_max, troubled)
    client = settings.kafka_client(**{"message.max.bytes": settings.max_message_bytes})
    publisher = Publisher(settings_for(settings.brokers, **client), metrics.errors.labels("kafka").inc)
    down.push_async_callback(publisher.close, settings.stop_timeout.total_seconds() / 4)
    measured = MeasuredPublisher(publisher, pressure, measured_topics(topics, identities))
    return Foundation(
        *(pipeline, settings, topics, identities, store, snapshots, measured, pressure, surroundings, metrics)
    )


def measured_topics(topics: PipelineTopics, identities: dict[str, str]) -> list[str]:
    """The topics that slow the sources down when they are full.

    Those of the entities; and, on the embedded broker, those of the learn road, for there what lies 5 MiB behind is lost.
    A real Kafka keeps what waits for the join or the learner on its disk: learning never slows answers.
    """
    hops = [topic.name for topic in topics.hops.values()]
    embedded = identities[topics.events.name].startswith(EMBEDDED_CLUSTER)
    if topics.learn is None or not embedded:
        return hops
    return [*hops, topics.learn.hop_join.name, topics.learn.outcomes.name]


def shared_key(settings: Settings) -> bytes:
    """The key with which snapshots are signed: of the setting, else of a file beside the models.

    Raises:
        SettingError, SnapshotError: the key is too short, or may be read by others.
    """
    text = settings.signing_key.get_secret_value()
    return key_of_setting(text) if text else signing_key(settings.models_dir)
