"""What is handed to the kernel and back, as arrays: the state of all entities, a batch, its results, its changes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.plan import Floats, Hashes, Ints


class Memory(NamedTuple):
    """The rows of all entities, one after another: three views of the same memory, and the kernel's scratch."""

    words: Ints
    numbers: Floats
    hashes: Hashes
    entity_of_slot: npt.NDArray[np.int32]  # int32[slots]: 1 + its number in the batch; 0 between batches
    scratch: Hashes  # uint64[most hashes of a tile]


class Batch(NamedTuple):
    """n events: the slot of each (-1: no key), its time, float64[n, inputs] and uint64[n, hashed]."""

    slots: Ints
    times_us: Ints
    inputs: Floats
    hashed: Hashes


class LabelBatch(NamedTuple):
    """m label rows among the events of a batch: `before` has the number of events before each, ascending.

    `values` and `replaced` are float64[m, label inputs]; `replaced_us` is NEVER where nothing is replaced. `dropped`, one
    number, counts how often a window group was told too late.
    """

    slots: Ints
    before: Ints
    known_us: Ints
    values: Floats
    replaced_us: Ints
    replaced: Floats
    dropped: Ints


class Results(NamedTuple):
    """What is known of each event, see `features.state.EntityBatch`."""

    features: Floats
    age_s: Floats
    dropped: Ints
    late: npt.NDArray[np.bool_]


class ChangeLog(NamedTuple):
    """Which cells a batch changed. `counts` = number of entities, number of changed cells.

    Entities are numbered by first appearance; `slots` and `newest_rows` are int64[entities]. `marks` holds a bit for
    each cell of each entity, uint64[entities, words]; with no words nothing is logged. `changed` is int64[cells, 3]:
    entity, cell, and the tile number that stood in the cell before the batch.
    """

    counts: Ints
    slots: Ints
    newest_rows: Ints
    marks: Hashes
    changed: Ints
