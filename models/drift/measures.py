"""Everything that is measured of a window against what was expected of it: one number for each thing that could have moved.

Each measure has a `value` that people can read (a distance, a difference of rates) and a `distance`: the same in units of
the chance of a sample of that many rows, so that windows with many and with few rows can be judged alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from features.plan import Floats, Ints
from models.drift.bins import Bins, Histogram, seen
from models.drift.buckets import GAMMA
from models.drift.distances import largest_difference, share_distance, stability_index, total_variation
from models.drift.estimate import moments
from models.drift.signals import Level, Signal
from models.drift.tallies import Tallies

# Fewer rows in a window say nothing about a distribution.
FEWEST_ROWS: Final = 50

# Mean and spread of the distances by chance alone. Kolmogorov's distribution has 0.87 and 0.26; of few values less.
CHANCE: Final = {"ks": (0.5, 0.2), "total_variation": (0.4, 0.2)}
# Of the absolute value of a normal distribution.
CHANCE_OF_RATES: Final = (0.8, 0.6)


@dataclass(frozen=True)
class Measure:
    """What is measured of which thing. `place` is the column's, -1 where it is about all rows; `group` the segment's value."""

    level: Level
    subject: str
    statistic: str
    place: int = -1
    group: int = -1
    segment: str = ""

    @property
    def name(self) -> str:
        """The name of its signals."""
        return Signal(self.level, self.subject, self.statistic, 0, 0.0, 0.0, 0.0, self.segment).name


@dataclass(frozen=True, eq=False)
class Windows:
    """n windows: what was counted, what was expected (float64[n, numbers of the tallies]), and rows by hour of the week.

    `largest`, `usual_largest`: float64[n, entities], the share of an entity's largest value, and what it usually is.
    """

    found: Floats
    expected: Floats
    usual_rows: Floats
    largest: Floats
    usual_largest: Floats


@dataclass(frozen=True, eq=False)
class Measures:
    """The measures of a reference, in one order. `histograms` are its counts of each column, `totals` its tallies."""

    tallies: Tallies
    histograms: tuple[Histogram, ...]
    totals: Ints

    @property
    def bins(self) -> Bins:
        """The reference's bins."""
        return self.tallies.bins

    @cached_property
    def compared(self) -> Ints:
        """Places of the columns whose distribution is compared."""
        return np.flatnonzero(self.bins.widths > 0)

    @cached_property
    def numbers(self) -> Ints:
        """Places of the columns that are no categories: they can be out of range, and have a middle."""
        return np.array(
            [
                place
                for place, column in enumerate(self.bins.columns)
                if column.kind != "category" and column.compared
            ],
            np.int64,
        )

    @cached_property
    def categories(self) -> Ints:
        """Places of compared columns that are categories."""
        kinds = [self.bins.columns[place].kind == "category" for place in self.compared.tolist()]
        found: Ints = self.compared[np.array(kinds, bool)]
        return found

    @cached_property
    def entities(self) -> Ints:
        """Places of the columns by which events belong together."""
        return np.flatnonzero(np.array([not column.compared for column in self.bins.columns], bool))

    @cached_property
    def scores(self) -> Ints:
        """Places of the columns from which AUC and log loss are estimated."""
        places = self.compared.tolist()
        return np.array(
            [place for place in places if self.bins.columns[place].kind == "probability"], np.int64
        )

    @cached_property
    def all(self) -> tuple[Measure, ...]:
        """Every measure, in the order of `values`."""
        everything = np.arange(len(self.bins.columns))
        found = [
            self._of(place, "total_variation" if place in self.categories else "ks")
            for place in self.compared.tolist()
        ]
        found += [self._of(place, "missing") for place in everything.tolist()]
        found += [self._of(place, "outside") for place in self.numbers.tolist()]
        found += [self._of(place, "unseen") for place in self.categories.tolist()]
        found += [self._of(place, "largest_share") for place in self.entities.tolist()]
        found += [
            Measure("estimate", self.bins.columns[place].name, statistic, place)
            for place in self.scores.tolist()
            for statistic in ("expected_auc", "expected_log_loss")
        ]
        for statistic in ("shift", "missing", "outside"):
            for group, (field, value) in enumerate(self.tallies.groups):
                found += [
                    self._of(place, statistic, group, f"{field}={value}")
                    for place in self._group_places.tolist()
                ]
        return (*found, Measure("data", "volume", "log_ratio"))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The name of each measure's signals."""
        return tuple(measure.name for measure in self.all)

    @cached_property
    def chance(self) -> tuple[Floats, Floats]:
        """float64[measures] twice: the least mean and spread of a measure's distance, which chance alone gives."""
        known = [CHANCE.get(measure.statistic, CHANCE_OF_RATES) for measure in self.all]
        return np.array([mean for mean, _ in known]), np.array([spread for _, spread in known])

    @cached_property
    def _group_places(self) -> Ints:
        return self.numbers

    def _of(self, place: int, statistic: str, group: int = -1, segment: str = "") -> Measure:
        column = self.bins.columns[place]
        level: Level = "prediction" if column.source == "score" else "data"
        return Measure(level, column.name, statistic, place, group, segment)

    def measured(self, windows: Windows) -> tuple[Floats, Floats]:
        """Values and distances: float64[n, measures] twice, 0 where there is too little to say."""
        parts = [
            self._distributions(windows),
            self._rates(windows),
            self._largest(windows),
            self._estimates(windows),
            self._groups(windows),
            _volume(windows, self.tallies.rows),
        ]
        values = np.concatenate([value for value, _ in parts], axis=1)
        distances = np.concatenate([distance for _, distance in parts], axis=1)
        return np.nan_to_num(values), np.nan_to_num(distances)

    def shares(self, windows: Windows) -> tuple[Floats, Floats]:
        """Shares of the bins, as counted and as expected."""
        bins, parts_of = self.tallies.of_bins, self.tallies.parts_of[self.tallies.of_bins]
        return (
            _divided(windows.found[:, bins], windows.found[:, parts_of]),
            _divided(windows.expected[:, bins], windows.expected[:, parts_of]),
        )

    def plain(self, windows: Windows) -> Windows:
        """The same, compared with all of the reference, whatever the hour."""
        parts_of = self.tallies.parts_of
        totals = self.totals.astype(np.float64)
        overall = _divided(totals, totals[parts_of])
        return replace(windows, expected=windows.found[:, parts_of] * overall)

    def stability(self, windows: Windows) -> Floats:
        """float64[n, compared columns]: PSI, with missing values as one more bin."""
        tallies = self.tallies
        rows = windows.found[:, tallies.rows][:, None]
        now = _divided(windows.found[:, tallies.of_bins], rows)
        before = _divided(windows.expected[:, tallies.of_bins], rows)
        found = self._by_column(stability_index, now, before)
        gaps = [_divided(part[:, tallies.missing], rows) for part in (windows.found, windows.expected)]
        places = self.compared
        more = stability_index(gaps[0][:, places], gaps[1][:, places], np.arange(len(places)))
        psi: Floats = np.where(rows >= FEWEST_ROWS, found + more, 0.0)
        return psi

    def _by_column(self, distance: object, *parts: Floats) -> Floats:
        if not len(self.compared):
            return np.zeros((len(parts[0]), 0))
        found: Floats = distance(*parts, self.bins.starts[self.compared])  # type: ignore[operator]
        return found

    def _distributions(self, windows: Windows) -> tuple[Floats, Floats]:
        now, before = self.shares(windows)
        rows = windows.found[:, self.tallies.there]
        enough = rows >= FEWEST_ROWS
        differences = np.where(enough[:, self.bins.column_of], now - before, 0.0)
        ordered = self._by_column(largest_difference, differences)
        unordered = self._by_column(total_variation, differences)
        value = np.where(np.isin(self.compared, self.categories), unordered, ordered)
        return value, value * np.sqrt(rows[:, self.compared])

    def _rates(self, windows: Windows) -> tuple[Floats, Floats]:
        tallies, numbers = self.tallies, self.numbers
        rows = windows.found[:, [tallies.rows]]
        there = windows.found[:, tallies.there]
        unseen = self.bins.starts[self.categories] + self.bins.widths[self.categories] - 1
        found = [
            _either_way(
                _rate(windows, np.arange(tallies.missing.start, tallies.missing.stop), rows, tallies)
            ),
            _grown(_rate(windows, tallies.outside.start + numbers, there[:, numbers], tallies)),
            _grown(_rate(windows, unseen, there[:, self.categories], tallies)),
        ]
        return _joined(found)

    def _largest(self, windows: Windows) -> tuple[Floats, Floats]:
        rows = windows.found[:, [self.tallies.rows]]
        difference = windows.largest - windows.usual_largest
        distance = share_distance(windows.largest, windows.usual_largest, rows)
        enough = rows >= FEWEST_ROWS
        return _grown((np.where(enough, difference, 0.0), np.where(enough, distance, 0.0)))

    def _estimates(self, windows: Windows) -> tuple[Floats, Floats]:
        now, before = self.shares(windows)
        found = [self._estimate(windows, place, now, before) for place in self.scores.tolist()]
        return _joined(found) if found else _nothing(len(now))

    def _estimate(self, windows: Windows, place: int, now: Floats, before: Floats) -> tuple[Floats, Floats]:
        bins = slice(self.bins.starts[place], self.bins.starts[place] + self.bins.widths[place])
        scores = self.score_values[place]
        is_now, variance = moments(now[:, bins], scores)
        was, usual_variance = moments(before[:, bins], scores)
        # A log loss that grows is worse, an AUC that falls.
        worse = (is_now - was) * np.array([-1.0, 1.0])
        rows = windows.found[:, self.tallies.there][:, [place]]
        error = np.sqrt((variance + usual_variance) / 2 / np.maximum(rows, 1)) + 1e-9
        enough = rows >= FEWEST_ROWS
        return _grown((np.where(enough, worse, 0.0), np.where(enough, worse / error, 0.0)))

    @cached_property
    def score_values(self) -> dict[int, Floats]:
        """By the place of a score the mean score of each of its bins."""
        return {
            place: self.bins.probabilities(place, self.histograms[place]) for place in self.scores.tolist()
        }

    @cached_property
    def spreads(self) -> Floats:
        """float64[columns]: standard deviation of the buckets of a column."""
        found = np.ones(len(self.bins.columns))
        for place, histogram in enumerate(self.histograms):
            buckets, counts = seen(histogram)
            if counts.sum() > 1:
                mean = np.average(buckets, weights=counts)
                found[place] = np.sqrt(np.average((buckets - mean) ** 2, weights=counts)) + 1.0
        return found

    def _groups(self, windows: Windows) -> tuple[Floats, Floats]:
        tallies, columns = self.tallies, len(self.bins.columns)
        count = len(tallies.groups)
        if not count:
            return _nothing(len(windows.found))
        places = (np.arange(count)[:, None] * columns + self._group_places).ravel()
        there = windows.found[:, tallies.group_there.start + places]
        enough = (there >= FEWEST_ROWS) & (self.totals[tallies.group_there.start + places] >= FEWEST_ROWS)
        means = [
            _divided(part[:, tallies.group_sums.start + places], whole)
            for part, whole in ((windows.found, there), (windows.expected, there))
        ]
        shift = np.where(enough, means[0] - means[1], 0.0)
        spread = np.tile(self.spreads[self._group_places], count)
        steps = np.array(
            [0.05 if column.kind == "probability" else np.log(GAMMA) for column in self.bins.columns]
        )
        moved = (
            np.abs(shift) * np.tile(steps[self._group_places], count),
            np.abs(shift) / spread * np.sqrt(there),
        )
        rows = windows.found[:, tallies.parts_of[tallies.group_missing.start + places]]
        return _joined(
            [
                moved,
                _either_way(_rate(windows, tallies.group_missing.start + places, rows, tallies)),
                _grown(_rate(windows, tallies.group_outside.start + places, there, tallies)),
            ]
        )


def _rate(windows: Windows, places: Ints, rows: Floats, tallies: Tallies) -> tuple[Floats, Floats]:
    parts_of = tallies.parts_of[places]
    now = _divided(windows.found[:, places], windows.found[:, parts_of])
    before = _divided(windows.expected[:, places], windows.expected[:, parts_of])
    enough = rows >= FEWEST_ROWS
    difference = np.where(enough, now - before, 0.0)
    return difference, np.where(enough, share_distance(now, before, rows), 0.0)


def _either_way(found: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    value, distance = found
    return np.abs(value), np.abs(distance)


def _grown(found: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    value, distance = found
    return np.maximum(value, 0.0), np.maximum(distance, 0.0)


def _volume(windows: Windows, rows: int) -> tuple[Floats, Floats]:
    ratio = np.log((windows.found[:, [rows]] + 1.0) / (windows.usual_rows[:, None] + 1.0))
    return np.abs(ratio), np.abs(ratio) * np.sqrt(windows.usual_rows[:, None] + 1.0)


def _divided(parts: Floats, wholes: Floats) -> Floats:
    found: Floats = np.divide(
        parts, wholes, out=np.zeros(np.broadcast_shapes(parts.shape, wholes.shape)), where=wholes > 0
    )
    return found


def _joined(found: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    return np.concatenate([value for value, _ in found], axis=1), np.concatenate(
        [far for _, far in found], axis=1
    )


def _nothing(windows: int) -> tuple[Floats, Floats]:
    return np.zeros((windows, 0)), np.zeros((windows, 0))
