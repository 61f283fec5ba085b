"""What all programs of the comparison share, and how a peer is told and started."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import quix_environment
from benchmarks.peers.job import FEATURES, Job
from benchmarks.servers import Servers
from benchmarks.workloads import Keyed, Workload, chunked
from driftwood.produce import Production, Schedule
from features.feast_objects import apply_repository, write_repository
from models.model_store import MODEL_FILE, ModelStore
from streams.settings import Settings
from streams.topics import PipelineTopics, Topic


@dataclass(frozen=True)
class Bench:
    """`made` are the events, the first `warm` of them for the warm-up; `settle_s` passes after the last answer."""

    workload: Workload
    settings: Settings
    topics: PipelineTopics
    servers: Servers
    folder: Path
    made: list[Keyed]
    warm: int
    settle_s: float

    def peer_topic(self, peer: str, kind: str) -> Topic:
        """A topic of a peer's own."""
        return Topic(f"{peer}.{kind}", self.settings.partitions)

    def send(self, peer: str, made: Sequence[Keyed]) -> None:
        """Events for a peer, keyed by card."""
        production = Production(peer, self.peer_topic(peer, "events"), self.settings)
        production.run(chunked(made), Schedule())


def job_of(bench: Bench, peer: str) -> Job:
    """What a peer is told; its folder is made."""
    store, name = ModelStore(bench.settings.models_dir), bench.workload.pipeline.name
    version = store.champion(name) or ""
    card = store.card(name, version)
    folder = bench.folder / peer
    folder.mkdir()
    return Job(
        brokers=bench.servers.brokers,
        redis_url=bench.servers.redis_url,
        events=bench.peer_topic(peer, "events").name,
        hop=bench.peer_topic(peer, "hop").name,
        predictions=bench.peer_topic(peer, "predictions").name,
        group=peer,
        folder=str(folder),
        model=str(bench.settings.models_dir / name / version / MODEL_FILE),
        model_version=version,
        channels=card.features[FEATURES.index("channel")].categories or (),
        threshold=card.threshold or 0.0,
    )


def command_of(bench: Bench, peer: str, job: Job) -> list[str]:
    """How to start it. Feast's definitions are applied before, as they are in life."""
    if peer == "quix":
        return [str(quix_environment.python()), str(Path(quix_environment.LOCK).with_name("app.py"))]
    if peer == "faust_feast":
        folder = Path(job.folder)
        write_repository(folder, peer, bench.workload.pipeline.feature_set.entities, job.redis_url)
        _skip_dedup(folder / "feature_store.yaml")
        apply_repository(folder)
    return [sys.executable, "-m", f"benchmarks.peers.{peer}"]


def _skip_dedup(settings: Path) -> None:
    """Feast need not read a row's time before it writes the row: a third less work, and one writer has each entity."""
    text = settings.read_text(encoding="utf-8")
    settings.write_text(
        text.replace("  type: redis\n", "  type: redis\n  skip_dedup: true\n"), encoding="utf-8"
    )
