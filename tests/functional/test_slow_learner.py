"""An adaptive random forest of River that is slow, on both roads: answers go on, and its snapshot gets older, visibly."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftwood.embedded import Runtime
from driftwood.pipelines import topics_of
from models.loading import load_pipeline
from streams.settings import Settings
from tests.kafka_records import Reader, Sender
from tests.learn_process import LearnProcess
from tests.worker_process import WorkerProcess, until

RIDES = """
import time
from pathlib import Path

import msgspec
from driftwood import Label, Pipeline, river_model
from river import forest

GATE = Path("FOLDER") / "closed"

class SlowForest(forest.ARFClassifier):
    def learn_one(self, x, y, **more):
        while GATE.exists():
            time.sleep(0.01)
        super().learn_one(x, y, **more)

class Ride(msgspec.Struct):
    ride_id: str
    at: int
    km: float

rides = Pipeline("NAME", event=Ride, id="ride_id", time="at", time_unit="s", features=["km"],
                 label=Label("late", horizon="7d"), fallback=0.3, online=[river_model(SlowForest(n_models=3))])
"""
BEGAN_S = 1_700_000_000


class World:
    """The pipeline, its worker and its learn process. While `gate` is there, the learner stands in the middle of a label."""

    def __init__(self, folder: Path, embedded: Runtime) -> None:
        self.name, self.gate = f"rides_{uuid.uuid4().hex[:8]}", folder / "closed"
        path = folder / "rides.py"
        path.write_text(RIDES.replace("NAME", self.name).replace("FOLDER", str(folder)))
        address = embedded.broker.address
        settings = Settings(
            brokers=address, redis_url=embedded.redis.url, partitions=1, models_dir=folder / "m"
        )
        for topic in topics_of(load_pipeline(str(path)), settings):
            embedded.broker.create_topic(topic.name, topic.partitions)
        given = {name: settings.shown(name) for name in ("brokers", "redis_url", "partitions", "models_dir")}
        self.worker = WorkerProcess(path, folder, **given)
        self.learner = LearnProcess(path, folder, **given)
        self.reader = Reader(address, f"{self.name}.predictions", 1)
        self.events, self.labels = (Sender(address, f"{self.name}.{kind}") for kind in ("events", "labels"))

    def ask(self, first: int, count: int) -> list[int | None]:
        """Send so many events, wait for their answers, and give the snapshots by which they were answered."""
        rides = [
            {"ride_id": f"r{number}", "at": BEGAN_S + number, "km": float(number % 9)}
            for number in range(first, first + count)
        ]
        self.events.send((0, json.dumps(ride).encode()) for ride in rides)
        answers = [json.loads(message.value() or b"") for message in self.reader.wait_for(first + count)]
        return [answer["snapshot"] for answer in answers[first:]]

    def tell(self, first: int, count: int) -> None:
        """The labels of these events."""
        labels = [
            {"event_id": f"r{number}", "late": number % 2, "known_at": BEGAN_S + number + 60}
            for number in range(first, first + count)
        ]
        self.labels.send((0, json.dumps(label).encode()) for label in labels)

    def age_s(self) -> float:
        """How old the newest snapshot is against what is learnt, as the learn process shows it."""
        return self.learner.metrics().value("driftwood_snapshot_age_seconds")


@pytest.fixture
def world(tmp_path: Path, embedded: Runtime) -> Iterator[World]:
    made = World(tmp_path, embedded)
    try:
        made.worker.started()
        made.learner.started()
        with made.reader:
            yield made
    finally:
        made.worker.kill()
        made.learner.kill()


def test_answers_go_on_beside_a_slow_learner_and_its_snapshot_is_shown_to_get_older(world):
    world.ask(0, 20)
    world.gate.touch()
    world.tell(0, 20)
    until(lambda: world.age_s() > 0, "the learner has a label in hand")
    ages = [world.age_s()]
    for first in range(20, 60, 10):
        assert world.ask(first, 10) == [None] * 10  # nothing was learnt yet, and nobody waits for it
        until(lambda: world.age_s() > ages[-1], "the snapshot shown gets older")
        ages.append(world.age_s())
    world.gate.unlink()
    until(lambda: world.age_s() == 0, "the newest snapshot has all")
    asked = iter(range(60, 100_000))
    until(lambda: world.ask(next(asked), 1)[-1] is not None, "what was learnt answers")
