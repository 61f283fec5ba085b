"""A learn process in trouble, on the embedded broker and Redis: a snapshot that is not ours."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftwood.embedded import Runtime
from driftwood.pipelines import topics_of
from features.redis_snapshots import RedisSnapshots
from features.snapshot_store import Snapshot
from features.store import PartitionId
from models.loading import load_pipeline
from models.pipeline import Pipeline
from models.snapshot import seal
from streams.settings import Settings
from streams.topics import TopicAdmin
from tests.learn_process import LearnProcess

RIDES = """
import msgspec
from driftwood import Label, Pipeline, scaled_logistic

class Ride(msgspec.Struct):
    ride_id: str
    at: int
    km: float

rides = Pipeline("NAME", event=Ride, id="ride_id", time="at", time_unit="s", features=["km"],
                 label=Label("late", horizon="7d"), fallback=0.3, online=[scaled_logistic()])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rides.py"
    path.write_text(RIDES.replace("NAME", f"rides_{uuid.uuid4().hex[:8]}"))
    return path


@pytest.fixture
def settings(embedded: Runtime, tmp_path: Path) -> Settings:
    return Settings(
        brokers=embedded.broker.address,
        redis_url=embedded.redis.url,
        partitions=1,
        models_dir=tmp_path / "models",
    )


@pytest.fixture
def pipeline(path: Path, embedded: Runtime, settings: Settings) -> Pipeline:
    """The pipeline, whose topics are there."""
    loaded = load_pipeline(str(path))
    for topic in topics_of(loaded, settings):
        embedded.broker.create_topic(topic.name, topic.partitions)
    return loaded


@pytest.fixture
def learn_process(path: Path, settings: Settings, tmp_path: Path) -> Iterator[LearnProcess]:
    names = ("brokers", "redis_url", "partitions", "models_dir")
    process = LearnProcess(path, tmp_path, **{name: settings.shown(name) for name in names})
    yield process
    process.kill()


@pytest.fixture
def foreign_snapshot(pipeline: Pipeline, settings: Settings) -> None:
    """The newest snapshot was signed with a key that the learn process does not have."""
    topic = topics_of(pipeline, settings).learning.outcomes.name
    identity = TopicAdmin(settings).check(topics_of(pipeline, settings))[topic]
    place = PartitionId(pipeline.name, topic, 0, identity)
    state = seal("state", 0, pipeline.feature_set.hash, b"", b"another key, of somebody else    ")

    async def publish() -> None:
        store = RedisSnapshots.connect(settings.redis_url)
        loaded = await store.load(place)
        await store.publish(Snapshot(place, loaded.epoch, loaded.applied, 0, b"", state))
        await store.aclose()

    asyncio.run(publish())


@pytest.mark.usefixtures("foreign_snapshot")
def test_a_snapshot_that_is_not_ours_ends_the_process_with_one_sentence_and_its_remedy(learn_process):
    assert learn_process.ended() == 3
    said = learn_process.stderr.splitlines()
    assert not [line for line in said if "Traceback" in line or "Event loop" in line or " ERROR " in line]
    assert said[-1].startswith("driftwood: the state snapshot was altered, or signed with another key")
    assert "driftwood learn --afresh" in said[-1]
