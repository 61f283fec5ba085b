"""Losses of what was served: of the score, of each part of it, and of the score in each segment; summed up and watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from features.plan import Floats, Ints
from models.drift.columns import SCORE
from models.drift.label_reports import ALL, LOSS_UNITS, Cohort, LossChange, Losses, LossSums
from models.drift.loss_change import KnownLosses, LossStream
from models.losses import present, row_losses
from models.rolling import MOST_MODELS

# A log loss is cut at 5 nats (a probability of 0.7 % for what came true) and counted in fifths of them: 0 to 1.
MOST_NATS: Final = 5.0

# Labels whose median absolute error is the unit of a regression's errors; they are not measured themselves.
UNIT_LABELS: Final = 200

# Values of a segment that have a series of their own, the first that come; the others are watched together.
MOST_VALUES: Final = 32
OTHER: Final = "(other)"


class LossBook:
    """All series of losses of one pipeline: at most MOST_MODELS subjects, MOST_VALUES + 1 for each segment."""

    def __init__(self, kind: str, classes: Sequence[str]) -> None:
        self._kind, self._classes = kind, classes
        self._first_errors: dict[str, list[float]] = {}  # of a regression, by subject
        self._series: dict[tuple[str, str], KnownLosses] = {}
        self._sums: dict[tuple[str, str], Ints] = {}
        self._mature = LossStream()

    def losses(self, scores: Mapping[str, Floats], codes: Floats, *, learns: bool) -> dict[str, Ints]:
        """By subject what was served has cost with these labels: int64[n] in LOSS_UNITS, -1 where there was no score.

        `learns`: the unit of a regression may be learnt from them.
        """
        return {
            subject: self._losses(subject, served, codes, learns=learns) for subject, served in scores.items()
        }

    def step(
        self,
        losses: Mapping[str, Ints],
        places: Ints,
        known_us: Ints,
        segments: Mapping[str, Sequence[str]],
    ) -> list[LossChange]:
        """Take n labels by their `losses`; `segments` by name the value in each row. Changes in their order."""
        found: list[tuple[int, LossChange]] = []
        for subject, units in losses.items():
            rows = np.flatnonzero(units >= 0)
            found += self._step(subject, ALL, rows, units, places, known_us)
            if subject == SCORE:
                for name, values in segments.items():
                    found += self._by_value(name, values, rows, units, places, known_us)
        return [change for _, change in sorted(found, key=lambda one: one[0])]

    def mature(self, losses: Floats, cohort: Cohort, at_us: int) -> list[LossChange]:
        """Take the score's losses (0 to 1) of a cohort that is mature; their changes."""
        found, rest = [], losses.tolist()
        while rest:
            taken, sides = self._mature.follow(rest, [cohort.start_us] * len(rest))
            rest = rest[taken:]
            if sides is not None:
                found.append(LossChange(SCORE, ALL, "mature", at_us, *sides))
        return found

    def _by_value(
        self, name: str, values: Sequence[str], rows: Ints, units: Ints, places: Ints, known_us: Ints
    ) -> list[tuple[int, LossChange]]:
        by_segment: dict[str, list[int]] = {}
        for row in rows.tolist():
            by_segment.setdefault(self._segment(name, values[row]), []).append(row)
        return [
            one
            for segment, mine in by_segment.items()
            for one in self._step(SCORE, segment, np.array(mine), units, places, known_us)
        ]

    def _segment(self, name: str, value: str) -> str:
        segment = f"{name}={value}"
        if (SCORE, segment) not in self._series:
            taken = sum(one.startswith(f"{name}=") for _, one in self._series)
            if taken >= MOST_VALUES:
                return f"{name}={OTHER}"
            self._series_of(SCORE, segment)
        return segment

    def _series_of(self, subject: str, segment: str) -> KnownLosses | None:
        key = (subject, segment)
        if key not in self._series:
            if segment == ALL and sum(one == ALL for _, one in self._series) >= MOST_MODELS:
                return None
            self._series[key] = KnownLosses(subject, segment, len(self._classes))
        return self._series[key]

    def _step(
        self, subject: str, segment: str, rows: Ints, units: Ints, places: Ints, known_us: Ints
    ) -> list[tuple[int, LossChange]]:
        series = self._series_of(subject, segment) if len(rows) else None
        if series is None:
            return []
        mine, classes = units[rows], places[rows]
        sums = self._sums.setdefault((subject, segment), np.zeros((len(self._classes), 3), np.int64))
        # Squares in LOSS_UNITS as well: 2**48 of a row would soon overflow.
        for column, values in enumerate((np.ones_like(mine), mine, (mine * mine) // LOSS_UNITS)):
            np.add.at(sums[:, column], classes, values)
        return [(int(rows[at]), change) for at, change in series.step(mine, classes, known_us[rows])]

    def _losses(self, subject: str, scores: Floats, codes: Floats, *, learns: bool) -> Ints:
        """int64[n], in LOSS_UNITS; -1 where there was no score."""
        if self._kind == "regression":
            errors = np.where(present(scores), np.abs(scores - codes), np.nan)
            losses = self._relative_errors(subject, errors, learns=learns)
        else:
            least = float(np.exp(-MOST_NATS))
            there = present(scores)
            losses = np.full(len(codes), np.nan)
            losses[there] = row_losses(self._kind, scores[there], codes[there], least) / MOST_NATS
        found: Ints = np.where(np.isnan(losses), -1, np.rint(np.clip(losses, 0, 1) * LOSS_UNITS)).astype(
            np.int64
        )
        return found

    def _relative_errors(self, subject: str, errors: Floats, *, learns: bool) -> Floats:
        """error / (error + unit): 0 for none, a half for the usual error of the first labels, below 1 for every one."""
        first = self._first_errors.setdefault(subject, [])
        rows = np.flatnonzero(np.isfinite(errors))
        missing = UNIT_LABELS - len(first) if learns else 0
        first += errors[rows[:missing]].tolist()
        losses = np.full(len(errors), np.nan)
        if len(first) == UNIT_LABELS:
            measured = errors[rows[missing:]]
            losses[rows[missing:]] = measured / (measured + (float(np.median(first)) or 1.0))
        return losses

    def taken(self) -> list[Losses]:
        """The sums since the last call, and begin anew."""
        found = [
            Losses(
                subject,
                segment,
                {
                    name: LossSums(*row)
                    for name, row in zip(self._classes, sums.tolist(), strict=True)
                    if row[0]
                },
            )
            for (subject, segment), sums in sorted(self._sums.items())
        ]
        self._sums = {}
        return found

    def state(self) -> list[Any]:
        """Everything, for a snapshot."""
        return [
            dict(self._first_errors),
            [[*key, series.state()] for key, series in self._series.items()],
            [[*key, sums] for key, sums in self._sums.items()],
            self._mature.state(),
        ]

    def restore(self, state: list[Any]) -> None:
        """Go on from a state that `state` gave."""
        first, series, sums, mature = state
        self._first_errors = {subject: list(kept) for subject, kept in first.items()}
        self._series, self._sums = {}, {(subject, segment): kept for subject, segment, kept in sums}
        for subject, segment, kept in series:
            one = self._series[subject, segment] = KnownLosses(subject, segment, len(self._classes))
            one.restore(kept)
        self._mature = LossStream.restored(mature)
