"""Memory with very many entities: of one real worker, and of Redis.

    python -m benchmarks.memory --entities 1000000 --json

First, what entities of several plans really take in a fresh process, against what `driftwood features` states. Then a real
worker of the pipeline `cards` (two entities, 24 windows) answers one event of every card, and those of 50,000 of them 10
more times. The worker keeps what `hot_memory` allows, and evicts the rest: `worker_mib` is the most that it had resident.
Redis keeps all: `redis_bytes_per_entity` counts state, Feast row and event ids, for a card with a share of its terminal,
after one event of each, and `redis_bytes_per_further_event` what each later one added.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import redis
from rich.console import Console
from rich.table import Table

from benchmarks.card_payments import Payments, payments, records
from benchmarks.hot_set_memory import measured
from benchmarks.kernel_plans import TYPICAL
from benchmarks.machine import ROAD_PACKAGES, machine
from benchmarks.printing import arguments, print_machine, say, tell
from benchmarks.running import Running, running
from benchmarks.workloads import card_workload
from features.errors import DriftwoodError
from features.table import entity_table
from streams.assembly import hot_entities

CHUNK = 50_000  # events that are made and sent at once
AGAIN, TIMES = 50_000, 10
MIB = 1 << 20


def run(entities: int, again: int, broker: str, partitions: int) -> dict[str, Any]:
    """Fill, look, fill on, and say what was found."""
    say("measuring the bytes of an entity in a fresh process")
    stated = {name: measured(name) for name in TYPICAL}
    workload = card_workload(entities, max(entities // 10, 1))
    with (
        tempfile.TemporaryDirectory(prefix="driftwood-benchmark-") as folder,
        running(workload, broker, partitions, Path(folder), training_events=20_000) as (now, started),
    ):
        look = _Look(now, started.redis_url)
        empty = look.redis_bytes()
        say(f"one event of each of {entities:,} cards")
        look.send(_each_once(entities))
        once = look.redis_bytes()
        say(f"{TIMES} more events of {again:,} cards")
        for time in range(TIMES):
            look.send(_some(entities, again, time))
        full = look.redis_bytes()
        return {
            "entities": entities,
            "bytes_per_entity": stated,
            "pipeline": [
                {"name": row.name, "memory_bytes": row.memory_bytes, "stored_bytes": row.stored_bytes}
                for row in entity_table(workload.pipeline.feature_set)
            ],
            "hot_entities_per_partition": hot_entities(workload.pipeline, now.settings),
            "worker_mib": look.most_mib,
            "evictions": look.evictions(),
            "redis_mib": round(full / MIB),
            "redis_bytes_per_entity": round((once - empty) / entities),
            "redis_bytes_per_further_event": round((full - once) / (again * TIMES)),
            "machine": {**machine(ROAD_PACKAGES), "servers": started.versions},
        }


class _Look:
    """Sends events, waits for the answers, and remembers the most memory that the worker had."""

    def __init__(self, now: Running, redis_url: str) -> None:
        self._now = now
        self._redis = redis.Redis.from_url(redis_url)
        self._answers = 0
        self.most_mib = 0

    def send(self, made: Payments) -> None:
        """In chunks, and wait for each."""
        for start in range(0, len(made.numbers), CHUNK):
            part = Payments._make(column[start : start + CHUNK] for column in made)
            self._now.send(records(part))
            self._answers += len(part.numbers)
            self._now.wait_for(self._answers)
            self.most_mib = max(self.most_mib, self._now.watch.memory_mib()["worker"])
            say(f"{self._answers:,} events, the worker has {self.most_mib:,} MiB")

    def redis_bytes(self) -> int:
        """What Redis uses."""
        said: Any = self._redis.info("memory")  # redis-py types every answer as possibly awaitable
        return int(said["used_memory"])

    def evictions(self) -> int:
        """Entities that made room."""
        samples = self._now.watch.mark().samples
        return int(sum(value for (name, _), value in samples.items() if name == "driftwood_evictions"))


def _each_once(entities: int) -> Payments:
    """Each card once, in random order."""
    made = payments(entities, cards=entities, terminals=max(entities // 10, 1))
    return made._replace(cards=np.random.default_rng(2).permutation(entities))


def _some(entities: int, again: int, time: int) -> Payments:
    """So many cards once more, hours after the time before."""
    first = entities * (time + 1)
    made = payments(again, cards=entities, terminals=max(entities // 10, 1), first=first)
    return made._replace(cards=np.random.default_rng(time).permutation(again))


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """For people."""
    table = Table("plan", "stated", "measured", title="bytes of an entity in memory")
    for name, found in figures["bytes_per_entity"].items():
        table.add_row(name, f"{found['stated_bytes']:,}", f"{found['measured_bytes']:,.0f}")
    console.print(table)
    table = Table(title=f"{figures['entities']:,} cards, 24 windows", show_header=False)
    for name in ("hot_entities_per_partition", "worker_mib", "evictions", "redis_mib"):
        table.add_row(name, f"{figures[name]:,}")
    for name in ("redis_bytes_per_entity", "redis_bytes_per_further_event"):
        table.add_row(name, f"{figures[name]:,}")
    console.print(table)
    print_machine(console, figures["machine"])


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--entities", type=int, default=1_000_000, help="cards (default 1,000,000)")
    parser.add_argument("--broker", choices=("kafka", "embedded"), default="embedded")
    parser.add_argument("--partitions", type=int, default=4, help="of every topic (default 4)")
    asked = parser.parse_args()
    try:
        again = min(AGAIN, asked.entities)
        figures = run(asked.entities, again, asked.broker, asked.partitions)
    except DriftwoodError as error:
        say(str(error))
        sys.exit(error.exit_code)
    tell(figures, as_json=asked.json, show=show)


if __name__ == "__main__":
    main()
