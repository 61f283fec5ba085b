"""What entities really take in memory: a fresh process fills a hot set, and its resident memory is looked at.

>>> figures = measured("one window, 24 tiles, 3 aggregates", megabytes=50)  # in a process of its own
>>> sorted(figures)
['entities', 'measured_bytes', 'stated_bytes']
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import psutil

from benchmarks.kernel_plans import HOUR, TYPICAL
from features.layout import bytes_per_entity
from features.plan import EntityPlan
from features.state import EntityState

BATCH = 500
KEY_CHARS = 40  # as `driftwood features` counts


def measured(name: str, megabytes: int = 200) -> dict[str, float]:
    """Bytes of an entity of this plan of `TYPICAL`, as stated and as found when entities take so many megabytes.

    In a process of its own: what others left behind in this one would be filled first.
    """
    child = [sys.executable, "-m", "benchmarks.hot_set_memory", name, str(megabytes)]
    done = subprocess.run(child, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _filled(plan: EntityPlan, entities: int) -> int:
    """Resident bytes that so many entities add to this process. Everything is warm before the first."""
    process = psutil.Process()
    _fill(EntityState(plan, BATCH), 0, BATCH)
    before = process.memory_info().rss
    state = EntityState(plan, entities)
    for first in range(0, entities, BATCH):
        _fill(state, first, min(BATCH, entities - first))
    return process.memory_info().rss - before


def _fill(state: EntityState, first: int, count: int) -> None:
    keys = [str(number).rjust(KEY_CHARS, "k") for number in range(first, first + count)]
    state.load(dict.fromkeys(state.missing(keys)))
    times_us = np.full(count, 400 * 24 * HOUR, np.int64)
    hashes = np.arange(1, count + 1, dtype=np.uint64)[:, np.newaxis]
    batch = state.update_batch(keys, times_us, np.ones((count, len(state.plan.inputs))), hashes)
    state.committed(batch.number)


def main() -> None:
    """The child: fill, look, say."""
    plan, megabytes = TYPICAL[sys.argv[1]], int(sys.argv[2])
    stated = bytes_per_entity(plan)
    entities = megabytes * 1_000_000 // stated
    figures = {
        "entities": entities,
        "stated_bytes": stated,
        "measured_bytes": _filled(plan, entities) / entities,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
