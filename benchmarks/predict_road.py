"""The whole predict road in one real worker process: its own CPU for each event, and how many events it answers a second.

    python -m benchmarks.predict_road --events 300000 --broker kafka
    python -m benchmarks.predict_road --pipeline flights --labels --events 100000 --broker kafka --json
    python -m benchmarks.predict_road --events 50000 --broker embedded

The pipeline `cards` is generated: two entities, 24 windows, LightGBM of 200 x 31, JSON in and out, state and Feast rows
in a real Redis with its append-only file. `flights` is the shipped example: four entities, learners, and a learn process
beside the worker; with `--labels` the flights' labels are sent among the events, and are windows and snapshots as well. A
tenth of the events warms up: the worker answers them all before the first figure is taken. On Kafka the worker then stands still while the
others are put into `events`, so that it finds a backlog, and nobody sends while it works it off. The embedded broker
cannot hold a backlog: there the sender runs beside the worker.

`cpu_us_per_event` is user and system time of the worker's process, all its threads. `stages_us` is the wall time of the
steps for each event, with the waits; steps of different batches overlap, so they add up to more than the time that passed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import ROAD_PACKAGES, machine
from benchmarks.printing import arguments, print_machine, print_steps, say, tell
from benchmarks.running import Running, running, standing_still
from benchmarks.servers import BROKERS, Servers
from benchmarks.watching import batch_rows, cpu_us, step_us
from benchmarks.workloads import Keyed, Workload, card_workload, flight_workload
from features.errors import DriftwoodError
from streams.settings import Settings

# Events between two pieces of labels: some two days of flights.
BETWEEN = 2_000


def run(
    workload: Workload,
    events: int,
    broker: str,
    partitions: int = 4,
    training_events: int = 0,
    *,
    labels: bool = False,
) -> dict[str, Any]:
    """Warm up, measure, and say what was found."""
    with tempfile.TemporaryDirectory(prefix="driftwood-benchmark-") as folder:
        say(f"making {events:,} events")
        made, told = workload.events(events), workload.labels(events) if labels else []
        with running(workload, broker, partitions, Path(folder), training_events) as (now, started):
            warm, known = max(events // 10, 1), len(told) // 10
            sent(now, made[:warm], told[:known])
            now.wait_for(warm)
            say(f"warm after {warm:,} events; measuring the worker, process {now.worker.pid}")
            found = measured(now, made[warm:], events, broker, told[known:])
            return {**found, "labels": len(told) - known, **_where(now, started, broker)}


def sent(now: Running, made: list[Keyed], labels: list[Keyed]) -> None:
    """Events, and of their labels after each `BETWEEN` events as many as came meanwhile."""
    if not labels:
        now.send(made)
        return
    for first in range(0, len(made), BETWEEN):
        last = min(first + BETWEEN, len(made))
        now.send(made[first:last])
        now.send_labels(labels[len(labels) * first // len(made) : len(labels) * last // len(made)])


def measured(
    now: Running, made: list[Keyed], answers: int, broker: str, labels: Sequence[Keyed] = ()
) -> dict[str, Any]:
    """The figures of these events, after which there are so many `answers` in all."""
    before = now.watch.mark()
    started = time.monotonic()
    if broker == "kafka":
        with standing_still(now.worker):
            sent(now, made, list(labels))
        started = time.monotonic()
    else:
        sent(now, made, list(labels))
    now.wait_for(answers)
    seconds = time.monotonic() - started
    after = now.watch.mark()
    spent = cpu_us(before, after, len(made))
    return {
        "events_per_second": round(len(made) / seconds),
        "cpu_us_per_event": spent.pop("worker"),
        "cpu_us_per_event_beside": spent,
        "stages_us": step_us(before, after, len(made)),
        "batch_rows": batch_rows(before, after, len(made)),
        "events": len(made),
        "seconds": round(seconds, 1),
        "memory_mib": now.watch.memory_mib(),
    }


def _where(now: Running, started: Servers, broker: str) -> dict[str, Any]:
    found = machine(ROAD_PACKAGES)
    return {
        "pipeline": now.workload.pipeline.name,
        "entities": len(now.workload.pipeline.feature_set.entities),
        "windows": len(now.workload.pipeline.feature_set.windows),
        "broker": broker,
        "partitions": now.settings.partitions,
        "machine": {**found, "servers": started.versions},
    }


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """For people."""
    told: dict[str, Callable[[Any], str]] = {
        "pipeline": str,
        "broker": str,
        "events": "{:,}".format,
        "events_per_second": "{:,}".format,
        "cpu_us_per_event": "{:,}".format,
    }
    table = Table(title="The predict road in one worker", show_header=False)
    for name, shown in told.items():
        table.add_row(name, shown(figures[name]))
    for name, spent in figures["cpu_us_per_event_beside"].items():
        table.add_row(f"{name}'s CPU, us an event", f"{spent:,}")
    console.print(table)
    print_steps(console, "wall time of the steps, us an event", figures["stages_us"])
    print_steps(console, "rows a batch", {"": figures["batch_rows"]})
    print_machine(console, figures["machine"])


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--events", type=int, default=300_000, help="in all; a tenth warms up (default 300,000)"
    )
    parser.add_argument("--broker", choices=BROKERS, default="embedded")
    parser.add_argument("--pipeline", choices=("cards", "flights"), default="cards")
    parser.add_argument("--labels", action="store_true", help="send the labels as well (flights)")
    parser.add_argument("--partitions", type=int, default=4, help="of every topic (default 4)")
    parser.add_argument("--cards", type=int, default=20_000, help="entities of `cards` (default 20,000)")
    parser.add_argument("--terminals", type=int, default=2_000, help="likewise (default 2,000)")
    parser.add_argument("--skew", type=float, default=0.0, help="0: all are equally busy; 1: Zipf's law")
    parser.add_argument("--training-events", type=int, default=0, help="for a smaller model, made sooner")
    asked = parser.parse_args()
    try:
        places = (_workload(asked), asked.events, asked.broker, asked.partitions, asked.training_events)
        figures = run(*places, labels=asked.labels)
    except DriftwoodError as error:
        say(str(error))
        sys.exit(error.exit_code)
    tell(figures, as_json=asked.json, show=show)


def _workload(asked: argparse.Namespace) -> Workload:
    if asked.pipeline == "flights":
        return flight_workload(Settings().runs_dir / "data" / "flights")
    return card_workload(asked.cards, asked.terminals, asked.skew)


if __name__ == "__main__":
    main()
