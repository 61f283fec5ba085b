"""`driftwood rebuild` on the embedded broker and a real Redis: what was lost is there again, and what is missing is said."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from driftwood.cli import main
from driftwood.embedded import EmbeddedBroker
from features.redis_store import RedisStore
from tests.card_payments import Payments, encoded, payments, payments_pipeline
from tests.in_process import Road
from tests.kafka_run import Dump, stored

PARTITIONS = 2


@dataclass(frozen=True)
class Lost:
    """A pipeline whose events were all answered. `state` is what stood in Redis."""

    payments: Payments
    arguments: list[str]
    redis: Any
    redis_url: str
    state: Dump
    patch: pytest.MonkeyPatch
    captured: Any
    address: str
    done: list[tuple[str, int, int]]

    def rebuild(self, *more: str, code: int = 0) -> tuple[str, str]:
        """What the command wrote on stdout and stderr, when it ended with `code`."""
        self.captured.readouterr()
        self.patch.setattr(sys, "argv", ["driftwood", "rebuild", *self.arguments, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.captured.readouterr()
        assert (ended.value.code or 0) == code, err
        return out, " ".join(err.split())

    def now(self) -> Dump:
        return stored(self.redis_url, self.payments.name)


@pytest.fixture
def lost(
    tmp_path: Path,
    embedded_broker: EmbeddedBroker,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Lost:
    """Work without a broker, over a real Redis; its topics are then put on the broker, and Redis is left as it is."""
    made = payments_pipeline(tmp_path)
    road = worked(made, redis_url)
    done = publish(road, embedded_broker)
    settings = {
        "brokers": embedded_broker.address,
        "redis_url": redis_url,
        "partitions": PARTITIONS,
        "session_timeout": "6s",
    }
    arguments = [
        str(made.path),
        *(part for name, value in settings.items() for part in ("--set", f"{name}={value}")),
    ]
    client: Any = redis.Redis.from_url(redis_url)
    state = stored(redis_url, made.name)
    assert len(state) > 100
    return Lost(made, arguments, client, redis_url, state, monkeypatch, capfd, embedded_broker.address, done)


def worked(made: Payments, redis_url: str) -> Road:
    async def work() -> Road:
        store = RedisStore.connect(redis_url)
        road = Road(made.pipeline, store, Path("no-models"), PARTITIONS)
        for number, event in enumerate(payments(400)):
            road.send([encoded(event)], partition=number % PARTITIONS)
        await road.drain(40)
        await store.aclose()
        return road

    return asyncio.run(work())


def publish(road: Road, broker: EmbeddedBroker) -> list[tuple[str, int, int]]:
    """The topics as they stand, and what was done of them committed."""
    producer = Producer({"bootstrap.servers": broker.address})
    for topic in road.topics:
        broker.create_topic(topic.name, topic.partitions)
        for number in range(topic.partitions):
            for record in road.log.records[topic.name, number]:
                producer.produce(topic.name, record.value, record.key, number, headers=list(record.headers))
    assert producer.flush(120.0) == 0
    done = [(*place, offset) for place, offset in road.read.items() if place[0] != road.topics.events.name]
    commit(broker.address, road.pipeline.name, done)
    return done


def commit(address: str, pipeline: str, done: list[tuple[str, int, int]], identity: str = "") -> None:
    """Commit offsets as workers do, with the identity of the topic beside them."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": f"{pipeline}.predict"})
    offsets = [TopicPartition(*one, metadata=identity) for one in done]
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()


def test_what_was_lost_is_there_again_and_what_was_done_is_told(lost: Lost) -> None:
    lost.redis.flushall()
    out, err = lost.rebuild()
    assert lost.now() == lost.state
    assert out.startswith(f"{lost.payments.name} rebuilt in ")
    assert "WARNING" not in err
    assert f"Start the workers: driftwood run {lost.payments.path}" in err


def test_json_has_the_figures_by_stage(lost: Lost) -> None:
    lost.redis.flushall()
    done = json.loads(lost.rebuild("--json")[0])
    assert (done["pipeline"], done["resumed"]) == (lost.payments.name, False)
    card, terminal = done["stages"]
    assert card["entity"] == "card" and card["rows"] == terminal["rows"] == 400
    assert card["whole"] and card["to_answer"] == card["deleted_unread"] == 0
    assert card["reaches_back_to"] is None and card["complete_from"] is None


def test_a_redis_that_is_not_empty_is_left_alone_unless_it_may_be_discarded(lost: Lost) -> None:
    _, err = lost.rebuild(code=3)
    assert f"driftwood: the store has the state of {lost.payments.name}.hop-card/0" in err
    assert "--discard throws away what is there" in err
    assert lost.now() == lost.state
    (key, *_) = lost.redis.keys(f"driftwood:{lost.payments.name}:state:card:*")
    lost.redis.delete(key)  # an entity was evicted
    lost.redis.hset(f"driftwood:{lost.payments.name}:state:card:nobody", "f", "v")
    lost.redis.set("of-somebody-else", "stays")
    lost.rebuild("--discard")
    assert lost.now() == lost.state
    assert lost.redis.get("of-somebody-else") == b"stays"


def test_an_interrupted_rebuild_goes_on_where_it_stopped(lost: Lost) -> None:
    lost.redis.flushall()
    lost.rebuild()
    topic = f"{lost.payments.name}.hop-terminal"
    key = f"driftwood:{lost.payments.name}:partition:{topic}:1"
    identity = lost.redis.hget(key, "identity").decode()
    lost.redis.hset(key, "identity", f"rebuilding {identity}")  # it had not got as far as to open this one
    done = json.loads(lost.rebuild("--json")[0])
    assert done["resumed"] and sum(stage["records"] for stage in done["stages"]) == 0
    assert lost.redis.hget(key, "identity").decode() == identity
    assert lost.now() == lost.state


def test_an_offset_that_was_committed_for_another_topic_of_that_name_proves_nothing(lost: Lost) -> None:
    lost.redis.flushall()
    commit(lost.address, lost.payments.name, lost.done, identity="another/topic")
    card, terminal = json.loads(lost.rebuild("--json")[0])["stages"]
    assert card["records"] == 0 and card["to_answer"] > 0
    assert terminal["records"] + terminal["to_answer"] > 0


def test_redis_that_is_away_is_said(lost: Lost) -> None:
    _, err = lost.rebuild("--set", "redis_url=redis://127.0.0.1:1/0", code=3)
    assert "driftwood: Redis does not answer at redis://127.0.0.1:1/0 (setting redis_url)" in err
