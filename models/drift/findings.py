"""The evidence of a signal: what was before and what is now, so that a person can see it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from features.plan import Floats
from models.drift.bins import Histogram, seen
from models.drift.buckets import bucket_values
from models.drift.estimate import moments
from models.drift.measures import Measure
from models.drift.reference import Reference
from models.drift.signals import Evidence, Window
from models.drift.time_slice import TimeSlice

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_SHARES: Final = 6
# What the reference itself has shown of a threshold, from which on it is worth saying.
WORTH_SAYING: Final = 0.7


class Findings:
    """Makes the evidence of one window. `found`, `expected`: float64[numbers], its tallies and what was expected."""

    def __init__(
        self, reference: Reference, slices: Sequence[TimeSlice], found: Floats, expected: Floats, psi: Floats
    ) -> None:
        self._reference, self._found, self._expected, self._psi = reference, found, expected, psi
        # Slices of other columns, from before a pipeline changed, have nothing to show.
        columns = len(reference.columns)
        self._slices = [one for one in slices if len(one.buckets) == columns]
        rows = int(found[reference.layout.rows])
        self._window = Window(slices[0].start_us, slices[-1].end_us, rows)

    def of(self, measure: Measure, peak: float = 0.0) -> Evidence:
        """The evidence of this measure. `peak`: the largest strength of it that the reference itself shows."""
        place = measure.place
        shows = place >= 0 and not self._reference.columns[place].hidden and measure.group < 0
        return Evidence(
            self._reference.window,
            self._window,
            self._psi_of(place),
            self._quantiles(place) if shows else {},
            self._shares(measure, shows=shows),
            why=_seen_before(peak),
        )

    @property
    def plain(self) -> Evidence:
        """Its two windows alone."""
        return Evidence(self._reference.window, self._window)

    def _psi_of(self, place: int) -> float | None:
        places = np.flatnonzero(self._reference.measures.compared == place)
        return round(float(self._psi[places[0]]), 4) if len(places) else None

    def _quantiles(self, place: int) -> dict[str, tuple[float, float]]:
        column = self._reference.columns[place]
        if column.kind == "category" or not column.compared:
            return {}
        before = quantiles(column.kind, self._reference.histograms[place])
        now = quantiles(column.kind, histogram_of(self._slices, place))
        if before is None or now is None:
            return {}
        return {f"{share:g}": (was, is_) for share, was, is_ in zip(QUANTILES, before, now, strict=True)}

    def _shares(self, measure: Measure, *, shows: bool) -> dict[str, tuple[float, float]]:
        layout, place, columns = self._reference.layout, measure.place, len(self._reference.columns)
        if measure.statistic == "log_ratio" or place < 0:
            return {}
        if measure.level == "estimate":
            return self._estimates(place)
        if measure.group >= 0:
            at = measure.group * columns + place
            return {
                "missing": self._share(layout.group_missing.start + at),
                "outside": self._share(layout.group_outside.start + at),
            }
        found = {
            "missing": self._share(layout.missing.start + place),
            "outside": self._share(layout.outside.start + place),
        }
        if self._reference.columns[place].kind == "category":
            del found["outside"]
            found |= self._categories(place, shows=shows)
        return found

    def _estimates(self, place: int) -> dict[str, tuple[float, float]]:
        """Expected AUC and log loss, and the standard error of what labels will say of so many rows."""
        bins, measures = self._reference.layout.bins, self._reference.measures
        mine = slice(bins.starts[place], bins.starts[place] + bins.widths[place])
        rows = self._found[self._reference.layout.there][place]
        counts = np.stack([self._expected[mine], self._found[mine]])
        wholes = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
        values, variances = moments(counts / wholes, measures.score_values[place])
        errors = np.sqrt(variances / np.maximum(rows, 1.0))
        return {
            name: (_rounded(found[0, number]), _rounded(found[1, number]))
            for number, metric in enumerate(("auc", "log_loss"))
            for name, found in ((f"expected_{metric}", values), (f"{metric}_error", errors))
        }

    def _share(self, at: int) -> tuple[float, float]:
        whole = self._reference.layout.parts_of[at]
        return (
            _rounded(self._expected[at] / max(self._expected[whole], 1.0)),
            _rounded(self._found[at] / max(self._found[whole], 1.0)),
        )

    def _categories(self, place: int, *, shows: bool) -> dict[str, tuple[float, float]]:
        """The categories whose shares moved most, by name; what was never seen before together."""
        bins = self._reference.layout.bins
        width, start = int(bins.widths[place]), int(bins.starts[place])
        if not width:
            return {}
        found = {"unseen": self._share(start + width - 1)}
        named = slice(start, start + width - 2)
        # Expected are as many values as came, so that counts differ as shares do.
        moved = np.argsort(-np.abs(self._found[named] - self._expected[named]), kind="stable")
        names = self._reference.names[place]
        for index in moved[:MOST_SHARES].tolist() if shows else []:
            name = names.get(int(bins.edges[place][index]))
            if name is not None:
                found[name] = self._share(start + index)
        return found


def histogram_of(slices: Sequence[TimeSlice], place: int) -> Histogram:
    """Buckets and counts of a column over these slices."""
    buckets = np.frombuffer(b"".join(one.buckets[place] for one in slices), np.int32).astype(np.int64)
    counts = np.frombuffer(b"".join(one.counts[place] for one in slices), np.int64)
    sums = np.bincount(buckets, weights=counts).astype(np.int64)
    kept = np.flatnonzero(sums)
    return kept, sums[kept]


def quantiles(kind: str, histogram: Histogram) -> list[float] | None:
    """The values at `QUANTILES`, to 1 %; None without values.

    Example:
        >>> from models.drift.buckets import number_buckets
        >>> quantiles("number", (number_buckets(np.array([1.0, 10.0, 100.0])), np.array([1, 98, 1])))
        [9.95, 9.95, 9.95, 9.95, 9.95]
    """
    buckets, counts = seen(histogram)
    if not len(buckets):
        return None
    cumulative = np.cumsum(counts)
    places = np.searchsorted(cumulative, np.array(QUANTILES) * cumulative[-1])
    values = bucket_values("probability" if kind == "probability" else "number", buckets[places])
    return [float(f"{value:.3g}") for value in values]


def _rounded(share: float) -> float:
    return float(f"{share:.4g}")


def _seen_before(peak: float) -> tuple[str, ...]:
    if peak < WORTH_SAYING:
        return ()
    return (f"the reference itself shows {peak:.0%} of this threshold once: it may be its season",)
