"""The kernel: equal to brute force on a million awkward events, and how fast.

    python -m benchmarks.kernel --events 1000000 --json

Speeds are CPU time of this process (user and system), so that other programs on the machine count less.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.kernel_plans import EVERYTHING, ONE_GROUP, TYPICAL, Events, events
from benchmarks.machine import machine
from features.layout import bytes_per_entity, stored_bytes_per_entity
from features.oracle import Oracle, Row
from features.packing import CHANGE_HEADER, STORED_HEADER
from features.plan import EntityPlan
from features.state import EntityBatch, EntityState

TOLERANCE = 1e-9  # absolute below 1, relative above
EVENTS_PER_ENTITY = 25  # brute force costs its square
BACKFILL, STREAM = 50_000, 500  # rows a batch


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000, help="events compared with brute force")
    parser.add_argument("--seed", type=int, default=20130401)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    asked = parser.parse_args()
    speed(ONE_GROUP, STREAM)  # compiles
    figures: dict[str, object] = {
        "events_per_second": round(1e6 / speed(ONE_GROUP, 500_000)["backfill_us"]),
        **compare(asked.events, asked.seed),
        "plans": {name: speed(plan, 200_000) for name, plan in TYPICAL.items()},
        "machine": machine(["driftwood", "numba", "llvmlite", "numpy"]),
    }
    if asked.json:
        json.dump(figures, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        show(figures)
    sys.exit(1 if figures["mismatches"] else 0)


def compare(n: int, seed: int) -> dict[str, object]:
    """Every feature of n events against brute force."""
    rows, oracle = events(n, max(1, n // EVENTS_PER_ENTITY), seed), Oracle(EVERYTHING)
    mismatches = late = dropped = 0
    names = [f"{output.aggregate.name} {output.window_us // 1_000_000} s" for output in EVERYTHING.outputs]
    filled = np.zeros(len(names), np.int64)
    at = 0
    for batch in run(EVERYTHING, rows, BACKFILL):
        expected = []
        for i in range(at, at + len(batch.features)):
            row = Row(int(rows.times_us[i]), rows.inputs[i].tolist(), rows.hashes[i].tolist())
            expected.append(oracle.answer(rows.keys[i], row).features)
        at += len(expected)
        wanted = np.array(expected)
        allowed = TOLERANCE * np.maximum(1.0, np.abs(wanted))
        equal = (np.abs(batch.features - wanted) <= allowed) | (np.isnan(batch.features) & np.isnan(wanted))
        mismatches += int((~equal).any(axis=1).sum())
        filled += (~np.isnan(wanted)).sum(axis=0)
        late += int(batch.late.sum())
        dropped += int((batch.dropped > 0).sum())
    shares = {name: round(count / n, 3) for name, count in zip(names, filled.tolist(), strict=True)}
    told = {
        "oracle_events": n,
        "mismatches": mismatches,
        "late_events": late,
        "events_partly_too_late": dropped,
    }
    return {**told, "tolerance": TOLERANCE, "share_of_events_with_a_value": shares}


def run(plan: EntityPlan, rows: Events, size: int, *, pack: bool = False) -> Iterator[EntityBatch]:
    """All rows through one state, in batches of `size`."""
    state = EntityState(plan, len(set(rows.keys)))
    for begin in range(0, len(rows.keys), size):
        piece = slice(begin, begin + size)
        keys = rows.keys[piece]
        state.load(dict.fromkeys(state.missing(keys)))
        columns = rows.times_us[piece], rows.inputs[piece], rows.hashes[piece]
        yield state.update_batch(keys, *columns, pack=pack)


def speed(plan: EntityPlan, n: int) -> dict[str, float]:
    """Microseconds of CPU; 1,000 entities, events in the order of their times but for the late ones."""
    rows = events(n, 1_000, 1, hours=24.0 * 30)
    backfill = min(_seconds_of(plan, rows, BACKFILL, pack=False) for _ in range(3)) / n
    stream = min(_seconds_of(plan, rows, STREAM, pack=True) for _ in range(2)) / n
    return {
        "backfill_us": round(1e6 * backfill, 3),
        "stream_us": round(1e6 * stream, 3),
        "load_us": round(1e6 * _load_seconds(plan, rows), 3),
        "bytes_per_entity": bytes_per_entity(plan),
        "stored_bytes_per_entity": stored_bytes_per_entity(plan),
    }


def _seconds_of(plan: EntityPlan, rows: Events, size: int, *, pack: bool) -> float:
    begin = time.process_time()
    for _ in run(plan, rows, size, pack=pack):
        pass
    return time.process_time() - begin


def _load_seconds(plan: EntityPlan, rows: Events) -> float:
    """Seconds to take an entity back from its stored bytes: those of one batch over all rows, no tile replaced."""
    changes = next(run(plan, rows, len(rows.keys), pack=True)).changes
    stored = {key: _stored(records) for key, records in changes}
    state = EntityState(plan, len(stored))
    begin = time.process_time()
    state.load(stored)
    return (time.process_time() - begin) / len(stored)


def _stored(changes: bytes) -> bytes:
    records, at = [], 0
    while at < len(changes):
        identity, tile, _, length = CHANGE_HEADER.unpack_from(changes, at)
        at += CHANGE_HEADER.size
        records.append(STORED_HEADER.pack(identity, tile, length) + changes[at : at + length])
        at += length
    return b"".join(records)


def show(figures: dict[str, object]) -> None:
    """The same for people."""
    console, plans = Console(), figures["plans"]
    assert isinstance(plans, dict)
    table = Table("plan", title="CPU of one core")
    for column in (
        "backfill us/event",
        "stream us/event",
        "load us/entity",
        "bytes/entity",
        "stored bytes/entity",
    ):
        table.add_column(column, justify="right")
    for name, row in plans.items():
        table.add_row(name, *(f"{value:,}" for value in row.values()))
    console.print(table)
    console.print(f"one window group: {figures['events_per_second']:,} events/s")
    console.print(
        f"against brute force: {figures['mismatches']} of {figures['oracle_events']:,} events differ"
    )
    console.print(figures["machine"])


if __name__ == "__main__":
    main()
