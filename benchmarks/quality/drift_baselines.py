"""What else one could do: ring always, never, by ADWIN as River has it, or wherever PSI is above 0.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from river.drift import ADWIN

from benchmarks.quality.drift_life import Answered
from benchmarks.quality.drift_scored import Span
from features.plan import Floats, Ints
from models.drift.measures import Windows
from models.drift.reference import Reference
from models.drift.time_slice import TimeSlice

PSI_LIMIT = 0.2
LARGEST_LOSS = 5.0


def always(slices: Sequence[TimeSlice]) -> list[int]:
    """At the end of every slice."""
    return [one.end_us for one in slices]


def adwin(one: Answered, span: Span) -> list[int]:
    """River's defaults, a detector for each raw number, for the score, and for the log loss of known labels."""
    inside = np.flatnonzero((one.world.times_us >= span.since_us) & (one.world.times_us < span.end_us))
    known = np.flatnonzero((one.world.known_us >= span.since_us) & (one.world.known_us < span.end_us))
    chance = np.where(one.world.fraud, one.scores, 1 - one.scores)
    loss = np.minimum(-np.log(np.maximum(chance, 1e-9)), LARGEST_LOSS) / LARGEST_LOSS
    there = inside[~np.isnan(one.world.distances[inside])]
    streams = (
        (one.world.times_us[inside], one.world.amounts[inside]),
        (one.world.times_us[there], one.world.distances[there]),
        (one.world.times_us[inside], np.isnan(one.world.distances[inside]).astype(np.float64)),
        (one.world.times_us[inside], one.scores[inside]),
        (one.world.known_us[known], loss[known]),
    )
    return [at for times_us, values in streams for at in _changes(times_us, values)]


def _changes(times_us: Ints, values: Floats) -> list[int]:
    detector: Any = ADWIN()  # type: ignore[no-untyped-call]  # River has no types here
    found = []
    for at, value in zip(times_us.tolist(), values.tolist(), strict=True):
        detector.update(value)
        if detector.drift_detected:
            found.append(at)
    return found


def psi(slices: Sequence[TimeSlice], reference: Reference) -> list[int]:
    """Whenever the PSI of some column, of the last window against all of the reference, comes above 0.2."""
    length = reference.window_us // slices[0].length_us
    rows = np.array([reference.layout.of(one) for one in slices], np.float64)
    sums = np.cumsum(rows, axis=0)
    sums[length:] = sums[length:] - sums[:-length]
    sums, ends = sums[length - 1 :], [one.end_us for one in slices[length - 1 :]]
    total = reference.tallies.sum(axis=0).astype(np.float64)
    shares = total / total[reference.layout.rows]
    nothing = np.zeros((len(sums), 0))
    windows = Windows(sums, sums[:, [reference.layout.rows]] * shares, np.zeros(len(sums)), nothing, nothing)
    above = np.asarray((reference.measures.stability(windows) > PSI_LIMIT).any(axis=1))
    began = above & ~np.concatenate([[False], above[:-1]])
    return [ends[at] for at in np.flatnonzero(began).tolist()]
