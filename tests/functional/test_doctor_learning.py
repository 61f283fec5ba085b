"""What the doctor finds on the learn road: process, lag, snapshot, signing key, archive."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from driftwood.doctor import examine
from driftwood.doctor_learning import archive
from driftwood.embedded import Runtime
from driftwood.findings import ACT, HINT, OK, Finding
from driftwood.pipelines import topics_of
from features.redis_snapshots import RedisSnapshots
from features.snapshot_store import Snapshot
from features.store import PartitionId
from models.loading import load_pipeline
from models.snapshot import seal, signing_key
from streams.settings import Settings

DAY_S = 86_400.0

ORDERS = """
import msgspec
from driftwood import Label, Pipeline, scaled_logistic

class Order(msgspec.Struct):
    order_id: str
    at: int
    amount: float

orders = Pipeline("NAME", event=Order, id="order_id", time="at", time_unit="s", features=["amount"],
                  label=Label("returned", horizon="30d"), online=[scaled_logistic()])
"""


class World:
    """A pipeline that learns, its topics, and what the doctor says of it."""

    def __init__(self, path: Path, embedded: Runtime, folder: Path) -> None:
        self.path, self.pipeline = path, load_pipeline(str(path))
        self.settings = Settings(
            brokers=embedded.broker.address, redis_url=embedded.redis.url, models_dir=folder / "models"
        )
        self.topics = topics_of(self.pipeline, self.settings)
        for topic in self.topics:
            embedded.broker.create_topic(topic.name, topic.partitions)

    def found(self, check: str, **more: object) -> list[Finding]:
        """The findings of one check."""
        names = ("brokers", "redis_url", "models_dir")
        given = {name: self.settings.shown(name) for name in names} | more
        findings = examine(None, [f"{name}={value}" for name, value in given.items()], str(self.path))
        return [finding for finding in findings if finding.check == check]

    def publish(self, key: bytes, **figures: Any) -> None:
        """A snapshot of this key, made three hours ago."""
        place = PartitionId(self.pipeline.name, self.topics.learning.outcomes.name, 0, "cluster/topic")
        scoring = seal("scoring", 7, self.pipeline.feature_set.hash, b"", key)
        said = json.dumps({"published_ms": (time.time() - 3 * 3_600) * 1e3, **figures}).encode()

        async def publish() -> None:
            store = RedisSnapshots.connect(self.settings.redis_url)
            loaded = await store.load(place)
            made = Snapshot(
                place, loaded.epoch, loaded.applied, loaded.applied + 8, scoring, b"", figures=said
            )
            await store.publish(made)
            await store.aclose()

        asyncio.run(publish())


@pytest.fixture
def world(tmp_path: Path, embedded: Runtime, unique_name: str, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "orders.py"
    path.write_text(ORDERS.replace("NAME", "p" + re.sub(r"[^a-z0-9]", "_", unique_name.lower())[-30:]))
    return World(path, embedded, tmp_path)


def test_before_anybody_has_learnt_it_says_how_to_begin_and_makes_no_key(world):
    (topics,) = world.found("topics")
    assert topics.what.endswith("4 partitions each (outcomes, control, drift-slices, drift-alerts: one)")
    (snapshot,) = world.found("snapshot")
    assert (snapshot.level, snapshot.heading) == (HINT, "no-snapshot") and "driftwood learn" in snapshot.do
    assert [finding.level for finding in world.found("signing key")] == [OK]
    assert not (world.settings.models_dir / "signing.key").exists()


def test_what_the_learn_processes_have_not_read_is_counted(world):
    labels = world.topics.learning.labels.name
    producer = Producer({"bootstrap.servers": world.settings.brokers})
    for number in range(30):
        producer.produce(labels, b"{", partition=number % 2)
    producer.flush()
    (lag,) = world.found("learn lag")
    assert (lag.level, lag.figures[labels]) == (OK, 30) and f"30 in {labels}" in lag.what
    group = Consumer(
        {"bootstrap.servers": world.settings.brokers, "group.id": f"{world.pipeline.name}.learn"}
    )
    group.commit(offsets=[TopicPartition(labels, number, 15) for number in (0, 1)], asynchronous=False)
    group.close()
    (lag,) = world.found("learn lag")
    assert lag.what == "everything was read"


def test_a_snapshot_of_our_key_is_well_and_one_of_another_key_must_be_acted_on(world):
    world.publish(signing_key(world.settings.models_dir))
    (snapshot,) = world.found("snapshot")
    assert snapshot.level == OK and "3.0 h old, signed with the key that is here" in snapshot.what
    (snapshot,) = world.found("snapshot", signing_key="another " * 8)
    assert (snapshot.level, snapshot.heading) == (ACT, "snapshot-not-ours") and "--afresh" in snapshot.do
    (snapshot,) = world.found("snapshot", models_dir="elsewhere")
    assert snapshot.level == ACT and "there is no key in elsewhere" in snapshot.what


def test_a_key_that_others_may_read_or_that_is_short_must_be_acted_on(world):
    signing_key(world.settings.models_dir)
    (world.settings.models_dir / "signing.key").chmod(0o644)
    (key,) = world.found("signing key")
    assert (key.level, key.heading) == (ACT, "signing-key") and "chmod 600" in key.what
    (key,) = world.found("signing key", signing_key="short")
    assert key.level == ACT and "at least 32" in key.what and "short" not in key.what


def test_learning_that_is_frozen_must_be_acted_on(world):
    world.publish(signing_key(world.settings.models_dir), frozen="label feed stalled since 2023-11-14")
    (feed,) = world.found("label feed")
    assert (feed.level, feed.heading) == (ACT, "labels-stalled") and "stalled since 2023-11-14" in feed.what


def test_an_archive_that_others_would_not_find_or_that_cannot_be_written_is_found(world, tmp_path):
    def found(runs_dir: Path, **more: Any) -> tuple[str, str]:
        (finding,) = archive(Settings(runs_dir=runs_dir, **more), world.pipeline)
        return finding.level, finding.heading

    assert found(Path("runs")) == (HINT, "archive-folder")
    assert found(tmp_path / "not yet") == (OK, "")
    (tmp_path / "a file").touch()
    assert found(tmp_path / "a file") == (ACT, "archive-folder")
    assert not list(archive(Settings(ledger_hot="30d"), world.pipeline))  # type: ignore[arg-type]  # as a person writes it
