"""What is measured of a window of labels, and how far it lies from the windows before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

from features.durations import DAY_US
from models.drift.label_reports import SCORE_UNITS

# Windows before this one of which the usual is known; fewer say nothing.
LEAST_PAST: Final = 14

# Labels in a window for a share, a delay or a calibration.
LEAST_LABELS: Final = 50

# A window slides a step at a time: of those that overlap about four a window's length are as good as independent.
SLIDING: Final = 4.0

# Of a volume: what is never told, however regular the feed was. 5 % more or less labels are nobody's alarm.
LEAST_SPREAD: Final = 0.05

BINS_AN_OCTAVE: Final = 8
MONTH_US: Final = 30.4375 * DAY_US


class Measure(NamedTuple):
    """A figure of one window on a scale on which its error does not depend on it; `shown` is the figure as people read it."""

    value: float
    error: float
    shown: float


class Deviation(NamedTuple):
    """How far a window lies from what was expected, and from where on that is told; `expected` as people read it."""

    distance: float
    threshold: float
    expected: float

    @property
    def strength(self) -> float:
        """The distance in times of the threshold."""
        return abs(self.distance) / self.threshold


def volume(counts: Mapping[str, int]) -> Measure:
    """Labels that came for known events, by their logarithm: a half of the usual is as far as twice as many."""
    came = counts.get("came", 0)
    return Measure(math.log(came + 0.5), 1 / math.sqrt(came + 0.5), float(came))


def delay(counts: Mapping[str, int]) -> Measure | None:
    """Mean delay in octaves of seconds."""
    rows = counts.get("delay_n", 0)
    if rows < LEAST_LABELS:
        return None
    mean = counts["delay_sum"] / rows
    spread = max(counts["delay_squares"] / rows - mean * mean, 1.0)
    seconds = 2.0 ** ((mean + 0.5) / BINS_AN_OCTAVE)
    return Measure(mean / BINS_AN_OCTAVE, math.sqrt(spread / rows) / BINS_AN_OCTAVE, seconds)


def share(some: int, rows: int) -> Measure | None:
    """A share, by the arcsine of its root: its error is the same whether it is rare or not.

    Example:
        >>> [round(figure, 4) for figure in share(10, 1000)]
        [0.1002, 0.0158, 0.01]
    """
    if rows < LEAST_LABELS:
        return None
    shown = min(max(some / rows, 0.0), 1.0)
    return Measure(math.asin(math.sqrt(shown)), 0.5 / math.sqrt(rows), shown)


def calibration(bins: Sequence[tuple[int, int, int]]) -> Measure | None:
    """The root mean squared distance between what scores said and what came, of bins of (rows, said in SCORE_UNITS, came).

    What chance alone makes of the squares is taken off them, so that few rows are no worse calibrated than many; the root
    keeps the sign of what is left.

    Example:
        >>> round(calibration([(1000, 100 * SCORE_UNITS, 250), (1000, 900 * SCORE_UNITS, 900)]).value, 3)
        0.106
    """
    total = sum(rows for rows, _, _ in bins)
    if total < LEAST_LABELS:
        return None
    squares = variance = 0.0
    for rows, said, came in bins:
        mean = said / SCORE_UNITS / rows
        chance = max(mean * (1 - mean), 1 / rows) / rows
        gap = came / rows - mean
        squares += rows / total * (gap * gap - chance)
        variance += (rows / total) ** 2 * (2 * chance * chance + 4 * chance * gap * gap)
    value, spread = math.copysign(math.sqrt(abs(squares)), squares), math.sqrt(variance)
    return Measure(value, spread / max(abs(value), math.sqrt(spread)), max(value, 0.0))


def quantile(chance: float, freedom: float) -> float:
    """How many standard errors are exceeded by chance that often, on one side, where the error itself was estimated.

    Example:
        >>> round(quantile(0.025, 1e9), 2), round(quantile(0.025, 13), 2)
        (1.96, 2.16)
    """
    return float(-stdtrit(max(freedom, 1.0), chance))


def windows_a_month(window_us: int) -> float:
    """How many windows a month has that are as good as independent."""
    return SLIDING * MONTH_US / window_us


def deviation(now: Measure, past: Sequence[Measure], chance: float) -> Deviation | None:
    """Against the mean of the windows before; None of fewer than LEAST_PAST. `chance` is that of a false alarm, both sides."""
    if len(past) < LEAST_PAST:
        return None
    values = np.array([one.value for one in past])
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    error = max(spread, now.error) * math.sqrt(1 + 1 / len(past))
    shown = float(np.mean([one.shown for one in past]))
    return Deviation(now.value - mean, quantile(chance / 2, len(past) - 1) * error, shown)


def volume_deviation(
    now: Measure, start_us: int, past: Sequence[tuple[int, Measure]], window_us: int, chance: float
) -> Deviation | None:
    """Against the windows before, those of the same days of the week above all: a window that lies in two days is like both."""
    if len(past) < LEAST_PAST:
        return None
    errors = [
        one.value - _expected(at_us, [*past[:place], *past[place + 1 :]], window_us)
        for place, (at_us, one) in enumerate((at, one) for at, one in past)
    ]
    expected = _expected(start_us, past, window_us)
    spread = max(float(np.sqrt(np.mean(np.square(errors)))), now.error, math.exp(-expected / 2), LEAST_SPREAD)
    threshold = quantile(chance / 2, len(past) - 1) * spread
    return Deviation(now.value - expected, threshold, math.exp(expected))


def _expected(start_us: int, past: Sequence[tuple[int, Measure]], window_us: int) -> float:
    mean = float(np.mean([one.value for _, one in past]))
    if window_us != DAY_US:
        return mean
    day, rest = divmod(start_us, DAY_US)
    first, second = (_weekday((day + more) % 7, past, mean) for more in (0, 1))
    return first * (1 - rest / DAY_US) + second * rest / DAY_US


def _weekday(weekday: int, past: Sequence[tuple[int, Measure]], mean: float) -> float:
    """The mean of that day of the week, drawn to the mean of all as if there had been one more day like it."""
    same = [one.value for start_us, one in past if start_us // DAY_US % 7 == weekday]
    return (sum(same) + mean) / (len(same) + 1)
