"""What a worker notices of its topics and of its fellows while it runs. No broker, no Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from features.errors import TopicError, UnreachableError
from features.redis_agreement import Agreed
from streams import surroundings as module
from streams.settings import Settings
from streams.surroundings import OtherWorkersError, Surroundings
from streams.topics import SeenTopic, pipeline_topics

TOPICS = pipeline_topics("shop", ["card"], Settings(partitions=4))
IDENTITIES = {topic.name: f"cluster/{topic.name}" for topic in TOPICS}
EVENTS = "shop.events"


@dataclass
class World:
    """A broker and an agreement as a test says. `now` is the clock, in seconds."""

    topics: dict[str, SeenTopic] = field(
        default_factory=lambda: {name: SeenTopic(name, 4, identity) for name, identity in IDENTITIES.items()}
    )
    away: bool = False
    held: str = "v1"
    begun: dict[str, int] = field(default_factory=dict)
    now: float = 100.0
    unreachable_redis: bool = False

    def look_at(self, names: list[str]) -> Mapping[str, SeenTopic]:
        if self.away:
            raise UnreachableError("Kafka", "brokers", "127.0.0.1:1", "start it")
        return {name: self.topics[name] for name in names if name in self.topics}

    async def agree(self, version: str, partitions: Mapping[str, int]) -> Agreed:
        if self.unreachable_redis:
            raise UnreachableError("Redis", "redis_url", "redis://127.0.0.1:1", "start it")
        if self.held not in ("", version):
            return Agreed(self.held, {})
        self.held = version
        return Agreed(
            version, {name: self.begun.setdefault(name, count) for name, count in partitions.items()}
        )

    def surroundings(self, version: str = "v1") -> Surroundings:
        return Surroundings(TOPICS, IDENTITIES, version, self.look_at, self, lambda: self.now)


@pytest.fixture
def world() -> World:
    return World()


def look(surroundings: Surroundings, times: int = 1) -> None:
    for _ in range(times):
        asyncio.run(surroundings.look())


def test_as_long_as_everything_stays_nothing_is_said(world, caplog):
    surroundings = world.surroundings()
    asyncio.run(surroundings.enter())
    look(surroundings, 3)
    assert surroundings.broker_away_s == 0.0
    assert not caplog.records


def test_a_topic_that_is_made_anew_ends_the_worker_with_both_identities(world):
    world.topics[EVENTS] = replace(world.topics[EVENTS], identity="cluster/other")
    with pytest.raises(
        TopicError, match=r"shop.events was made anew .*\(cluster/shop.events before, cluster/other now\)"
    ):
        look(world.surroundings())


def test_a_topic_is_gone_when_two_looks_missed_it(world):
    kept, surroundings = world.topics.pop(EVENTS), world.surroundings()
    look(surroundings)
    world.topics[EVENTS] = kept
    look(surroundings)
    del world.topics[EVENTS]
    look(surroundings)
    with pytest.raises(TopicError, match=r"topic shop\.events is gone.*Nothing was skipped"):
        look(surroundings)


def test_partitions_that_are_added_are_reported_once_and_end_nothing(world, caplog):
    world.topics[EVENTS] = replace(world.topics[EVENTS], partitions=8)
    look(world.surroundings(), 3)
    (line,) = caplog.messages
    assert "topic shop.events has 8 partitions now, 4 when this pipeline began" in line


def test_a_broker_that_is_away_is_said_now_and_then_and_so_is_its_return(world, caplog):
    surroundings, world.away = world.surroundings(), True
    for world.now in (100.0, 103.0, 106.0, 161.0, 164.0):
        look(surroundings)
    assert surroundings.broker_away_s == 64.0
    world.away = False
    look(surroundings)
    assert surroundings.broker_away_s == 0.0
    assert [message.rpartition(". ")[2] for message in caplog.messages] == [
        "Waiting for it",
        "Waiting for it since 61 s",
        "the broker answers again after 64 s",
    ]


def test_a_worker_does_not_begin_beside_one_of_another_version(world, monkeypatch):
    monkeypatch.setattr(module, "LEASE_PATIENCE_S", -1.0)
    with pytest.raises(OtherWorkersError, match="workers of pipeline version v1 run, this one has v2"):
        asyncio.run(world.surroundings("v2").enter())
    assert world.held == "v1"


def test_it_begins_when_the_lease_of_the_others_has_ended(world, monkeypatch):
    async def ended(_: float) -> None:
        world.held = ""

    monkeypatch.setattr(asyncio, "sleep", ended)
    asyncio.run(world.surroundings("v2").enter())
    assert world.held == "v2"


def test_a_worker_that_stood_still_while_another_version_took_over_ends(world):
    surroundings = world.surroundings()
    asyncio.run(surroundings.enter())
    world.held = "v2"
    with pytest.raises(OtherWorkersError, match="version v2 run, this one has v1"):
        look(surroundings)


def test_another_number_of_partitions_than_at_the_beginning_is_refused_with_the_way_back(world):
    asyncio.run(world.surroundings().enter())
    larger = pipeline_topics("shop", ["card"], Settings(partitions=8))
    with pytest.raises(
        OtherWorkersError, match=r"setting partitions is 8, .*begun with 4\. Set partitions back to 4"
    ):
        asyncio.run(Surroundings(larger, IDENTITIES, "v1", world.look_at, world, lambda: 0.0).enter())


def test_a_redis_that_does_not_answer_is_said_once_and_ends_nothing(world, caplog):
    surroundings, world.unreachable_redis = world.surroundings(), True
    look(surroundings, 3)
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING
