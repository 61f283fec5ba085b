"""When the labels of a time are complete enough to be judged by: weights and calibration learn from mature cohorts only.

    event time   ...|--- cohort ---|--- cohort ---|--- cohort ---|... now
                      mature: used    held           held (so far 9 labels, 8 of them positive)

Labels seldom come late at random. A disputed payment is disputed soon, and that it was fine is known only by silence; a
flight that never left has no landing to be late at. Whoever counts the labels as they come sees a world of positives in
every hour that has just passed, so the model that always says yes looks best. Therefore outcomes are gathered by cohort (a
span of event time) and handed on only when the cohort is mature: older than the delay within which 95 % of the labels of
EACH class have come.

That delay is learnt from closed cohorts alone, those older than the label's horizon, because in a younger one the long
delays are missing from the very sample that would measure them. Until there are enough closed cohorts, it is the horizon.
Labels that come for a cohort which is mature already (5 % at most) are handed on at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.plan import Floats, Ints
from models.rolling import Hashes

# Cohorts in a label's horizon. More of them follow a short delay more closely; each costs a delay histogram in memory.
COHORTS = 64

# Share of each class's labels that must have come.
MATURE_SHARE = 0.95

# Closed cohorts must have this many labels before the delay is learnt from them, and a class this many for a quantile
# (with fewer, its longest delay counts).
LEAST_LABELS = 100
LEAST_OF_CLASS = 30

# Outcomes held in immature cohorts, 80 bytes and 8 a model each. Beyond it cohorts are thinned (see Maturity).
MOST_HELD = 100_000

# A cohort is gathered record by record, and put together after this many.
MOST_PIECES = 32

# Delay histogram: bins of equal ratio, 2^(1/8), from a second up to 36 years: a delay is known to 9 %.
DELAY_BINS = 240
_BINS_AN_OCTAVE = 8

# A closed cohort counts this much less with each one that closes after it: a memory of about one horizon.
_FORGET = 1 - 1 / COHORTS

NEVER_US = -(2**62)


@dataclass(frozen=True)
class Judged:
    """n outcomes by which weights and calibration learn: `scores` float64[n] or [n, K] by part, `groups` the class."""

    hashes: Hashes
    times_us: Ints
    known_us: Ints
    codes: Floats
    weights: Floats
    groups: Ints
    scores: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.codes)

    def select(self, rows: Any) -> Judged:
        """The chosen rows: a mask, or their places in the order wanted."""
        return Judged(
            self.hashes[rows],
            self.times_us[rows],
            self.known_us[rows],
            self.codes[rows],
            self.weights[rows],
            self.groups[rows],
            {name: scores[rows] for name, scores in self.scores.items()},
        )

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        return dict(vars(self))


class Maturity:
    """Holds outcomes back until their cohort is mature, and learns how long that takes.

    `hold` is handed the outcomes of one record, `release` gives those that are mature now, in the order of event time. The
    clock is the newest `known_us` that came: the wall clock is never read.

    At most `most_held` outcomes are held. Beyond that, the fullest cohort keeps only the events whose id hashes into a half
    (then a quarter, ...) of all ids: a sample that does not depend on label or delay, so a thinned cohort still counts
    its classes as they are. `thinned` says how many outcomes were left out.
    """

    def __init__(
        self, horizon_us: int, groups: int, mature_after_us: int | None = None, most_held: int = MOST_HELD
    ) -> None:
        self._horizon_us, self._groups, self._declared_us = horizon_us, groups, mature_after_us
        self._width_us = max(horizon_us // COHORTS, 1_000_000)
        self._most_held = most_held
        self.now_us = NEVER_US
        self.thinned = 0
        self.held = 0  # outcomes that wait for their cohort
        self._held: dict[int, list[Judged]] = {}
        self._levels: dict[int, int] = {}  # by cohort: halvings of the ids that it takes
        self._delays: dict[int, Ints] = {}  # by open cohort: labels by class and delay
        self._closed = np.zeros((groups, DELAY_BINS))

    @property
    def after_us(self) -> int:
        """How old a cohort must be to be mature, in microseconds."""
        if self._declared_us is not None:
            return self._declared_us
        counts = self._closed.sum(axis=1)
        if counts.sum() < LEAST_LABELS:
            return self._horizon_us
        longest = max(
            _quantile_bin(row, MATURE_SHARE if count >= LEAST_OF_CLASS else 1.0)
            for row, count in zip(self._closed, counts.tolist(), strict=True)
            if count > 0
        )
        return min(bin_end_us(longest), self._horizon_us)

    def hold(self, rows: Judged, now_us: int) -> None:
        """Hold the outcomes of one record back; `now_us` is its newest `known_us`."""
        self.now_us = max(self.now_us, now_us)
        for cohort, piece in self._by_cohort(rows):
            self._note_delays(cohort, piece)
            self._hold(cohort, piece)
        self._close()
        self._thin()

    def release(self) -> list[Judged]:
        """Hand on what is mature: cohort by cohort, each in the order of event time, ties as they came."""
        ready = sorted(cohort for cohort in self._held if self._end_us(cohort) + self.after_us <= self.now_us)
        return [self._release(cohort) for cohort in ready]

    def correct(self, hash_of_id: int, time_us: int, code: float) -> None:
        """Give an outcome that is still held another label (NaN: take it out). One that was handed on stays as it was."""
        cohort = time_us // self._width_us
        for number, piece in enumerate(self._held.get(cohort, ())):
            found = piece.hashes == np.uint64(hash_of_id)
            if not math.isnan(code):
                piece.codes[found] = code
            elif found.any():
                self._held[cohort][number] = piece.select(~found)
                self.held -= int(found.sum())

    def forget(self, part: str) -> None:
        """Nothing that is held says anything about this part any more: it was reset."""
        for pieces in self._held.values():
            for piece in pieces:
                if part in piece.scores:
                    piece.scores[part][:] = np.nan

    def figures(self) -> dict[str, float]:
        """`after_s`: age at which a cohort is mature; `learnt`: 1 if that was measured, 0 if declared or the horizon."""
        return {
            "after_s": self.after_us / 1e6,
            "learnt": float(self._declared_us is None and self._closed.sum() >= LEAST_LABELS),
            "held": self.held,
            "thinned": self.thinned,
        }

    def _by_cohort(self, rows: Judged) -> list[tuple[int, Judged]]:
        cohorts = rows.times_us // self._width_us
        return [(cohort, rows.select(cohorts == cohort)) for cohort in np.unique(cohorts).tolist()]

    def _end_us(self, cohort: int) -> int:
        return (cohort + 1) * self._width_us

    def _note_delays(self, cohort: int, piece: Judged) -> None:
        if self._end_us(cohort) + self._horizon_us > self.now_us:
            counts = self._delays.setdefault(cohort, np.zeros((self._groups, DELAY_BINS), np.int64))
            np.add.at(counts, (piece.groups, delay_bin(piece.known_us - piece.times_us)), 1)

    def _hold(self, cohort: int, piece: Judged) -> None:
        level = self._levels.get(cohort, 0)
        chosen = _sampled(piece.hashes, level)
        self.thinned += int((~chosen).sum())
        if not chosen.any():
            return
        pieces = self._held.setdefault(cohort, [])
        pieces.append(piece.select(chosen))
        self.held += len(pieces[-1])
        if len(pieces) > MOST_PIECES:
            self._held[cohort] = [joined(pieces)]

    def _close(self) -> None:
        """Cohorts that have passed the horizon say how long their labels took."""
        for cohort in sorted(self._delays):
            if self._end_us(cohort) + self._horizon_us > self.now_us:
                break
            self._closed = self._closed * _FORGET + self._delays.pop(cohort)
        oldest = (self.now_us - self._horizon_us) // self._width_us
        self._levels = {cohort: level for cohort, level in self._levels.items() if cohort >= oldest}

    def _thin(self) -> None:
        while self.held > self._most_held:
            fullest = max(self._held, key=lambda cohort: (sum(map(len, self._held[cohort])), cohort))
            self._levels[fullest] = level = self._levels.get(fullest, 0) + 1
            rows = joined(self._held[fullest])
            kept = rows.select(_sampled(rows.hashes, level))
            self._held[fullest] = [kept]
            self.held -= len(rows) - len(kept)
            self.thinned += len(rows) - len(kept)

    def _release(self, cohort: int) -> Judged:
        rows = joined(self._held.pop(cohort))
        self.held -= len(rows)
        return rows.select(np.argsort(rows.times_us, kind="stable"))

    def state(self) -> dict[str, Any]:
        """Everything, for a snapshot."""
        return {
            "now": self.now_us,
            "thinned": self.thinned,
            "held": {str(cohort): joined(pieces).state() for cohort, pieces in sorted(self._held.items())},
            "levels": {str(cohort): level for cohort, level in sorted(self._levels.items())},
            "delays": {str(cohort): counts for cohort, counts in sorted(self._delays.items())},
            "closed": self._closed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        self.now_us, self.thinned, self._closed = state["now"], state["thinned"], state["closed"]
        self._held = {int(cohort): [Judged(**rows)] for cohort, rows in state["held"].items()}
        self.held = sum(len(pieces[0]) for pieces in self._held.values())
        self._levels = {int(cohort): level for cohort, level in state["levels"].items()}
        self._delays = {int(cohort): counts for cohort, counts in state["delays"].items()}


def joined(pieces: list[Judged]) -> Judged:
    """All rows of the pieces, in their order; a part that a piece does not know is NaN in its rows."""
    if len(pieces) == 1:
        return pieces[0]
    shapes = {name: scores.shape[1:] for piece in pieces for name, scores in piece.scores.items()}
    absent = {name: np.full((0, *shape), np.nan) for name, shape in shapes.items()}
    columns = {
        name: np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("hashes", "times_us", "known_us", "codes", "weights", "groups")
    }
    scores = {
        name: np.concatenate([_with_rows(piece.scores.get(name, none), len(piece)) for piece in pieces])
        for name, none in absent.items()
    }
    return Judged(**columns, scores=scores)


def _with_rows(scores: Floats, rows: int) -> Floats:
    return scores if len(scores) == rows else np.full((rows, *scores.shape[1:]), np.nan)


def delay_bin(delays_us: Ints) -> Ints:
    """int64[n]: the bin of each delay.

    Example:
        >>> delay_bin(np.array([0, 1_000_000, 2_000_000, 3_600_000_000])).tolist()
        [0, 0, 8, 94]
    """
    octaves = np.log2(np.maximum(delays_us, 1_000_000) / 1e6)
    return np.minimum((octaves * _BINS_AN_OCTAVE).astype(np.int64), DELAY_BINS - 1)


def bin_end_us(place: int) -> int:
    """The longest delay of a bin.

    Example:
        >>> bin_end_us(7)
        2000000
    """
    return math.ceil(2 ** ((place + 1) / _BINS_AN_OCTAVE) * 1e6)


def _quantile_bin(counts: Floats, share: float) -> int:
    reached = np.cumsum(counts)
    return int(np.searchsorted(reached, share * reached[-1] * (1 - 1e-12)))


def _sampled(hashes: Hashes, level: int) -> Any:
    """bool[n]: the ids whose lowest `level` bits are 0: a half of all ids for each level."""
    return (hashes & np.uint64(2 ** min(level, 62) - 1)) == 0
