"""Labels by the time of their events, handed on when next to all of them are there.

Labels of one class come earlier than those of the other, so a share of classes, or of scores that came true, is only right
for a span of event time whose labels are complete (models/maturity.py tells the same of weights). Here only counts are held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.plan import Floats, Ints
from models.drift.label_reports import LOSS_UNITS, SCORE_UNITS, Cohort, LossSums
from models.losses import present
from models.maturity import (
    COHORTS,
    DELAY_BINS,
    LEAST_LABELS,
    LEAST_OF_CLASS,
    MATURE_SHARE,
    bin_end_us,
    delay_bin,
)

# Cohorts that are open: a horizon of them and what lies around it. What belongs to more is not counted.
MOST_OPEN: Final = 4 * COHORTS

# Bins of a score: by its log odds, a step of 1 each, from -8 to 8; a rare class fills several of them.
SCORE_BINS: Final = 16
_EDGE: Final = 8.0

# A cohort keeps its losses as counts of so many equal steps: its mean is right to a 128th of the largest loss at worst.
LOSS_STEPS: Final = 64

# By multiples of it, modulo 1, numbers are spread evenly (the golden ratio's fraction).
_SPREAD: Final = 0.6180339887498949

# What is remembered of closed cohorts' delays halves in some 44 cohorts, as in models/maturity.py.
_FORGET: Final = 1 - 1 / COHORTS


class _Open:
    """What is known of one cohort. `told`: it was handed on, only delays are still counted."""

    def __init__(self, classes: int) -> None:
        self.told = False
        self.classes = np.zeros(classes, np.int64)
        self.delays = np.zeros((classes, DELAY_BINS), np.int64)
        self.losses: Ints = np.zeros(LOSS_STEPS, np.int64)
        self.calibration: dict[str, Ints] = {}


class Cohorts:
    """The open cohorts of one label: some 64 of a horizon, 4 KB a class and 0.4 KB a part of the score each.

    `after_us`: the age at which a cohort is mature where that is known; None: learnt from cohorts older than the horizon.
    """

    def __init__(
        self, classes: Sequence[str], width_us: int, horizon_us: int, after_us: int | None = None
    ) -> None:
        self._names, self._width_us, self._horizon_us, self._declared_us = (
            classes,
            width_us,
            horizon_us,
            after_us,
        )
        self._open: dict[int, _Open] = {}
        self._closed = np.zeros((len(classes), DELAY_BINS))
        self._first = -(2**62)  # cohorts before it are over

    @property
    def after_us(self) -> int:
        """How old a cohort must be, in microseconds."""
        if self._declared_us is not None:
            return min(self._declared_us, self._horizon_us)
        counts = self._closed.sum(axis=1)
        if counts.sum() < LEAST_LABELS:
            return self._horizon_us
        bins = [
            _reached(row, count)
            for row, count in zip(self._closed, counts.tolist(), strict=True)
            if count > 0
        ]
        return min(bin_end_us(max(bins)), self._horizon_us)

    def add(
        self,
        times_us: Ints,
        places: Ints,
        delays_us: Ints,
        losses: Ints,
        said: Mapping[str, tuple[Floats, npt.NDArray[np.bool_]]],
        sign: int = 1,
    ) -> None:
        """Count n labels, by place of their class.

        `losses`: of the score, in LOSS_UNITS, -1 for none. By subject, `said`: what the score said, and whether that came true. With `sign=-1` they are taken out again, as far as their cohort was not handed on.
        """
        cohorts = times_us // self._width_us
        for cohort in np.unique(cohorts).tolist():
            if cohort < self._first or (cohort not in self._open and len(self._open) >= MOST_OPEN):
                continue
            rows = cohorts == cohort
            known = self._open.setdefault(cohort, _Open(len(self._names)))
            if sign > 0:
                np.add.at(known.delays, (places[rows], delay_bin(delays_us[rows])), 1)
            if not known.told:
                np.add.at(known.classes, places[rows], sign)
                _count_losses(known.losses, losses[rows], sign)
                for subject, (scores, came) in said.items():
                    _calibrate(known.calibration, subject, scores[rows], came[rows], sign)

    def mature(self, now_us: int) -> list[tuple[Cohort, Floats]]:
        """The cohorts that are mature at this known time and were not yet handed on, oldest first; with the score's losses."""
        found, after_us = [], self.after_us
        for cohort in sorted(self._open):
            end_us, known = (cohort + 1) * self._width_us, self._open[cohort]
            if not known.told and end_us + after_us <= now_us:
                known.told = True
                losses = spread(known.losses)
                found.append((self._cohort(cohort, known, losses), losses))
                known.losses[:], known.calibration = 0, {}
            if end_us + self._horizon_us <= now_us:
                self._closed = self._closed * _FORGET + self._open.pop(cohort).delays
                self._first = cohort + 1
        return found

    def _cohort(self, cohort: int, known: _Open, losses: Floats) -> Cohort:
        classes = {
            name: count for name, count in zip(self._names, known.classes.tolist(), strict=True) if count
        }
        calibration = {
            subject: {at: (rows, said, came) for at, (rows, said, came) in enumerate(bins.tolist()) if rows}
            for subject, bins in sorted(known.calibration.items())
        }
        return Cohort(
            cohort * self._width_us, (cohort + 1) * self._width_us, classes, _sums(losses), calibration
        )

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        return {
            "open": {
                str(cohort): {
                    "told": known.told,
                    "classes": known.classes,
                    "cells": np.flatnonzero(known.delays),
                    "delays": known.delays.ravel()[np.flatnonzero(known.delays)],
                    "losses": known.losses,
                    "calibration": dict(sorted(known.calibration.items())),
                }
                for cohort, known in sorted(self._open.items())
            },
            "closed": self._closed,
            "first": self._first,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        self._closed, self._first, self._open = state["closed"], state["first"], {}
        for cohort, kept in state["open"].items():
            known = self._open[int(cohort)] = _Open(len(self._names))
            known.told, known.classes = kept["told"], kept["classes"]
            known.delays.ravel()[kept["cells"]] = kept["delays"]
            known.losses, known.calibration = kept["losses"], dict(kept["calibration"])


def said_and_came(kind: str, scores: Floats, codes: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """float64[n], the probability of what was said (NaN: no score), and bool[n], whether it came true.

    Example:
        >>> said_and_came("multiclass", np.array([[0.2, 0.8]]), np.array([0.0]))
        (array([0.8]), array([False]))
    """
    if kind == "binary":
        return np.where(present(scores), scores, np.nan), codes == 1
    best = scores.argmax(axis=1)
    return np.where(present(scores), scores[np.arange(len(scores)), best], np.nan), best == codes


def score_bins(said: Floats) -> Ints:
    """int64[n]: the bin of each probability.

    Example:
        >>> score_bins(np.array([0.0, 0.01, 0.5, 1.0])).tolist()
        [0, 3, 8, 15]
    """
    with np.errstate(divide="ignore"):
        odds = np.log(said) - np.log1p(-said)
    bins: Ints = np.minimum(np.floor(np.clip(odds, -_EDGE, _EDGE) + _EDGE), SCORE_BINS - 1).astype(np.int64)
    return bins


def spread(counts: Ints) -> Floats:
    """The losses of a histogram, equal ones evenly apart: in an order that has nothing to do with when they came.

    Example:
        >>> spread(np.array([2] + [0] * 62 + [4])).round(2).tolist()
        [0.01, 0.99, 0.99, 0.99, 0.01, 0.99]
    """
    steps = np.repeat(np.arange(LOSS_STEPS), np.maximum(counts, 0))
    order = np.argsort(np.arange(len(steps)) * _SPREAD % 1.0, kind="stable")
    losses: Floats = (steps[order] + 0.5) / LOSS_STEPS
    return losses


def _sums(losses: Floats) -> LossSums:
    units = np.rint(losses * LOSS_UNITS).astype(np.int64)
    return LossSums(len(losses), int(units.sum()), int((units * units // LOSS_UNITS).sum()))


def _count_losses(known: Ints, units: Ints, sign: int) -> None:
    there = units[units >= 0]
    np.add.at(known, np.minimum(there * LOSS_STEPS // LOSS_UNITS, LOSS_STEPS - 1), sign)


def _calibrate(
    known: dict[str, Ints], subject: str, said: Floats, came: npt.NDArray[np.bool_], sign: int
) -> None:
    there = (said >= 0) & (said <= 1)  # NaN is neither
    if not there.any():
        return
    bins = known.setdefault(subject, np.zeros((SCORE_BINS, 3), np.int64))
    places, scores = score_bins(said[there]), said[there]
    for column, values in enumerate(
        (np.ones_like(places), np.rint(scores * SCORE_UNITS).astype(np.int64), came[there])
    ):
        np.add.at(bins[:, column], places, sign * values.astype(np.int64))


def _reached(counts: Floats, count: float) -> int:
    """The bin by which MATURE_SHARE of a class's labels had come; of few labels, all."""
    share = MATURE_SHARE if count >= LEAST_OF_CLASS else 1.0
    return int(np.searchsorted(np.cumsum(counts), share * count * (1 - 1e-12)))
