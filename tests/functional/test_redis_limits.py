"""Redis is full, evicts, or lets keys go: what is refused, what is said, and how long state stays."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from driftwood.doctor import redis_server
from driftwood.embedded import Runtime
from driftwood.findings import ACT
from features.errors import OperatorError
from features.redis_store import RedisStore
from streams.settings import Settings
from streams.units import parse_duration
from tests.card_payments import Payments, encoded, payments, payments_pipeline
from tests.in_process import Log, Road
from tests.own_redis import OwnRedis
from tests.payments_on_kafka import assert_nothing_lost_or_double, payments_place
from tests.supervisor import last_words
from tests.worker_process import Start


def test_a_worker_whose_redis_is_full_says_so_and_nothing_is_lost_when_it_has_room_again(
    tmp_path: Path, embedded: Runtime, own: OwnRedis, start: Start
) -> None:
    place = payments_place(tmp_path, embedded.broker_address, own.url)
    events = payments(900)
    first = place.worker(start).started()
    with place.answers() as answers:
        place.send(events[:300])
        answers.wait_for(100)
        own.client.config_set("maxmemory", 1)
        place.send(events[300:600])
        assert first.ended() == OperatorError.exit_code
        assert "refused: " in last_words(first) and "Raise its maxmemory" in last_words(first)
        again = place.worker(start)
        assert again.ended() == OperatorError.exit_code
        assert "Raise its maxmemory" in last_words(again)
        own.client.config_set("maxmemory", 0)
        second = place.worker(start).started()
        place.send(events[600:])
        answers.wait_for(len(events))
    assert second.stop() == 0
    assert_nothing_lost_or_double(place, events)


def test_a_redis_that_would_evict_or_keeps_no_append_only_file_is_found_by_the_doctor(own: OwnRedis) -> None:
    settings = Settings(redis_url=own.url)

    def found() -> set[str]:
        return {finding.heading for finding in redis_server(settings, _now(own)) if finding.heading}

    assert found() == set()
    own.client.config_set("maxmemory", 1 << 30)
    own.client.config_set("maxmemory-policy", "volatile-lru")  # every state key has a time to live
    own.client.config_set("appendonly", "no")
    assert found() == {"redis-evicts", "redis-without-aof"}
    levels = {finding.heading: finding.level for finding in redis_server(settings, _now(own))}
    assert levels["redis-evicts"] == ACT


def _now(own: OwnRedis) -> Any:
    def now() -> float:
        seconds, micros = own.client.time()
        return float(seconds) + float(micros) / 1e6

    return now


@pytest.mark.parametrize("retention", ["7d", "45d"])
def test_state_and_feast_rows_outlive_the_longest_window_and_the_retention_of_events(
    tmp_path: Path, redis_url: str, retention: str
) -> None:
    made = payments_pipeline(tmp_path)
    client: Any = redis.Redis.from_url(redis_url)
    began = time.monotonic()
    log = work(made, redis_url, retention)
    check_lives(made, client, retention, began)
    for key in client.scan_iter():
        if client.ttl(key) > 0:
            client.expire(key, 60)  # nearly all of its time has passed, and there is another event
    work(made, redis_url, retention, log)
    check_lives(made, client, retention, began)


def work(made: Payments, redis_url: str, retention: str, log: Log | None = None) -> Log:
    """The same entities again, under other event ids when it goes on with a log."""

    async def all_of_it() -> Log:
        store = RedisStore.connect(redis_url)
        road = Road(made.pipeline, store, Path("no-models"), 2, log=log, events_retention=retention)
        road.send(encoded(event) for event in payments(80, first=0 if log is None else 1_000))
        await road.drain(30)
        await store.aclose()
        return road.log

    return asyncio.run(all_of_it())


def check_lives(made: Payments, client: Any, retention: str, began: float) -> None:
    passed_s = time.monotonic() - began + 1
    kept_s = parse_duration(retention).total_seconds()
    found = 0
    for plan in made.feature_set.entities:
        least_s = plan.longest_us / 1e6 + kept_s - passed_s
        states = list(client.scan_iter(f"driftwood:{made.name}:state:{plan.entity}:*"))
        rows = [
            key
            for key in client.scan_iter()
            if key.endswith(made.name.encode()) and plan.entity.encode() in key
        ]
        assert len(states) > 10 and len(rows) == len(states)
        assert all(client.ttl(key) >= least_s for key in (*states, *rows))
        found += len(states)
    positions = list(client.scan_iter(f"driftwood:{made.name}:partition:*"))
    assert found and len(positions) == 4 and {client.ttl(key) for key in positions} == {-1}  # for ever
