"""Thresholds: how far from what is expected a window may lie, so that false alarms keep to the budget.

1. Every window of the reference is compared with what the rest of it lets expect: its own fold of time is left out.
2. Each measure is standardised by its mean and spread over the other folds, so that all can be compared with one threshold.
3. What is strongest at each moment makes one path through time; blocks of it make months, and in each the incidents are
   counted as an alert lives: from the threshold on, until everything is below `CLEARS` of it.
4. The threshold is the lowest one that keeps to the budget. Where the reference is too short to show it, the tail of its
   strongest moments is carried on: exponential, with the error of what it was estimated from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from features.durations import DAY_US
from features.plan import Floats, Ints
from models.drift.measures import Windows
from models.drift.reference import Reference
from models.drift.season import cell_shares, cells_of, hours_of, sums_by, usual_rows
from models.drift.signals import CLEARS

MONTH_DAYS: Final = 30.4375

# Of the pipeline's budget: what labels and concept do not take.
SHARE_OF_BUDGET: Final = 0.7

# A window's own time is left out of what it is compared with, and so is the time around it: things that move slowly are
# like themselves for days.
FOLDS: Final = 4
LONG_WINDOWS: Final = 7
"""Beside the window itself, so many of them are compared as one, where the reference has `LONG_WINDOWS_KNOWN` such spans."""
LONG_WINDOWS_KNOWN: Final = 6
"""Four of them say too little about what seven days do by themselves: measured, a false alarm a month instead of a third."""

BLOCK_DAYS: Final = 7
MONTHS: Final = 400
TAIL_PEAKS: Final = 10
# On top of it all: a month or two hold few moments of what moves with the month, and its spread is known no better. A tenth
# of sixty days and more, up to a fifth of thirty and less: measured, see docs/decisions/0040.
MARGIN_DAYS: Final = 6
MARGINS: Final = (1.1, 1.2)
# However calm a short reference was: chance alone goes that far in a month of thirty measures.
FEWEST_SPREADS: Final = 4.5


@dataclass(frozen=True, eq=False)
class Thresholds:
    """`lengths`: spans of each window. `mean`, `spread`: float64[windows, measures], of distances without drift.

    `limit`: how many spreads above the mean raise an alert. `peaks`: float64[windows, measures], the largest strength that
    the reference itself shows.
    """

    lengths: tuple[int, ...]
    mean: Floats
    spread: Floats
    limit: float
    peaks: Floats

    def strengths(self, distances: Floats, length: int) -> Floats:
        """Distances of the window number `length` in times of what raises an alert."""
        found: Floats = np.maximum((distances - self.mean[length]) / self.spread[length], 0.0) / self.limit
        return found


def calibrated(reference: Reference, budget: float) -> Thresholds:
    """Thresholds with at most `budget` false alarms a month, over everything that is measured."""
    lengths = lengths_of(reference)
    folds = np.arange(len(reference.tallies)) * FOLDS // len(reference.tallies)
    distances = [_null(reference, folds, length) for length in lengths]
    chance = reference.measures.chance
    scores = np.stack([_standardised(one, folds, chance) for one in distances], axis=1)
    limit = _limit(scores.max(axis=(1, 2)), reference, budget * SHARE_OF_BUDGET)
    mean, spread = zip(*(_usual(one, chance) for one in distances), strict=True)
    peaks = np.maximum(scores, 0.0).max(axis=0) / limit
    return Thresholds(lengths, np.array(mean), np.array(spread), limit, peaks)


def lengths_of(reference: Reference) -> tuple[int, ...]:
    """Spans in each window that is compared: the window, and `LONG_WINDOWS` of them where the reference is long enough."""
    window = max(reference.window_us // reference.step_us, 1)
    long = window * LONG_WINDOWS
    return (window, long) if len(reference.tallies) >= LONG_WINDOWS_KNOWN * long else (window,)


def _null(reference: Reference, folds: Ints, length: int) -> Floats:
    """float64[spans, measures]: distances of the window up to each span; NaN where it would begin before the reference."""
    found = reference.tallies.astype(np.float64)
    expected, usual = _left_out(reference, found, folds)
    largest, usual_largest = (
        reference.largest,
        np.broadcast_to(reference.usual_largest, reference.largest.shape),
    )
    if length != reference.window_us // reference.step_us:
        largest, usual = usual_largest, found[:, reference.layout.rows]
    windows = Windows(
        _summed(found, length),
        _summed(expected, length),
        _summed(usual[:, None], length)[:, 0],
        largest,
        usual_largest,
    )
    _, distances = reference.measures.measured(windows)
    distances[: length - 1] = np.nan
    return distances


def _left_out(reference: Reference, found: Floats, folds: Ints) -> tuple[Floats, Floats]:
    """What the other folds let expect of each span: tallies, and rows."""
    parts_of, starts = reference.layout.parts_of, reference.starts_us
    cells, hours = cells_of(starts), hours_of(starts)
    expected, usual = np.empty_like(found), np.empty(len(found))
    hours_each = reference.step_us / 3_600e6
    for fold in range(FOLDS):
        mine, others = folds == fold, folds != fold
        days = others.sum() * reference.step_us / DAY_US
        shares = cell_shares(sums_by(cells[others], found[others], 42), parts_of, days)
        expected[mine] = found[mine][:, parts_of] * shares[cells[mine]]
        rows = usual_rows(hours[others], found[others, reference.layout.rows], hours_each)
        usual[mine] = rows[hours[mine]] * hours_each
    return expected, usual


def _summed(rows: Floats, length: int) -> Floats:
    """The sum of the `length` rows up to each, of fewer at the start."""
    sums = np.cumsum(rows, axis=0)
    sums[length:] = sums[length:] - sums[:-length]
    return sums


def _usual(distances: Floats, chance: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Mean and spread of distances without drift, and never less than chance alone has."""
    known = distances[~np.isnan(distances).any(axis=1)]
    if not len(known):
        return chance
    return np.maximum(known.mean(axis=0), chance[0]), np.maximum(known.std(axis=0), chance[1])


def _standardised(distances: Floats, folds: Ints, chance: tuple[Floats, Floats]) -> Floats:
    """Spreads above the mean, each fold's by those of the others: what chance made small in a fold is no usual spread."""
    found = np.empty_like(distances)
    for fold in range(FOLDS):
        mean, spread = _usual(distances[folds != fold], chance)
        found[folds == fold] = (distances[folds == fold] - mean) / spread
    return np.nan_to_num(found, nan=0.0)


def _limit(path: Floats, reference: Reference, budget: float) -> float:
    """The lowest threshold with which months made of blocks of this path keep to the budget."""
    months = reference.days / MONTH_DAYS
    margin = min(max(1 + MARGIN_DAYS / reference.days, MARGINS[0]), MARGINS[1])
    window = max(reference.window_us // reference.step_us, 1)
    peaks = np.sort(_peaks(path, window))[::-1]
    count = min(TAIL_PEAKS, len(peaks) - 1)
    if count < 1:
        return float(max(margin * peaks[0], FEWEST_SPREADS))
    base, rate = float(peaks[count]), count / months
    excess = float((peaks[:count] - base).mean())
    # The tail of an exponential distribution whose mean is known from `count` values only: a little heavier than its own.
    ratio = max(rate / budget, 1.0)
    tail = base + count * excess * (ratio ** (1 / count) - 1)
    return max(margin * float(tail), margin * _of_blocks(path, reference, budget), FEWEST_SPREADS)


def _peaks(path: Floats, window: int) -> Floats:
    """The largest value of each stretch of one window: overlapping windows are one moment."""
    whole = len(path) // window * window
    found: Floats = (
        path[len(path) - whole :].reshape(-1, window).max(axis=1) if whole else path.max(keepdims=True)
    )
    return found


def _of_blocks(path: Floats, reference: Reference, budget: float) -> float:
    """The lowest of the path's own peaks that simulated months exceed at most `budget` times."""
    spans = max(round(DAY_US / reference.step_us), 1)
    block = min(BLOCK_DAYS * spans, len(path))
    length = round(MONTH_DAYS * spans)
    random = np.random.default_rng(len(path))
    starts = random.integers(0, len(path) - block + 1, (MONTHS, -(-length // block)))
    paths = path[(starts[:, :, None] + np.arange(block)).reshape(MONTHS, -1)[:, :length]]
    levels = np.quantile(path, 1 - np.geomspace(0.5, 1 / len(path), 40))
    rates = incidents(paths, levels) / MONTHS
    kept = np.flatnonzero(rates > budget)
    return float(levels[min(kept[-1] + 1, len(levels) - 1)]) if len(kept) else float(levels[0])


def incidents(paths: Floats, levels: Floats) -> Ints:
    """int64[levels]: how often an alert would begin on these paths: raised at the level, over below `CLEARS` of it."""
    open_ = np.zeros((len(paths), len(levels)), bool)
    found = np.zeros(len(levels), np.int64)
    for now in paths.T:
        raised = now[:, None] >= levels
        found += (raised & ~open_).sum(axis=0)
        open_ = raised | (open_ & (now[:, None] >= CLEARS * levels))
    return found
