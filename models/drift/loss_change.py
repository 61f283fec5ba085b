"""When a loss has changed: River's ADWIN on each series of losses, and what it was before and after.

ADWIN (Bifet, Gavaldà: Learning from time-changing data with adaptive windowing, SDM 2007) keeps a window of the newest
losses and cuts off its old end as soon as the two ends differ by more than chance allows.

Labels of one class come earlier than those of the other, and after an outage they come in bursts of one class. So their plain
losses, in the order in which they become known, change with the mixture, and an outage would be called a change of concept.
Two series are free of that. What a loss is above the mean of its own class so far has the mean 0 in any mixture: `KnownLosses`
follows it from label to label. And plain losses of mature cohorts (models/drift/cohorts.py) have the mixture that is true:
they alone show a change that lies in the share of the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import numpy as np
from river.drift import ADWIN

from features.plan import Floats, Ints
from models.drift.label_reports import LOSS_UNITS, LossChange, Side

# ADWIN's confidence, and labels between two looks. docs/decisions/0041 has what they cost in false alarms and in delay.
DELTA: Final = 0.02
CLOCK: Final = 32

_RIVER: Final = version("river")

# Sums are remembered from look to look, ever further apart the older they are (each at least this much older than the one
# after it), so that a change is found to about an eighth of the labels since. Thinned when there are so many.
_APART: Final = 1.125
_MOST_MARKS: Final = 256


class Mark(NamedTuple):
    """How many losses there had been when this one came, their sum, the sum of their squares, and its known time."""

    place: int
    total: float
    squares: float
    known_us: int


class LossStream:
    """One series of losses under ADWIN, and what had been summed up by when."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._adwin: Any = ADWIN(delta=DELTA, clock=CLOCK)  # type: ignore[no-untyped-call]
        self.count, self._total, self._squares = 0, 0.0, 0.0
        self._marks = list[Mark]()

    def follow(
        self, values: Sequence[float], known_us: Sequence[int]
    ) -> tuple[int, tuple[Side, Side] | None]:
        """Take values up to the first change: how many were taken, and (before, after) where one was seen.

        After a change the series begins anew.
        """
        taken = 0
        while taken < len(values):
            if self.count % CLOCK == 0:
                self._mark(known_us[taken])
            # ADWIN looks when it has taken a multiple of CLOCK, and so does this.
            some = values[taken : taken + CLOCK - self.count % CLOCK]
            self._take(some)
            taken += len(some)
            if self._adwin.drift_detected:
                found = self._sides(known_us[taken - 1])
                self._begin()
                return taken, found
        return taken, None

    def _take(self, values: Sequence[float]) -> None:
        update, total, squares = self._adwin.update, self._total, self._squares
        for value in values:
            update(value)
            total += value
            squares += value * value
        self.count, self._total, self._squares = self.count + len(values), total, squares

    def _mark(self, known_us: int) -> None:
        self._marks.append(Mark(self.count, self._total, self._squares, known_us))
        if len(self._marks) > _MOST_MARKS:
            self._marks = _thinned(self._marks, self.count)

    def _sides(self, end_us: int) -> tuple[Side, Side] | None:
        """Before and after the mark at which they differ most. ADWIN's own cut is later than the change only by chance."""
        marks = np.array(self._marks[1:], np.float64)
        if not len(marks):
            return None
        older, newer = marks[:, :3], np.array([self.count, self._total, self._squares]) - marks[:, :3]
        (old_means, old_variances), (new_means, new_variances) = _moments(older), _moments(newer)
        # A loss that never varied has the variance that one look would show as little of.
        error = old_variances / older[:, 0] + new_variances / newer[:, 0] + 1e-12
        best = int(np.argmax(np.abs(new_means - old_means) / np.sqrt(error)))
        cut_us = self._marks[best + 1].known_us
        return (
            _side(older[best, 0], old_means[best], old_variances[best], self._marks[0].known_us, cut_us),
            _side(newer[best, 0], new_means[best], new_variances[best], cut_us, end_us),
        )

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot. River's window is written by River itself, as flat bytes."""
        return {
            "window": self._adwin._helper.__getstate__(),  # noqa: SLF001  # bytes; its pickle would be these and names
            "river": _RIVER,
            "sums": [self.count, self._total, self._squares],
            "marks": [list(mark) for mark in self._marks],
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> LossStream:
        """The stream that gave this state. Of another release of River nothing is read: the series begins anew."""
        stream = cls()
        if state["river"] != _RIVER:
            return stream
        stream._adwin._helper.__setstate__(state["window"])  # noqa: SLF001  # the counterpart of `state`
        stream.count, stream._total, stream._squares = state["sums"]
        stream._marks = [Mark(*mark) for mark in state["marks"]]
        return stream


def _thinned(marks: Sequence[Mark], now: int) -> list[Mark]:
    """The oldest and the newest, and between them those that lie far enough apart."""
    kept = [marks[-1]]
    for mark in reversed(marks[:-1]):
        if now - mark.place >= _APART * (now - kept[-1].place + CLOCK) or mark.place == 0:
            kept.append(mark)
    return kept[::-1]


def _moments(sums: Floats) -> tuple[Floats, Floats]:
    """Means and variances, float64[n] each, of counts, sums and sums of squares."""
    means = sums[:, 1] / sums[:, 0]
    variances: Floats = np.maximum(sums[:, 2] / sums[:, 0] - means * means, 0.0)
    return means, variances


def _side(count: float, mean: float, variance: float, start_us: int, end_us: int) -> Side:
    return Side(int(count), float(mean), float(variance), start_us, end_us)


class KnownLosses:
    """The losses of one subject in one segment, as labels become known: each compared with its own class."""

    def __init__(self, subject: str, segment: str, classes: int) -> None:
        self._subject, self._segment = subject, segment
        self._stream = LossStream()
        self._sums: Ints = np.zeros(
            (classes, 2), np.int64
        )  # by class: how many, their losses, since it last began

    def step(self, units: Ints, places: Ints, known_us: Ints) -> list[tuple[int, LossChange]]:
        """Take n losses (in LOSS_UNITS) of classes by place; changes with the row at which each was seen."""
        times, found, start = known_us.tolist(), [], 0
        while start < len(units):
            values = self._above_class(units[start:], places[start:])
            taken, sides = self._stream.follow(values.tolist(), times[start:])
            self._count(units[start : start + taken], places[start : start + taken])
            start += taken
            if sides is not None:
                found.append((start - 1, self._change(times[start - 1], *sides)))
                self._sums[:] = 0
        return found

    def _above_class(self, units: Ints, places: Ints) -> Floats:
        """What each loss is above the mean of its class before it; 0 for the first of a class."""
        above = np.zeros(len(units))
        for place in np.unique(places).tolist():
            count, total = self._sums[place].tolist()
            rows = np.flatnonzero(places == place)
            mine = units[rows]
            counts = count + np.arange(len(rows))
            means = (total + np.cumsum(mine) - mine) / np.maximum(counts, 1)
            above[rows] = np.where(counts > 0, (mine - means) / LOSS_UNITS, 0.0)
        return above

    def _count(self, units: Ints, places: Ints) -> None:
        np.add.at(self._sums[:, 0], places, 1)
        np.add.at(self._sums[:, 1], places, units)

    def _change(self, at_us: int, before: Side, after: Side) -> LossChange:
        """In losses as they were: `after` stands as far above `before` as was seen."""
        count, total = self._sums.sum(axis=0).tolist()
        grown = after.mean - before.mean
        mean = total / count / LOSS_UNITS - grown * after.count / count
        older = Side(before.count, mean, before.variance, before.start_us, before.end_us)
        newer = Side(after.count, mean + grown, after.variance, after.start_us, after.end_us)
        return LossChange(self._subject, self._segment, "known", at_us, older, newer)

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        return {"stream": self._stream.state(), "sums": self._sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        self._stream, self._sums = LossStream.restored(state["stream"]), state["sums"]
