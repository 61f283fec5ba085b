"""Like with like: the hours of a week in cells, and the shares that are usual in each.

A cell is a day of the week x four hours (UTC). Its shares are drawn towards those of the same four hours on all days, and
these towards the shares of all time, the more so the fewer rows it has.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.durations import DAY_US, HOUR_US
from features.plan import Floats, Ints

CELL_US: Final = 4 * HOUR_US
BLOCKS: Final = DAY_US // CELL_US
DAYS: Final = 7
CELLS: Final = DAYS * BLOCKS

# Rows of a cell at which it counts as much as what it is drawn towards.
SHRINKAGE: Final = 100.0
# A day of the week is compared with its like when each was seen that often, four hours when seen on so many days: a cell of
# one day would be that day's accidents.
WEEKS_NEEDED: Final = 3
DAYS_NEEDED: Final = 3


def cells_of(starts_us: Ints) -> Ints:
    """The cell of each moment: int64, 0 to 41.

    Example:
        >>> cells_of(np.array([0, 5 * HOUR_US, DAY_US, 7 * DAY_US])).tolist()
        [0, 1, 6, 0]
    """
    found: Ints = (starts_us // DAY_US % DAYS) * BLOCKS + starts_us // CELL_US % BLOCKS
    return found


def hours_of(starts_us: Ints) -> Ints:
    """The hour of the week of each moment: int64, 0 to 167."""
    found: Ints = starts_us // HOUR_US % (DAYS * 24)
    return found


def sums_by(cells: Ints, rows: Floats, count: int) -> Floats:
    """float64[count, numbers]: the rows of each cell added."""
    places = np.zeros((count, len(cells)))
    places[cells, np.arange(len(cells))] = 1.0
    found: Floats = places @ rows
    return found


def cell_shares(sums: Floats, parts_of: Ints, days: float) -> Floats:
    """float64[CELLS, numbers]: what each number is usually of its denominator. `days`: length of the time that was added."""
    everything = sums.sum(axis=0)
    overall = _shares(everything, parts_of)
    if days < DAYS_NEEDED:
        return np.broadcast_to(overall, sums.shape)
    blocks = _drawn(sums.reshape(DAYS, BLOCKS, -1).sum(axis=0), parts_of, overall)
    of_blocks = np.tile(blocks, (DAYS, 1))
    return _drawn(sums, parts_of, of_blocks) if days >= DAYS * WEEKS_NEEDED else of_blocks


def _shares(sums: Floats, parts_of: Ints) -> Floats:
    wholes = sums[..., parts_of]
    found: Floats = np.divide(sums, wholes, out=np.zeros_like(sums), where=wholes > 0)
    return found


def _drawn(sums: Floats, parts_of: Ints, towards: Floats) -> Floats:
    found: Floats = (sums + SHRINKAGE * towards) / (sums[..., parts_of] + SHRINKAGE)
    return found


def usual_rows(hours: Ints, rows: Floats, hours_each: float) -> Floats:
    """float64[168]: rows an hour by hour of the week; where an hour was not seen often enough, by hour of the day, or at all.

    `hours_each`: the length of what was counted each time.
    """
    seen = np.bincount(hours, minlength=168).astype(float)
    sums = np.bincount(hours, weights=rows, minlength=168)
    days, of_day = seen.reshape(DAYS, 24).sum(axis=0), sums.reshape(DAYS, 24).sum(axis=0)
    overall = rows.sum() / max(len(rows), 1)
    by_day = np.where(days >= DAYS_NEEDED, of_day / np.maximum(days, 1), overall)
    found: Floats = np.where(seen >= WEEKS_NEEDED, sums / np.maximum(seen, 1), np.tile(by_day, DAYS))
    return found / hours_each
