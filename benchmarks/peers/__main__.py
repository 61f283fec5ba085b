"""The same job by driftwood, in Faust + Feast, in Quix Streams and in a plain consumer loop: CPU of each for an event.

    python -m benchmarks.peers
    python -m benchmarks.peers --events 100000 --json
    python -m benchmarks.peers --broker embedded --events 3000 --peers faust_feast plain

The job is that of `benchmarks/card_pipeline.py`: payments in JSON, 24 windows of two entities, LightGBM of 200 x 31,
the newest features of every entity in Redis, predictions in JSON. Each peer (benchmarks/peers/*.py, quix/app.py) says at
its head how it was written and what it leaves out; docs/peers.md compares them.

One after another they read the same `events` from the same Apache Kafka, one process each, and write to the same Redis.
A tenth of the events warms up. Then the worker's CPU (user and system time of its process, all threads) is taken from one
count of published predictions to another. The others' answers are compared with driftwood's: `equal` is the share of
events for which every feature and the score are equal within 1e-6. Left out are events of cards with more than 8
terminals in a day, where driftwood estimates and the peers count.

By default every topic has one partition, so that all read in the same order and must come to the same figures.
The peer in Quix Streams needs an environment of its own, which is made under build/, and a real Kafka.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.peers import quix_environment
from benchmarks.peers.answers import agreement, read_answers
from benchmarks.peers.job import FEATURES, Job
from benchmarks.peers.process import PeerProcess, spent
from benchmarks.predict_road import measured
from benchmarks.printing import arguments, print_machine, say, tell
from benchmarks.running import SESSION_TIMEOUT, Running
from benchmarks.servers import BROKERS, LogEnds, Servers, servers
from benchmarks.watching import Watch
from benchmarks.workloads import Workload, card_workload
from driftwood.demo_worker import WorkerChild
from driftwood.pipelines import topics_of
from features.errors import DeveloperError, DriftwoodError
from features.feast_objects import apply_repository, write_repository
from models.model_store import MODEL_FILE, ModelStore
from streams.settings import Settings
from streams.topics import PipelineTopics, Topic

PEERS = ("faust_feast", "quix", "plain")
VERSIONS = (
    "driftwood",
    "faust-streaming",
    "feast",
    "confluent-kafka",
    "aiokafka",
    "lightgbm",
    "numpy",
    "redis",
)

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all of them share."""

    workload: Workload
    settings: Settings
    topics: PipelineTopics
    servers: Servers
    folder: Path
    events: int
    warm: int

    def peer_topic(self, peer: str, kind: str) -> Topic:
        """A topic of a peer's own."""
        return Topic(f"{peer}.{kind}", self.settings.partitions)


def run(
    workload: Workload, events: int, broker: str, peers: Sequence[str], partitions: int = 1, training: int = 0
) -> Figures:
    """All of them in turn, and what was found."""
    if broker == "embedded" and "quix" in peers:
        raise DeveloperError(
            "Quix Streams creates topics through the admin interface, which the embedded broker lacks"
        )
    if workload.pipeline.feature_set.names != FEATURES:
        raise DeveloperError(
            "the peers are written for the features of benchmarks/card_pipeline.py, and these are others"
        )
    with tempfile.TemporaryDirectory(prefix="driftwood-peers-") as made:
        folder = Path(made)
        say(f"training the model of {workload.reference}")
        workload.save_model(folder / "models", training)
        settings = Settings(
            partitions=partitions, models_dir=folder / "models", session_timeout=SESSION_TIMEOUT
        )
        if broker == "kafka":
            settings = settings.model_copy(update={"unread_bytes_max": 0})
        topics = topics_of(workload.pipeline, settings)
        own = [Topic(f"{peer}.{kind}", partitions) for peer in peers for kind in ("hop", "predictions")]
        say(f"starting {broker} and Redis")
        with servers(broker, folder, [*topics, *own]) as started:
            local = settings.model_copy(update=started.addresses)
            bench = Bench(workload, local, topics, started, folder, events, max(events // 10, 1))
            return _compared(bench, broker, peers)


def _compared(bench: Bench, broker: str, peers: Sequence[str]) -> Figures:
    found = {"driftwood": _driftwood(bench, broker)}
    ours = read_answers(bench.servers.brokers, bench.topics.predictions)
    equal = {}
    for peer in peers:
        found[peer] = _peer(bench, peer)
        say(f"{peer}: {found[peer]['cpu_us_per_event']} us of CPU an event")
        equal[peer] = agreement(
            ours, read_answers(bench.servers.brokers, bench.peer_topic(peer, "predictions"))
        )._asdict()
    cpu = {name: figures["cpu_us_per_event"] for name, figures in found.items()}
    return {
        "cpu_us_per_event": cpu,
        "ratio": {peer: cpu[peer] and round(cpu[peer] / cpu["driftwood"], 2) for peer in peers},
        "events_per_second": {name: figures["events_per_second"] for name, figures in found.items()},
        "cpu_us_per_event_beside": {name: figures["beside"] for name, figures in found.items()},
        "memory_mib": {name: figures["memory_mib"] for name, figures in found.items()},
        "equal": equal,
        "events": {name: figures["events"] for name, figures in found.items()},
        "warm_up": bench.warm,
        "broker": broker,
        "partitions": bench.settings.partitions,
        "machine": {
            **machine(VERSIONS),
            "servers": bench.servers.versions,
            "quix": quix_environment.versions(),
        },
    }


def _driftwood(bench: Bench, broker: str) -> Figures:
    """As `python -m benchmarks.predict_road` measures it. Its events stay on the topic, for the peers."""
    say("driftwood")
    made = bench.workload.events(bench.events)
    with WorkerChild(bench.workload.reference, bench.settings, bench.folder / "driftwood.log") as worker:
        worker.wait_until_ready(bench.settings.partitions * (1 + len(bench.topics.hops)))
        watch = Watch(worker, bench.servers.pids)
        ends = LogEnds(bench.servers.brokers, bench.topics.predictions)
        now = Running(bench.workload, bench.settings, bench.topics, worker, watch, ends)
        now.send(made[: bench.warm])
        now.wait_for(bench.warm)
        figures = measured(now, made[bench.warm :], bench.events, broker)
    return {
        **{name: figures[name] for name in ("cpu_us_per_event", "events_per_second", "events")},
        "beside": figures["cpu_us_per_event_beside"],
        "memory_mib": figures["memory_mib"]["worker"],
    }


def _peer(bench: Bench, peer: str) -> Figures:
    """A peer reads the events from the first one on; it is watched from the end of the warm-up to the last of them."""
    say(peer)
    redis.Redis.from_url(bench.servers.redis_url).flushall()
    job = _job(bench, peer)
    command = _command(bench, peer, job)
    ends = LogEnds(bench.servers.brokers, bench.peer_topic(peer, "predictions"))
    path = job.save(Path(job.folder) / "job.json")
    with PeerProcess(command, path, bench.servers.pids) as process:
        before = process.answered(ends, bench.warm)
        after = process.answered(ends, bench.events)
        memory_mib = process.memory_mib()
    between = spent(before, after)
    beside = dict(between.cpu_us)
    return {
        "cpu_us_per_event": beside.pop("worker"),
        "events_per_second": between.per_second,
        "events": between.events,
        "beside": beside,
        "memory_mib": memory_mib,
    }


def _job(bench: Bench, peer: str) -> Job:
    store, name = ModelStore(bench.settings.models_dir), bench.workload.pipeline.name
    version = store.champion(name) or ""
    card = store.card(name, version)
    folder = bench.folder / peer
    folder.mkdir()
    return Job(
        brokers=bench.servers.brokers,
        redis_url=bench.servers.redis_url,
        events=bench.topics.events.name,
        hop=bench.peer_topic(peer, "hop").name,
        predictions=bench.peer_topic(peer, "predictions").name,
        group=peer,
        folder=str(folder),
        model=str(bench.settings.models_dir / name / version / MODEL_FILE),
        model_version=version,
        channels=card.features[FEATURES.index("channel")].categories or (),
        threshold=card.threshold or 0.0,
    )


def _command(bench: Bench, peer: str, job: Job) -> list[str]:
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


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """For people."""
    table = Table("", "CPU us/event", "ratio", "events/s", "MiB", "features equal", title="The same job")
    for name, cpu in figures["cpu_us_per_event"].items():
        equal = figures["equal"].get(name)
        table.add_row(
            name,
            f"{cpu}",
            f"{figures['ratio'].get(name, 1.0)}",
            f"{figures['events_per_second'][name]}",
            f"{figures['memory_mib'][name]:,}",
            "" if equal is None else f"{equal['predictions']:.4%} of {equal['compared']:,}",
        )
    console.print(table)
    print_machine(console, figures["machine"])


def main() -> None:
    """Parse, compare, print."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--events", type=int, default=100_000, help="in all; a tenth warms up (default 100,000)"
    )
    parser.add_argument("--broker", choices=BROKERS, default="kafka")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="default: all")
    parser.add_argument("--partitions", type=int, default=1, help="of every topic (default 1)")
    parser.add_argument("--training-events", type=int, default=0, help="for a smaller model, made sooner")
    asked = parser.parse_args()
    try:
        figures = run(
            card_workload(), asked.events, asked.broker, asked.peers, asked.partitions, asked.training_events
        )
    except DriftwoodError as error:
        say(str(error))
        sys.exit(error.exit_code)
    tell(figures, as_json=asked.json, show=show)


if __name__ == "__main__":
    main()
