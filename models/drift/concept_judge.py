"""Whether a loss that ADWIN saw change has grown by more than it does from day to day, and when it is near what it was again.

1. ADWIN names a series and the moment (`LossChange`). Losses that shrink are no alarm.
2. How much larger the loss is, in standard errors: of the labels before and after, and of how much whole windows of the
   series have differed lately. Weather, weekends and promotions move a loss from day to day; a day is then one observation,
   however many labels it has.
3. Step by step it is measured again on the labels since, until it is near what it was.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np

from models.drift.columns import SCORE
from models.drift.label_history import Counts, LabelHistory
from models.drift.label_reports import LOSS_UNITS, LabelSlice, LossChange, Side
from models.drift.label_statistics import MONTH_US, quantile, windows_a_month
from models.drift.signals import CLEARS, Evidence, Signal, Window

SHARE_OF_BUDGET: Final = 0.15

# Windows before a change, and labels, without which nothing is known of what is usual.
LEAST_WINDOWS: Final = 7
LEAST_BEFORE: Final = 300

# So many labels it takes to see a change: in a month there are as many chances for a false one as times so many labels.
LABELS_A_LOOK: Final = 100

# A loss is near what it was when less than this is left of how much it had grown at most.
NEAR: Final = 0.35

# Changes that are followed at a time: all series of sixteen models and a hundred values of segments.
MOST_OPEN: Final = 256


class _Growth(msgspec.Struct, array_like=True):
    """A loss that has grown: what it was before (`means` by class), since when, and how it has been since."""

    subject: str
    segment: str
    basis: str
    before: Side
    means: dict[str, float]
    since_us: int
    after: Side
    most: float
    strength: float = 0.0
    threshold: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.subject}|{self.segment}|{self.basis}"


class ConceptJudge:
    """Judges changes of losses against the two time lines of the labels (models/drift/label_judge.py fills them)."""

    def __init__(self, known: LabelHistory, mature: LabelHistory, budget: float) -> None:
        self._lines = {"known": known, "mature": mature}
        self._budget = budget
        self._open: dict[str, _Growth] = {}

    def change(self, change: LossChange) -> list[Signal]:
        """What ADWIN has seen."""
        line = self._lines[change.basis]
        key = f"{change.subject}|{change.segment}|{change.basis}"
        if not change.grown or change.before.count < LEAST_BEFORE or len(line.full_blocks()) < LEAST_WINDOWS:
            return []
        if key in self._open or len(self._open) >= MOST_OPEN:
            return []  # it is followed from what it was before the first change
        since_us = change.after.start_us
        means = _means(line.before(since_us), change.subject, change.segment)
        growth = _Growth(
            change.subject, change.segment, change.basis, change.before, means, since_us, change.after, 0.0
        )
        self._open[key] = growth
        return [self._measured(growth, change.after, change.at_us)]

    def slice(self, slice_: LabelSlice) -> list[Signal]:
        """Measure what is open again, now that a slice is over."""
        found = []
        for key, growth in list(self._open.items()):
            now = self._now(growth)
            found.append(self._measured(growth, now, slice_.end_us))
            if self._over(growth, slice_.end_us):
                del self._open[key]
                found[-1] = msgspec.structs.replace(found[-1], strength=0.0)
        return found

    def _now(self, growth: _Growth) -> Side:
        """The labels since the change, a window of them at most; of the first, what ADWIN saw where that is more."""
        line = self._lines[growth.basis]
        counts = line.window(growth.since_us + (1 if growth.basis == "known" else 0))
        now = _side(counts, growth, max(growth.since_us, line.now_us - line.window_us), line.now_us)
        return now if now.count >= growth.after.count else _together(growth.after, now)

    def _measured(self, growth: _Growth, now: Side, at_us: int) -> Signal:
        grown = now.mean - growth.before.mean
        growth.most = max(growth.most, grown)
        error, freedom = self._error(growth, now)
        growth.threshold = quantile(self._chance(growth), freedom) * error
        strength = max(grown / growth.threshold, 0.0)
        growth.strength = strength if grown >= NEAR * growth.most else min(strength, CLEARS / 2)
        before = growth.before
        evidence = Evidence(
            Window(before.start_us, before.end_us, before.count),
            Window(now.start_us, now.end_us, now.count),
            shares={"loss": (round(before.mean, 6), round(now.mean, 6))},
        )
        statistic = "loss" if growth.basis == "known" else "loss_mature"
        return Signal(
            "concept",
            growth.subject,
            statistic,
            at_us,
            grown,
            growth.threshold,
            growth.strength,
            growth.segment,
            evidence,
        )

    def _over(self, growth: _Growth, at_us: int) -> bool:
        """Near what it was; or usual by now: longer ago than what is remembered, or nobody's matter any more.

        A part of the score that stays worse while the score itself is as it was has been replaced by the other parts.
        """
        line, age_us = self._lines[growth.basis], at_us - growth.since_us
        if age_us < line.window_us:
            return growth.strength < CLEARS and growth.most > 0 and self._left(growth) < NEAR
        if growth.strength < CLEARS or line.before(growth.since_us)["labels"] == 0:
            return True
        served = [one for one in self._open.values() if one.subject == SCORE and one.strength >= CLEARS]
        return growth.subject != SCORE and not served

    def _left(self, growth: _Growth) -> float:
        return growth.strength * growth.threshold / growth.most

    def _error(self, growth: _Growth, now: Side) -> tuple[float, float]:
        """Standard error of the difference, and its degrees of freedom (Welch, Satterthwaite)."""
        before, line = growth.before, self._lines[growth.basis]
        labels = before.variance / before.count + now.variance / now.count
        between, windows = self._between(growth)
        days = [max((side.end_us - side.start_us) / line.window_us, 1.0) for side in (before, now)]
        whole = between * sum(1 / min(many, float(windows)) for many in days)
        error = labels + whole
        freedom = error**2 / (
            (now.variance / now.count) ** 2 / max(now.count - 1, 1) + whole**2 / max(windows - 1, 1) + 1e-300
        )
        return max(math.sqrt(error), 1e-6), freedom

    def _between(self, growth: _Growth) -> tuple[float, int]:
        """The variance of a window's true mean loss around its mean, and from how many windows; a standard error more of it."""
        line = self._lines[growth.basis]
        blocks = [
            _side(counts, growth, start_us, start_us + line.window_us)
            for start_us, counts in line.full_blocks()
            if start_us + line.window_us <= growth.since_us
        ]
        sides = [side for side in blocks if side.count > 0]
        if len(sides) < 2:
            return growth.before.variance / max(growth.before.count, 1), 2
        counts = np.array([side.count for side in sides], np.float64)
        means = np.array([side.mean for side in sides])
        mean, freedom = np.average(means, weights=counts), len(sides) - 1
        within = growth.before.variance
        seen = float((counts * np.square(means - mean)).sum())
        size = (counts.sum() - np.square(counts).sum() / counts.sum()) / freedom
        extra = seen / freedom - within + within * math.sqrt(2 / freedom)
        return max(extra / size, 0.0), len(sides)

    def _chance(self, growth: _Growth) -> float:
        """Of a false alarm in one look at one series."""
        line = self._lines[growth.basis]
        months = max(len(line.blocks), 1) * line.window_us / MONTH_US
        labels = sum(counts["labels"] for _, counts in line.blocks) / months
        looks = max(windows_a_month(line.window_us), labels / LABELS_A_LOOK)
        series = {
            key.rsplit("|", 2)[0]
            for _, counts in line.blocks[-1:]
            for key in counts
            if key.startswith("loss|")
        }
        return self._budget * SHARE_OF_BUDGET / 2 / max(len(series), 1) / looks

    def state(self) -> list[Any]:
        """Everything, for a snapshot."""
        return [
            msgspec.to_builtins(growth) for growth in self._open.values()
        ]  # in their order: so are signals

    def restore(self, state: list[Any]) -> None:
        """Go on from a state that `state` gave."""
        found = [msgspec.convert(one, _Growth) for one in state]
        self._open = {one.key: one for one in found}


def _means(counts: Counts, subject: str, segment: str) -> dict[str, float]:
    """By class the mean loss."""
    start = f"loss|{subject}|{segment}|"
    names = {key[len(start) :].rpartition("|")[0] for key in counts if key.startswith(start)}
    return {
        name: counts[f"{start}{name}|sum"] / LOSS_UNITS / counts[f"{start}{name}|n"]
        for name in sorted(names)
        if counts[f"{start}{name}|n"] > 0
    }


def _side(counts: Counts, growth: _Growth, start_us: int, end_us: int) -> Side:
    """Losses of these counts, as far above what they were before as those of each class are above their own."""
    start, rows, above, squares = f"loss|{growth.subject}|{growth.segment}|", 0, 0.0, 0.0
    for name, mean in growth.means.items():
        count = counts[f"{start}{name}|n"]
        if count <= 0:
            continue
        total, square = (counts[f"{start}{name}|{figure}"] / LOSS_UNITS for figure in ("sum", "squares"))
        rows += count
        above += total - count * mean
        squares += max(square - total * total / count, 0.0)
    if not rows:
        return Side(0, growth.before.mean, 0.0, start_us, end_us)
    return Side(rows, growth.before.mean + above / rows, squares / rows, start_us, end_us)


def _together(one: Side, other: Side) -> Side:
    rows = one.count + other.count
    mean = (one.count * one.mean + other.count * other.mean) / rows
    squares = one.count * (one.variance + one.mean**2) + other.count * (other.variance + other.mean**2)
    return Side(
        rows, mean, max(squares / rows - mean * mean, 0.0), one.start_us, max(one.end_us, other.end_us)
    )
