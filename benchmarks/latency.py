"""From event to prediction at a steady rate: the broker's time of the prediction minus the broker's time of the event.

    python -m benchmarks.latency --rate 1000 --broker kafka
    python -m benchmarks.latency --rate 5000 --broker kafka --seconds 30 --json

Two entities, 24 windows, LightGBM of 200 x 31; one worker; broker, Redis and the sender on the same machine. Both topics
carry the broker's own time (LogAppendTime, whole milliseconds), so no clock of ours is in the figures; the embedded broker
has none, there both times are the senders'. The sender is a process of its own and does not wait for answers. The first
`--warm-up` seconds do not count. `cores` says how much of a core each process was using meanwhile, which explains the rest:
on two cores every other process takes its turns, and a prediction waits for several of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.machine import ROAD_PACKAGES, machine
from benchmarks.printing import arguments, print_machine, print_steps, say, tell
from benchmarks.running import Running, running
from benchmarks.servers import BROKERS, Servers
from benchmarks.watching import Watch, batch_rows, cpu_shares, step_ms
from benchmarks.workloads import card_workload
from features.errors import DriftwoodError, OperatorError
from features.plan import Floats
from streams.topics import Topic

READ_WITHIN_S = 30.0  # for the next batch of predictions when all are there already


@dataclass(frozen=True)
class Load:
    """What is sent: `rate` events a second, `warm_up_s` seconds that do not count and `seconds` that do."""

    rate: float
    seconds: float
    warm_up_s: float
    cards: int
    terminals: int

    @property
    def events(self) -> int:
        """In all."""
        return round(self.rate * (self.seconds + self.warm_up_s))

    @property
    def warm(self) -> int:
        """Of them those that do not count; they come first."""
        return round(self.rate * self.warm_up_s)


class _Answer(msgspec.Struct):
    """Of a prediction what is needed here."""

    event_id: str
    arrived_ms: int


def run(load: Load, broker: str, partitions: int = 4, training_events: int = 0) -> dict[str, Any]:
    """Start everything, send, and read the predictions' times afterwards."""
    workload = card_workload(load.cards, load.terminals)
    with tempfile.TemporaryDirectory(prefix="driftwood-benchmark-") as folder:
        with (
            running(workload, broker, partitions, Path(folder), training_events) as (now, started),
            paced_sender(load, started, partitions) as sender,
        ):
            found = _measured(load, now, sender, started)
            now.wait_for(load.events)
            say("reading the predictions")
            waits_ms, broker_time = latencies(started.brokers, now.topics.predictions, load)
        return {
            **_percentiles(waits_ms),
            **found,
            "events": len(waits_ms),
            "rate": load.rate,
            "broker": broker,
            "partitions": partitions,
            "time_of_predictions": "broker" if broker_time else "sender",
            "machine": {**machine(ROAD_PACKAGES), "servers": started.versions},
        }


@contextmanager
def paced_sender(
    load: Load, started: Servers, partitions: int, first: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """The sender's process, ready to `begin` with the payment of that number."""
    options = {
        "brokers": started.brokers,
        "partitions": partitions,
        "rate": load.rate,
        "seconds": load.seconds + load.warm_up_s,
        "cards": load.cards,
        "terminals": load.terminals,
        "first": first,
    }
    command = [sys.executable, "-m", "benchmarks.paced_sender"]
    command += [f"--{name}={value}" for name, value in options.items()]
    sender = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        _said(sender)
        yield sender
    finally:
        sender.kill()
        sender.communicate()


def begin(sender: subprocess.Popen[str]) -> None:
    """Let it send."""
    assert sender.stdin is not None
    sender.stdin.write("go\n")
    sender.stdin.flush()


def latencies(brokers: str, topic: Topic, load: Load) -> tuple[Floats, bool]:
    """Milliseconds of each event that counts, and whether the predictions carry the broker's time.

    Raises `OperatorError` when some are no longer there: the embedded broker keeps 5 MiB of a partition.
    """
    config = {"bootstrap.servers": brokers, "group.id": "latency", "enable.auto.commit": False}
    with closing(Consumer(config)) as consumer:
        consumer.assign([TopicPartition(topic.name, number, 0) for number in range(topic.partitions)])
        waits_ms, by_broker = [], True
        for kind, at_ms, answer in _answers(consumer, load.events):
            by_broker = by_broker and kind == TIMESTAMP_LOG_APPEND_TIME
            if int(answer.event_id[1:]) >= load.warm:
                waits_ms.append(at_ms - answer.arrived_ms)
    return np.array(waits_ms, np.float64), by_broker


def _answers(consumer: Consumer, expected: int) -> Iterator[tuple[int, int, _Answer]]:
    """The kind and the time (ms) of each prediction's timestamp, and what it says."""
    read = 0
    while read < expected:
        # At most as many as are missing: asking for more would wait in vain.
        messages = consumer.consume(min(expected - read, 10_000), timeout=READ_WITHIN_S)
        if not messages:
            raise OperatorError(f"of {expected:,} predictions {read:,} can be read: send fewer, or use Kafka")
        read += len(messages)
        for message in messages:
            yield *message.timestamp(), msgspec.json.decode(message.value() or b"", type=_Answer)


def _measured(load: Load, now: Running, sender: subprocess.Popen[str], started: Servers) -> dict[str, Any]:
    watch = Watch(now.worker, {**started.pids, "sender": sender.pid})
    begin(sender)
    say(f"{load.rate:g} events/s: {load.warm_up_s:g} s of warm-up; the worker is process {now.worker.pid}")
    time.sleep(load.warm_up_s)
    before = watch.mark()
    say(f"{load.seconds:g} s that count")
    time.sleep(load.seconds)
    after = watch.mark()
    said = _said(sender)
    events = round(load.rate * (after.at_s - before.at_s))
    return {
        "cores": cpu_shares(before, after),
        "batch_rows": batch_rows(before, after, events),
        "batch_ms": step_ms(before, after),
        "sender_most_behind_ms": said["most_behind_ms"],
    }


def _said(sender: subprocess.Popen[str]) -> dict[str, Any]:
    assert sender.stdout is not None
    line = sender.stdout.readline()
    if not line:
        raise OperatorError(f"the sender ended with exit code {sender.wait()}")
    said: dict[str, Any] = json.loads(line)
    return said


def _percentiles(waits_ms: Floats) -> dict[str, float]:
    found = {f"p{share}_ms": float(np.percentile(waits_ms, share)) for share in (50, 95, 99)}
    return {**found, "max_ms": float(waits_ms.max())}


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """For people."""
    table = Table("", "ms", title=f"From event to prediction at {figures['rate']:g} events/s")
    for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms"):
        table.add_row(name.removesuffix("_ms"), f"{figures[name]:.0f}")
    console.print(table)
    print_steps(console, "cores in use", {"": figures["cores"]})
    print_steps(console, "a batch, ms", figures["batch_ms"])
    print_steps(console, "rows a batch", {"": figures["batch_rows"]})
    console.print(f"the sender was at most {figures['sender_most_behind_ms']:g} ms behind")
    print_machine(console, figures["machine"])


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events a second (default 1,000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="that count (default 30)")
    parser.add_argument("--warm-up", type=float, default=15.0, help="seconds before (default 15)")
    parser.add_argument("--broker", choices=BROKERS, default="kafka")
    parser.add_argument("--partitions", type=int, default=4, help="of every topic (default 4)")
    parser.add_argument("--cards", type=int, default=20_000)
    parser.add_argument("--terminals", type=int, default=2_000)
    parser.add_argument("--training-events", type=int, default=0, help="for a smaller model, made sooner")
    asked = parser.parse_args()
    try:
        figures = run(_load(asked), asked.broker, asked.partitions, asked.training_events)
    except DriftwoodError as error:
        say(str(error))
        sys.exit(error.exit_code)
    tell(figures, as_json=asked.json, show=show)


def _load(asked: argparse.Namespace) -> Load:
    return Load(asked.rate, asked.seconds, asked.warm_up, asked.cards, asked.terminals)


if __name__ == "__main__":
    main()
