"""What the kernel is told about one entity: plain data, compiled from the declaration in `features/feature_set.py`.

A window is read from *tiles*. All windows of an entity that aggregate the same input with the same tile size share one
**window group**: a ring of tiles. `last`, `time since last` and the exponentially weighted mean need no tiles; each is
one **point**. A feature is one **output**: an aggregate read from a group or a point.

The window of a feature with width w, as of an event at time t, where n is the newest event time of the entity before
this event (n = t when there is none, and t counts when it is newer):

    tiles from  max(floor((t - w) / tile), floor((n - w) / tile))  to  floor(t / tile),  both included

A row counts if it stands earlier in the order and its tile lies within. A window over labels (groups of kind SUMS) counts
label rows, by the time at which they became known, as far as their tile is not `ring` or more before that of the newest
(`features/label_rows.py`). All times are int64 microseconds since the Unix
epoch (UTC); tile numbers are `time_us // tile_us`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class GroupKind(IntEnum):
    """What a tile of a window group holds."""

    COUNT = 0  # number of rows whose input is not NaN
    MOMENTS = 1  # count, sum and its rounding remainder, sum of squared deviations from the tile's own mean (Welford)
    EXTREMES = 2  # minimum, maximum
    DISTINCT = 3  # the `bound` + 1 smallest distinct hashes (a KMV sketch: exact up to `bound`)
    SUMS = 4  # over labels: count, sum and sum of squares, each sum with its rounding remainder, so that rows can be undone


class PointKind(IntEnum):
    """What a point holds about the newest row whose input is not NaN."""

    LAST = 0  # its time and value
    SEEN = 1  # its time
    DECAYED = 2  # its time, the decayed sum of values and the decayed sum of weights


class Aggregate(IntEnum):
    """How a feature is read from its group or point."""

    COUNT = 0
    SUM = 1
    MEAN = 2
    STD = 3  # sample standard deviation (n - 1); default when fewer than two rows
    MIN = 4
    MAX = 5
    DISTINCT = 6
    LAST = 7
    SINCE_LAST = 8  # seconds
    EWM = 9


@dataclass(frozen=True)
class Input:
    """One input column of an entity: a field or expression, kept only where a condition holds.

    `value` None means the constant 1 (rows are counted). A null value or a false (or null) condition gives NaN in a
    number column and 0 in a hash column: the kernel skips the row for that input.
    """

    value: str | None
    where: str | None = None


@dataclass(frozen=True)
class WindowGroup:
    """A ring of tiles. `ring` = tiles that can be alive at once = max over its windows of ceil(w / tile) + 1.

    A ring over labels is longer, so that labels may run ahead of the entity's events.
    """

    kind: GroupKind
    column: int  # index into EntityPlan.inputs, into EntityPlan.hashed for DISTINCT, into EntityPlan.label_inputs for SUMS
    tile_us: int
    ring: int
    bound: int  # DISTINCT: exact up to this many distinct values; 0 for the other kinds
    identity: int  # uint32 hash of (entity, key fields, kind, input, tile, bound): a changed one starts empty


@dataclass(frozen=True)
class Point:
    """State of the newest row. Rows older than the newest by more than `within_us` are dropped, a gap of more resets."""

    kind: PointKind
    column: int  # index into EntityPlan.inputs
    within_us: int
    half_life_us: int  # DECAYED only, else 0
    identity: int


@dataclass(frozen=True)
class Output:
    """One feature of the entity, in the order in which the kernel writes it."""

    name: str
    aggregate: Aggregate
    source: int  # index into groups (COUNT .. DISTINCT) or into points (LAST, SINCE_LAST, EWM)
    window_us: int
    default: float  # NaN means missing


@dataclass(frozen=True)
class EntityPlan:
    """Everything the kernel, the store and Feast need to know about one entity of a pipeline."""

    entity: str
    keys: tuple[str, ...]  # the text fields whose values make the key (see `features.rows.entity_keys`)
    inputs: tuple[Input, ...]  # float64 columns
    hashed: tuple[Input, ...]  # uint64 columns, for `distinct`
    groups: tuple[WindowGroup, ...]
    points: tuple[Point, ...]
    outputs: tuple[Output, ...]
    label_inputs: tuple[
        str, ...
    ] = ()  # what its windows over labels need: the label's name first, then its values

    @property
    def longest_us(self) -> int:
        """The longest window in microseconds: state older than this is never read again (0 without windows)."""
        return max((output.window_us for output in self.outputs), default=0)
