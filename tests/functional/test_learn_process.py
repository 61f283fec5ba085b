"""Both processes of a pipeline that learns, on the embedded broker and Redis: killed, commanded, and compared."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from driftwood.embedded import Runtime
from driftwood.pipelines import topics_of
from features.redis_snapshots import RedisSnapshots
from models.learning import Learning
from models.loading import load_pipeline
from models.pipeline import Pipeline
from models.snapshot import signing_key, unseal
from streams.mini_batches import MiniBatches
from streams.outcomes import OutcomeCodec
from streams.settings import Settings
from streams.topic_log import TopicLog
from tests.kafka_records import Reader, Sender
from tests.learn_process import LearnProcess
from tests.worker_process import WorkerProcess, until

ORDERS = """
import msgspec
from driftwood import Entity, Label, Pipeline, bounded_tree, scaled_logistic

class Order(msgspec.Struct):
    order_id: str
    at: int
    shop: str
    amount: float

orders = Pipeline(
    "NAME", event=Order, id="order_id", time="at", time_unit="s",
    features=["amount", Entity("shop").count("1h")],
    label=Label("returned", horizon="7d"), fallback=0.3,
    online=[scaled_logistic(), bounded_tree()],
)
"""
BEGAN_S = 1_700_000_000


@dataclass
class Place:
    """A pipeline with its topics, the settings of its processes, and the processes."""

    pipeline: Pipeline
    path: Path
    settings: Settings
    folder: Path
    processes: list[WorkerProcess]

    def _named(self) -> dict[str, Any]:
        names = ("brokers", "redis_url", "partitions", "models_dir", "session_timeout")
        return {name: self.settings.shown(name) for name in names}

    def started(self, kind: type[WorkerProcess]) -> WorkerProcess:
        process = kind(self.path, self.folder, **self._named())
        self.processes.append(process)
        return process.started()

    def send(self, first: int, count: int) -> None:
        """Events and their labels, of which every third is a yes."""
        numbers = range(first, first + count)
        events = [
            {"order_id": f"o{n}", "at": BEGAN_S + n, "shop": f"s{n % 5}", "amount": float(n % 3 * 10 + n % 7)}
            for n in numbers
        ]
        labels = [
            {"event_id": f"o{n}", "returned": int(n % 3 == 0), "known_at": BEGAN_S + n + 60} for n in numbers
        ]
        for kind, records in (("events", events), ("labels", labels)):
            sender = Sender(self.settings.brokers, f"{self.pipeline.name}.{kind}")
            sender.send((0, json.dumps(record).encode()) for record in records)

    def command(self, *words: str) -> str:
        """What `driftwood` prints on stderr."""
        sets = [f"--set={name}={value}" for name, value in self._named().items()]
        command = [sys.executable, "-m", "driftwood", words[0], str(self.path), *words[1:], *sets]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def outcomes(self) -> list[Any]:
        """The records of outcomes so far."""
        log, place = TopicLog(self.settings), (f"{self.pipeline.name}.outcomes", 0)
        return [record for batch in log.read(place, 0, log.bounds(place)[1]) for record in batch]

    def published(self) -> tuple[int | None, bytes]:
        """The newest snapshot's version and state."""

        async def read() -> tuple[int | None, bytes]:
            store = RedisSnapshots.connect(self.settings.redis_url)
            version = await store.latest(self.pipeline.name)
            sealed = None if version is None else await store.state(self.pipeline.name, version)
            await store.aclose()
            if sealed is None:
                return None, b""
            key = signing_key(self.settings.models_dir)
            return version, bytes(unseal(sealed, "state", self.pipeline.feature_set.hash, key))

        return asyncio.run(read())

    def learnt(self, labels: int) -> None:
        """Wait until so many labels were joined, and a snapshot has them."""
        codec = OutcomeCodec(self.pipeline)

        def joined() -> bool:
            found: set[str] = set()
            for record in self.outcomes():
                if b"learner-command" not in {name.encode() for name, _ in record.headers}:
                    found |= set(codec.read(record)[1].matured.event_ids)
            return len(found) >= labels

        until(joined, f"{labels} outcomes", within_s=300.0)
        until(lambda: self.published()[0] == self.outcomes()[-1].offset, "a snapshot of them")


@pytest.fixture(scope="module")
def place(embedded: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("learn")
    name = f"orders_{uuid.uuid4().hex[:8]}"
    path = folder / "orders.py"
    path.write_text(ORDERS.replace("NAME", name))
    pipeline = load_pipeline(str(path))
    settings = Settings(
        brokers=embedded.broker.address,
        redis_url=embedded.redis.url,
        partitions=1,
        models_dir=folder / "models",
        session_timeout="6s",  # type: ignore[arg-type]  # as a person writes it
    )
    for topic in topics_of(pipeline, settings):
        embedded.broker.create_topic(topic.name, topic.partitions)
    made = Place(pipeline, path, settings, folder, [])
    made.started(WorkerProcess)
    yield made
    for process in made.processes:
        process.kill()


@pytest.mark.crash
def test_a_learner_killed_again_and_again_equals_the_undisturbed_run_over_the_same_outcomes(place):
    for number in range(3):
        learner = place.started(LearnProcess)
        place.send(number * 200, 200)
        if number < 2:
            until(lambda: place.published()[0] is not None, "a first snapshot")
            learner.kill()
    place.learnt(600)
    version, state = place.published()
    records = place.outcomes()
    batches = MiniBatches(Learning(place.pipeline), OutcomeCodec(place.pipeline), -1, {})
    batches.step_all(records, {}, lambda: 0.0, 1.0)
    assert (batches.taken, version) == (records[-1].offset, records[-1].offset)
    assert batches.learner.figures()["matured"] == 600
    assert state == batches.learner.state()


def test_an_operator_changes_what_answers_and_resets_a_learner_while_both_run(place):
    place.started(LearnProcess)
    with Reader(place.settings.brokers, f"{place.pipeline.name}.predictions", 1) as reader:
        place.command("serve-mode", "champion")
        assert "champion" in place.command("serve-mode")
        sent = 1_000

        def answered_by_the_champion() -> bool:
            nonlocal sent
            place.send(sent, 1)
            sent += 1
            return any(
                json.loads(message.value() or b"")["mode"] == "champion" for message in reader.read(0.5)
            )

        until(answered_by_the_champion, "the champion answers")
    place.command("learners", "reset", "bounded_tree")

    def begun_anew() -> bool:
        figures = json.loads(place.command("models", "--json").splitlines()[0])["models"]
        return bool(figures["bounded_tree"]["learnt"] < figures["scaled_logistic"]["learnt"])

    until(begun_anew, "the tree begins anew", within_s=300.0)
    listed = json.loads(place.command("learners", "--json").splitlines()[0])["snapshots"]
    made = [datetime.fromisoformat(one["made_at"]) for one in listed]
    assert listed[-1]["version"] >= listed[0]["version"] and made == sorted(made)
    assert abs(made[-1] - datetime.now(UTC)) < timedelta(days=1)
    assert listed[-1]["made_at"] in place.command("learners")
