"""A time slice as one row of whole numbers, in the bins of a reference: rows of slices add up to the row of a window.

Each number has another one that it is a share of (`parts_of`): of a bin the values that are there, of missing values the rows.
What is expected of a slice is then its own denominators times the shares of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.plan import Ints
from models.drift.bins import Bins
from models.drift.time_slice import SegmentCounts, TimeSlice

Group = tuple[str, str]
"""A declared segment and one of its values."""


@dataclass(frozen=True, eq=False)
class Tallies:
    """What stands where in a row: bins; missing, there and outside by column; rows; then the same of each group.

    [ bins | missing | there | outside | rows | group rows | group missing | there | outside | bucket sums ]
    """

    bins: Bins
    groups: tuple[Group, ...]

    @cached_property
    def _ends(self) -> list[int]:
        columns, groups = len(self.bins.columns), len(self.groups)
        sizes = [self.bins.count, columns, columns, columns, 1, groups, *[groups * columns] * 4]
        return [0, *np.cumsum(sizes).tolist()]

    def _part(self, number: int) -> slice:
        return slice(self._ends[number], self._ends[number + 1])

    @property
    def count(self) -> int:
        """Numbers in a row."""
        return self._ends[-1]

    @property
    def of_bins(self) -> slice:
        """Counts by bin."""
        return self._part(0)

    @property
    def missing(self) -> slice:
        """Missing values by column."""
        return self._part(1)

    @property
    def there(self) -> slice:
        """Values that are not missing, by column."""
        return self._part(2)

    @property
    def outside(self) -> slice:
        """Values out of range, by column."""
        return self._part(3)

    @property
    def rows(self) -> int:
        """All rows."""
        return self._ends[4]

    @property
    def group_rows(self) -> slice:
        """Rows by group."""
        return self._part(5)

    @property
    def group_missing(self) -> slice:
        """Missing values by group and column."""
        return self._part(6)

    @property
    def group_there(self) -> slice:
        """Values that are not missing, by group and column."""
        return self._part(7)

    @property
    def group_outside(self) -> slice:
        """Values out of range, by group and column."""
        return self._part(8)

    @property
    def group_sums(self) -> slice:
        """Sums of buckets by group and column."""
        return self._part(9)

    @cached_property
    def parts_of(self) -> Ints:
        """For each number the place of the one that it is a share of; of itself where it is a total."""
        columns = len(self.bins.columns)
        found = np.arange(self.count)
        found[self.of_bins] = self.there.start + self.bins.column_of
        found[self.missing] = self.rows
        found[self.outside] = np.arange(self.there.start, self.there.stop)
        found[self.group_missing] = np.repeat(np.arange(self.group_rows.start, self.group_rows.stop), columns)
        found[self.group_outside] = np.arange(self.group_there.start, self.group_there.stop)
        found[self.group_sums] = np.arange(self.group_there.start, self.group_there.stop)
        return found

    def of(self, slice_: TimeSlice) -> Ints:
        """The slice as a row. A slice with other columns, from before a pipeline changed, counts as one without rows."""
        found = np.zeros(self.count, np.int64)
        if len(slice_.buckets) != len(self.bins.columns):
            return found
        found[self.of_bins], found[self.missing] = self.bins.counted(slice_)
        found[self.rows] = slice_.rows
        found[self.there] = slice_.rows - found[self.missing]
        found[self.outside] = slice_.outside
        columns = len(self.bins.columns)
        for place, (field, value) in enumerate(self.groups):
            counts = slice_.segments.get(field, {}).get(value)
            if counts is not None:
                self._put(found, place, slice(place * columns, (place + 1) * columns), counts)
        return found

    def _put(self, row: Ints, place: int, mine: slice, counts: SegmentCounts) -> None:
        missing = np.array(counts.missing, np.int64)
        row[self.group_rows][place] = counts.rows
        row[self.group_missing][mine] = missing
        row[self.group_there][mine] = counts.rows - missing
        row[self.group_outside][mine] = counts.outside
        row[self.group_sums][mine] = counts.bucket_sums
