"""What grows with entities, windows and workers, and what should not.

    python -m benchmarks.growth
    python -m benchmarks.growth --parts workers,recovery --events 200000 --json
    python -m benchmarks.growth --parts entities,windows,misses --entities 1000,10000 --windows 1h,90d

Parts:

    entities   CPU an event from 10^3 to 10^6 entities, all of them in memory
    windows    CPU an event with a window of 1 h to 90 d; `tiles` is how many a window is read from
    misses     the same where a tenth of the entities fits into memory, so that nearly every row is read from Redis
    workers    1 and 2 workers on a backlog in 8 partitions of a real Kafka
    recovery   kill -9 with 10^6 known entities on a real Kafka: when the group gives the partitions to another worker,
               and from then on until its first prediction

The first three drive the stages in this process, over a real Redis, with batches of 500 rows of 500 entities: CPU of the
process, from JSON to JSON. The others run real workers. `flat_within` is the largest of a curve over its smallest. The
points of a curve are measured in turns of 1,000 events, and each is the median of its turns: a shared machine becomes
faster and slower within seconds, and a point measured by itself would say more of that than of its entities.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.growth_curves import USUAL_EVENTS, Point, over_entities, over_windows, without_memory
from benchmarks.growth_workers import recovery, several_workers
from benchmarks.machine import ROAD_PACKAGES, machine
from benchmarks.printing import arguments, print_machine, say, tell
from features.errors import DriftwoodError
from streams.run import calm_collector

WARMING_ENTITIES = 500
PARTS = ("entities", "windows", "misses", "workers", "recovery")


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """The parts that were asked for."""
    found: dict[str, Any] = {}
    calm_collector()  # as a worker does
    if {"entities", "windows", "misses"} & set(asked.parts):
        # The first batches of a process are slower, whatever is in them: they are nobody's point.
        asyncio.run(over_entities([WARMING_ENTITIES], events=asked.measured))
    if "entities" in asked.parts:
        found["entities"] = _curve(asyncio.run(over_entities(asked.entities, events=asked.measured)))
    if "windows" in asked.parts:
        found["windows"] = _curve(
            asyncio.run(over_windows(asked.windows, asked.window_entities, asked.measured))
        )
    if "misses" in asked.parts:
        found["misses"] = asyncio.run(without_memory(asked.missing_entities, events=asked.measured))._asdict()
    if "workers" in asked.parts:
        workers = several_workers(2, asked.events, "kafka", asked.partitions, asked.training_events)
        found["workers"] = [one._asdict() for one in workers]
    if "recovery" in asked.parts:
        found["recovery"] = recovery(
            max(asked.entities), "kafka", asked.partitions, asked.training_events
        )._asdict()
    return {**found, "machine": machine(ROAD_PACKAGES)}


def _curve(points: Sequence[Point]) -> dict[str, Any]:
    spent = [point.cpu_us for point in points]
    return {
        "flat_within": round(max(spent) / min(spent), 3),
        "points": [point._asdict() for point in points],
    }


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """For people."""
    for part in ("entities", "windows"):
        if part in figures:
            _show_points(console, part, figures[part]["points"])
            console.print(f"largest / smallest: {figures[part]['flat_within']}")
    if "misses" in figures:
        _show_points(console, "misses", [figures["misses"]])
    for one in figures.get("workers", ()):
        console.print(
            f"{one['workers']} worker(s): {one['events_per_second']:,} events/s, {one['cpu_us_per_event']} us of CPU an event"
        )
    if "recovery" in figures:
        found = figures["recovery"]
        console.print(
            f"kill -9 with {found['known_entities']:,} known entities: partitions given to another worker after "
            f"{found['assigned_after_s']} s, its first prediction {found['first_prediction_after_s']} s later"
        )
    print_machine(console, figures["machine"])


def _show_points(console: Console, title: str, points: Sequence[Mapping[str, Any]]) -> None:
    steps = list(points[0]["steps_us"])
    table = Table("entities", "window", "tiles", "misses a row", "CPU us/event", *steps, title=title)
    for point in points:
        told = [f"{point['entities']:,}", point["window"], str(point["tiles"]), f"{point['misses']:g}"]
        table.add_row(
            *told,
            f"{point['cpu_us']}",
            *(f"{point['steps_us'][step]}" for step in steps),
        )
    console.print(table)


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--parts", type=_parts, default=PARTS, help="with commas (default: all)")
    parser.add_argument("--entities", type=_numbers, default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--windows", type=_words, default=["1h", "12h", "1d", "7d", "30d", "90d"])
    parser.add_argument("--window-entities", type=int, default=1_000, help="in the curve over windows")
    parser.add_argument("--missing-entities", type=int, default=200_000, help="in the part misses")
    parser.add_argument("--measured", type=int, default=USUAL_EVENTS, help="events at each point of a curve")
    parser.add_argument("--events", type=int, default=150_000, help="of a backlog of workers (150,000)")
    parser.add_argument("--partitions", type=int, default=8, help="of workers and recovery (8)")
    parser.add_argument("--training-events", type=int, default=0, help="for a smaller model, made sooner")
    asked = parser.parse_args()
    try:
        figures = run(asked)
    except DriftwoodError as error:
        say(str(error))
        sys.exit(error.exit_code)
    tell(figures, as_json=asked.json, show=show)


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(_words(text))
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    return chosen


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    return [int(float(word)) for word in _words(text)]


if __name__ == "__main__":
    main()
