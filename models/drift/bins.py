"""The bins of a reference: a few for each column, fine where its values are many, into which time slices are counted anew.

A number's bins hold a sixteenth of its values each, and one more on either side for what was never seen so small or so large.
A category's largest forty values have bins of their own, the rest has one, and what was never seen has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from features.plan import Floats, Ints
from models.drift.buckets import MISSING, WIDTHS, bucket_values
from models.drift.columns import Column
from models.drift.time_slice import TimeSlice

NUMBER_BINS: Final = 16
# Expected AUC and log loss are worked out from the bins of a score, so it has more of them.
PROBABILITY_BINS: Final = 32
CATEGORY_BINS: Final = 40

Histogram = tuple[Ints, Ints]
"""Buckets, ascending, and their counts."""


def seen(histogram: Histogram) -> Histogram:
    """The histogram without missing values."""
    kept = histogram[0] != MISSING
    return histogram[0][kept], histogram[1][kept]


@dataclass(frozen=True, eq=False)
class Bins:
    """`edges` by column: of numbers the last bucket of every bin but the last, of categories the buckets with own bins.

    `rest` by column: a category's other buckets that were seen. Columns without values in the reference, and entities, have
    no bins: both are empty.
    """

    columns: tuple[Column, ...]
    edges: tuple[Ints, ...]
    rest: tuple[Ints, ...]

    @classmethod
    def of(cls, columns: Sequence[Column], histograms: Sequence[Histogram]) -> Bins:
        """The bins for these counts of all rows."""
        none = np.zeros(0, np.int64)
        edges, rest = [], []
        for column, histogram in zip(columns, histograms, strict=True):
            buckets, counts = seen(histogram)
            if not column.compared or not len(buckets):
                edges.append(none)
                rest.append(none)
            elif column.kind == "category":
                order = np.lexsort((buckets, -counts))
                edges.append(buckets[order[:CATEGORY_BINS]])
                rest.append(np.sort(buckets[order[CATEGORY_BINS:]]))
            else:
                wanted = PROBABILITY_BINS if column.kind == "probability" else NUMBER_BINS
                edges.append(_quantile_edges(buckets, counts, wanted))
                rest.append(none)
        return cls(tuple(columns), tuple(edges), tuple(rest))

    @cached_property
    def widths(self) -> Ints:
        """How many bins each column has; 0 without reference."""
        return np.array(
            [
                0 if not len(edges) else len(edges) + (2 if column.kind == "category" else 1)
                for column, edges in zip(self.columns, self.edges, strict=True)
            ],
            np.int64,
        )

    @cached_property
    def starts(self) -> Ints:
        """The first bin of each column among all bins."""
        return np.concatenate([[0], np.cumsum(self.widths)[:-1]]).astype(np.int64)

    @property
    def count(self) -> int:
        """Bins of all columns together."""
        return int(self.widths.sum())

    @cached_property
    def column_of(self) -> Ints:
        """The column of each bin."""
        return np.repeat(np.arange(len(self.columns)), self.widths)

    @cached_property
    def _bases(self) -> Ints:
        widths = [WIDTHS[column.kind] for column in self.columns]
        return np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)

    @cached_property
    def _bin_of(self) -> Ints:
        """For each bucket of each column its bin; behind the bins the missing values by column, then what is not kept."""
        dropped = self.count + len(self.columns)
        found = np.full(self._bases[-1], dropped, np.int64)
        for place, column in enumerate(self.columns):
            mine = found[self._bases[place] : self._bases[place + 1]]
            start, edges = self.starts[place], self.edges[place]
            if column.kind == "category" and len(edges):
                mine[:] = start + len(edges) + 1
                mine[self.rest[place]] = start + len(edges)
                mine[edges] = start + np.arange(len(edges))
            elif len(edges):
                mine[:] = start + np.searchsorted(edges, np.arange(len(mine)))
            mine[MISSING] = self.count + place
        return found

    def counted(self, slice_: TimeSlice) -> tuple[Ints, Ints]:
        """Counts by bin, and missing values by column."""
        buckets = np.frombuffer(b"".join(slice_.buckets), np.int32).astype(np.int64)
        counts = np.frombuffer(b"".join(slice_.counts), np.int64)
        sizes = [len(found) // 4 for found in slice_.buckets]
        limits = np.repeat(np.diff(self._bases) - 1, sizes)
        places = np.repeat(self._bases[:-1], sizes) + np.minimum(buckets, limits)
        bins = self._bin_of[places]
        # As whole numbers: a sum of weights is one of floats, exact to 2^53.
        sums = np.bincount(bins, weights=counts, minlength=self.count + len(self.columns) + 1)
        found = sums.astype(np.int64)
        return found[: self.count], found[self.count : self.count + len(self.columns)]

    def probabilities(self, place: int, histogram: Histogram) -> Floats:
        """The mean score of each bin of a probability, by these counts; of an empty bin the value at its edge."""
        buckets, counts = seen(histogram)
        edges = self.edges[place]
        bins = np.searchsorted(edges, buckets)
        weights = np.bincount(bins, weights=counts, minlength=len(edges) + 1)
        values = bucket_values("probability", buckets)
        sums = np.bincount(bins, weights=counts * values, minlength=len(edges) + 1)
        ends = bucket_values("probability", np.append(edges, edges[-1] + 1))
        found: Floats = np.where(weights > 0, sums / np.maximum(weights, 1), ends)
        return found


def _quantile_edges(buckets: Ints, counts: Ints, wanted: int) -> Ints:
    """The last bucket of each bin: before the smallest one seen, then by shares; values with a share of their own stay alone."""
    share = counts.sum() / wanted
    edges, filled = [int(buckets[0]) - 1], 0
    for place, count in enumerate(counts.tolist()):
        if filled and (count >= share or filled + count > share * 1.5):
            edges.append(int(buckets[place - 1]))
            filled = 0
        filled += count
        if filled >= share:
            edges.append(int(buckets[place]))
            filled = 0
    edges.append(int(buckets[-1]))
    return np.unique(np.array(edges, np.int64))
