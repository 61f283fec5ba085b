"""A rebuild of a pipeline's state on the servers that the settings name: nobody works meanwhile, and what was committed counts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from driftwood import standing
from driftwood.pipelines import topics_of
from features.errors import OperatorError
from features.redis_store import RedisStore
from models.pipeline import Pipeline
from offline.prediction_archive import archive_of
from offline.rebuild import Rebuild, Rebuilt, Told
from streams.batch import Partition
from streams.settings import Settings
from streams.topic_log import TopicLog
from streams.topics import PipelineTopics, Topic, TopicAdmin, learn_group, predict_group

# Between two looks at whether the workers have left.
LOOK_EVERY_S = 0.5

_quiet = logging.getLogger("driftwood.kafka.rebuild")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class WorkersActiveError(OperatorError):
    """Workers are members of the group while the state is to be rebuilt."""


def rebuild(pipeline: Pipeline, settings: Settings, told: Told, *, discard: bool = False) -> Rebuilt:
    """Rebuild the state of a pipeline from its hop topics and `hop-join` (`offline.rebuild.Rebuild`).

    A worker that was killed is a member of its group for up to `session_timeout`, which is waited for.

    Raises:
        WorkersActiveError: there are workers after that. The embedded broker cannot say so; there a worker ends the rebuild.
        OperatorError: as the rebuild, or a server does not answer.
    """
    topics = topics_of(pipeline, settings)
    identities = TopicAdmin(settings).check(topics)
    config: dict[str, Any] = {**settings.kafka_client(), "error_cb": lambda error: None}
    client = AdminClient(config, logger=_quiet)
    patience_s = settings.session_timeout.total_seconds() + 5.0
    committed: dict[Partition, int] = {}
    for group, read in groups(pipeline.name, topics).items():
        wait_until_alone(partial(members, client, group), group, patience_s, told)
        committed |= standing.committed_offsets(client, group, read, identities)
    archive = archive_of(pipeline, settings) if topics.learn else None

    async def run() -> Rebuilt:
        store = RedisStore.connect(settings.redis_url, settings.repeat_ids_per_bucket)
        try:
            logs = TopicLog(settings)
            work = Rebuild(pipeline, settings, topics, identities, store, logs, committed, told, archive)
            return await work.run(discard=discard)
        finally:
            await store.aclose()

    return asyncio.run(run())


def groups(pipeline: str, topics: PipelineTopics) -> dict[str, tuple[Topic, ...]]:
    """Who works on the topics that state is rebuilt from: groups, and what they read of them."""
    found: dict[str, tuple[Topic, ...]] = {predict_group(pipeline): tuple(topics.hops.values())}
    if topics.learn is not None:
        found[learn_group(pipeline)] = (topics.learn.hop_join,)
    return found


def wait_until_alone(
    count_members: Callable[[], int],
    group: str,
    patience_s: float,
    told: Told,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until a group has no members. Raises `WorkersActiveError` when it still has some after `patience_s`."""
    deadline = clock() + patience_s
    while count := count_members():
        if clock() > deadline:
            raise WorkersActiveError(
                f"{count} workers are in the group {group}: stop them first, they would go on from a state that is half "
                "rebuilt (one that was killed leaves after session_timeout)"
            )
        told(f"waiting for {count} workers to leave", 0.0)
        sleep(LOOK_EVERY_S)


def members(client: AdminClient, group: str) -> int:
    """How many members a consumer group has; 0 where the broker (the embedded one) cannot say."""
    try:
        return standing.members(client, group) or 0
    except KafkaException as error:
        raise OperatorError(
            f"the broker does not say who works in the group {group}: {error.args[0].str()}"
        ) from error
