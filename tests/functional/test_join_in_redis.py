"""The join stage with its ledger in a real Redis: what a restart brings back, and what crashes leave behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from features.redis_store import RedisStore
from features.store import Refused
from offline.prediction_archive import PredictionArchive
from streams import settling
from streams.join_frames import Idle
from streams.ledger import Horizons
from tests.in_process import CrashedError, CrashingLog, CrashingStore
from tests.join_oracle import Oracle
from tests.join_world import (
    HORIZON,
    MINUTE,
    label_rows_in,
    outcomes_in,
    partition_of_join,
    random_topic,
    returns,
    stage_of,
    state_of,
)

PIPELINE = returns()
PASS_ROWS = 3


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore.connect(url)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.mark.crash
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_crashes_at_every_step_with_the_ledger_in_redis_settle_everything_once(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(settling, "PASS_ROWS", PASS_ROWS)
    source = random.Random(seed)
    topic = random_topic(PIPELINE, source, 250)
    horizons = Horizons(HORIZON, 10 * MINUTE, 20)
    oracle = Oracle(PIPELINE.label, horizons, frozenset(), archived=True, pass_rows=PASS_ROWS)
    for offset, written in enumerate(topic.written):
        oracle.take(offset, written)
    archive = PredictionArchive(tmp_path, PIPELINE.name)
    crashes = 0

    async def work() -> None:
        nonlocal crashes
        async with opened(redis_url) as real:
            store, publisher = CrashingStore(real), CrashingLog(topic.log)
            stage = stage_of(PIPELINE, store, publisher, horizons, archive)
            partition = partition_of_join(PIPELINE)
            memory = await stage.open(partition)
            while memory.applied + 1 < len(topic.records):
                publisher.armed, publisher.keep = source.random() < 0.15, source.randint(0, 2)
                store.armed = source.choice(["claimed", "before", "after"]) if source.random() < 0.15 else ""
                start = memory.applied + 1
                try:
                    done = await stage.process(memory, topic.records[start : start + source.randint(1, 6)])
                    assert not isinstance(done, Refused)
                except CrashedError:
                    crashes += 1
                    memory = await stage.open(partition)
            store.armed = ""
            assert state_of(await stage.open(partition)) == state_of(memory)

    asyncio.run(work())
    assert crashes > 5
    assert outcomes_in(PIPELINE, topic.log) == oracle.outcomes
    assert label_rows_in(PIPELINE, topic.log) == oracle.label_rows


def test_when_every_horizon_has_ended_redis_keeps_nothing_but_how_far_the_feeds_are(redis_url: str) -> None:
    source = random.Random(4)
    topic = random_topic(PIPELINE, source, 60)
    horizons = Horizons(HORIZON, HORIZON, 1_000)

    async def work() -> int:
        async with opened(redis_url) as store:
            stage = stage_of(PIPELINE, store, topic.log, horizons)
            memory = await stage.open(partition_of_join(PIPELINE))
            while memory.applied + 1 < len(topic.records):
                await stage.process(memory, topic.records[memory.applied + 1 :])
            held = memory.state.entities
            memory.feeds.clock.due_us = memory.feeds.clock.newest_label_us + 10 * HORIZON
            for _ in range(2):  # settled, then forgotten
                topic.idle("actions/0", Idle("actions", -(2**62), 1, idle=True))
            memory.feeds.clock.stalled, memory.feeds.silence_ms = False, 10**12
            while memory.applied + 1 < len(topic.records):
                await stage.process(memory, topic.records[memory.applied + 1 :])
            assert memory.state.entities == 0
            return held

    assert asyncio.run(work()) > 0
    with redis.Redis.from_url(redis_url) as client:
        keys = [key.decode() for key in client.keys("driftwood:orders:state:join:*")]
        assert keys == ["driftwood:orders:state:join:0/buckets"]
        fields = client.hgetall(keys[0])
        assert len(fields) <= 1 + 6  # the clock, and the feeds
