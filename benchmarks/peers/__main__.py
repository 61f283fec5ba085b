"""The same job by driftwood, in Faust + Feast, in Quix Streams and in a plain consumer loop: CPU of each for an event.

    python -m benchmarks.peers
    python -m benchmarks.peers --events 100000 --json
    python -m benchmarks.peers --broker embedded --events 3000 --peers faust_feast plain

The job is that of `benchmarks/card_pipeline.py`: payments in JSON, 24 windows of two entities, LightGBM of 200 x 31,
the newest features of every entity in Redis, predictions in JSON. Each peer (benchmarks/peers/*.py, quix/app.py) says at
its head how it was written and what it leaves out; docs/peers.md compares them.

One after another, in one process each, they get the same events from the same Apache Kafka, and write to the same Redis.
A tenth of the events warms up. Then a program stands still while the others are put into its topic, so that it finds a
backlog and nobody sends while it works. `cpu_us_per_event` is the user and system time of its process, all threads, until
the last prediction is there and what comes behind it (commits, checkpoints) is done.

The answers are compared with driftwood's: `equal` has the share of events for which every feature, and the score too, are
equal within 1e-6. Left out are events of cards with more than 8 terminals in a day, where driftwood estimates and the
peers count.

By default every topic has one partition, so that all read in the same order and must come to the same figures.
The peer in Quix Streams needs an environment of its own, which is made under build/, and a real Kafka.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from benchmarks import watching
from benchmarks.machine import machine
from benchmarks.peers import quix_environment
from benchmarks.peers.answers import agreement, read_answers
from benchmarks.peers.bench import Bench, command_of, job_of
from benchmarks.peers.job import FEATURES
from benchmarks.peers.process import PeerProcess, cpu_us
from benchmarks.printing import arguments, print_machine, say, tell
from benchmarks.running import SESSION_TIMEOUT, Running, standing_still
from benchmarks.servers import BROKERS, LogEnds, servers
from benchmarks.watching import Watch
from benchmarks.workloads import Workload, card_workload
from driftwood.demo_worker import WorkerChild
from driftwood.pipelines import topics_of
from features.errors import DeveloperError, DriftwoodError
from streams.settings import Settings
from streams.topics import Topic

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

KINDS = ("events", "hop", "predictions")  # topics of each peer

# After the last answer, so that what comes behind it is counted too: Quix Streams writes a checkpoint every 5 s.
SETTLE_S = 6.0

Figures = dict[str, Any]


def run(
    workload: Workload,
    events: int,
    broker: str,
    peers: Sequence[str],
    partitions: int = 1,
    training: int = 0,
    settle_s: float = SETTLE_S,
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
    if "quix" in peers:
        quix_environment.python()  # made now, if it has to be: the servers need not wait for it
    with tempfile.TemporaryDirectory(prefix="driftwood-peers-") as temporary:
        folder = Path(temporary)
        say(f"training the model of {workload.reference}")
        workload.save_model(folder / "models", training)
        settings = Settings(
            partitions=partitions, models_dir=folder / "models", session_timeout=SESSION_TIMEOUT
        )
        if broker == "kafka":
            settings = settings.model_copy(update={"unread_bytes_max": 0})
        topics = topics_of(workload.pipeline, settings)
        own = [Topic(f"{peer}.{kind}", partitions) for peer in peers for kind in KINDS]
        say(f"starting {broker} and Redis")
        with servers(broker, folder, [*topics, *own]) as started:
            local = settings.model_copy(update=started.addresses)
            made = workload.events(events)
            bench = Bench(workload, local, topics, started, folder, made, max(events // 10, 1), settle_s)
            return _compared(bench, broker, peers)


def _compared(bench: Bench, broker: str, peers: Sequence[str]) -> Figures:
    found = {"driftwood": _driftwood(bench)}
    say(f"driftwood: {found['driftwood']['cpu_us_per_event']} us of CPU an event")
    ours = read_answers(bench.servers.brokers, bench.topics.predictions)
    equal = {}
    for peer in peers:
        found[peer] = _peer(bench, peer)
        say(f"{peer}: {found[peer]['cpu_us_per_event']} us of CPU an event")
        theirs = read_answers(bench.servers.brokers, bench.peer_topic(peer, "predictions"))
        equal[peer] = agreement(ours, theirs)._asdict()
    of_driftwood = found["driftwood"]["cpu_us_per_event"]
    return {
        "cpu_us_per_event": {name: figures["cpu_us_per_event"] for name, figures in found.items()},
        "ratio": {peer: round(found[peer]["cpu_us_per_event"] / of_driftwood, 2) for peer in peers},
        **{
            kind: {name: figures[kind] for name, figures in found.items()}
            for kind in ("events_per_second", "cpu_us_per_event_beside", "memory_mib")
        },
        "equal": equal,
        "events": len(bench.made) - bench.warm,
        "warm_up": bench.warm,
        "broker": broker,
        "partitions": bench.settings.partitions,
        "machine": {
            **machine(VERSIONS),
            "servers": bench.servers.versions,
            "quix": quix_environment.versions(),
        },
    }


def _driftwood(bench: Bench) -> Figures:
    say("driftwood")
    with WorkerChild(bench.workload.reference, bench.settings, bench.folder / "driftwood.log") as worker:
        worker.wait_until_ready(bench.settings.partitions * (1 + len(bench.topics.hops)))
        watch = Watch(worker, bench.servers.pids)
        ends = LogEnds(bench.servers.brokers, bench.topics.predictions)
        now = Running(bench.workload, bench.settings, bench.topics, worker, watch, ends)
        now.send(bench.made[: bench.warm])
        now.wait_for(bench.warm)
        time.sleep(bench.settle_s)
        before = watch.mark()
        with standing_still(worker):
            now.send(bench.made[bench.warm :])
        started = time.monotonic()
        now.wait_for(len(bench.made))
        seconds = time.monotonic() - started
        time.sleep(bench.settle_s)
        spent = watching.cpu_us(before, watch.mark(), len(bench.made) - bench.warm)
        return _figures(bench, spent, seconds, watch.memory_mib()["worker"])


def _peer(bench: Bench, peer: str) -> Figures:
    say(peer)
    redis.Redis.from_url(bench.servers.redis_url).flushall()
    job = job_of(bench, peer)
    command = command_of(bench, peer, job)
    ends = LogEnds(bench.servers.brokers, bench.peer_topic(peer, "predictions"))
    file = job.save(Path(job.folder) / "job.json")
    with PeerProcess(peer, command, file, bench.servers.pids) as process:
        bench.send(peer, bench.made[: bench.warm])
        process.answered(ends, bench.warm)
        time.sleep(bench.settle_s)
        before = process.look(ends)
        with process.standing_still():
            bench.send(peer, bench.made[bench.warm :])
        started = time.monotonic()
        seconds = process.answered(ends, len(bench.made)).at_s - started
        time.sleep(bench.settle_s)
        return _figures(bench, cpu_us(before, process.look(ends)), seconds, process.memory_mib())


def _figures(bench: Bench, spent: dict[str, float], seconds: float, memory_mib: int) -> Figures:
    events = len(bench.made) - bench.warm
    return {
        "cpu_us_per_event": spent.pop("worker"),
        "events_per_second": round(events / seconds),
        "cpu_us_per_event_beside": spent,
        "memory_mib": memory_mib,
    }


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
