"""The 24 windows of `benchmarks/card_pipeline.py` in plain Python: what the peers share, so that only frameworks differ.

A window is a running total over tiles: an event costs a few additions for each tile size, and every tile is subtracted
once, when it leaves the window. Nothing is scanned again but for the maximum (at most 25 tiles) and for late events (one
in a hundred). It needs the standard library alone: Quix Streams runs in an environment of its own.

The state of an entity is nested lists, so that JSON and MessagePack write it as it stands:

    state  [points, rings, totals]
    points [newest time, last value, decayed sum, decayed weight]
    ring   tiles, oldest first: [number, count, sum, sum of squares, maximum, distinct values]
    total  for each window: [index of its first tile, count, sum, sum of squares]

Windows cover what docs/glossary.md says, late events included. One thing is simpler than in driftwood: distinct values
are kept and counted, however many there are, so the memory of an entity has no bound.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000  # microseconds
WITHIN = 90 * DAY  # how long `last`, `since_last` and the weighted mean remember
NAN = math.nan

State = list[Any]
Tile = list[Any]
Total = list[Any]
NEWEST, LAST, SUM, WEIGHT = range(4)  # of points

CARD_FEATURES = (
    *("card_count_5m", "card_count_1h", "card_count_1d", "card_count_7d", "card_count_30d"),
    *("card_amount_sum_1h", "card_amount_sum_1d"),
    *("card_amount_mean_1d", "card_amount_mean_7d", "card_amount_mean_30d"),
    *("card_amount_std_7d", "card_amount_max_1d", "card_amount_last", "card_since_last"),
    *("card_amount_ewm_6h", "card_terminal_distinct_1d"),
)
TERMINAL_FEATURES = (
    *("terminal_count_5m", "terminal_count_1h", "terminal_count_1d"),
    *("terminal_amount_mean_1h", "terminal_amount_mean_30d", "terminal_amount_max_12h"),
    *("terminal_since_last", "terminal_amount_ewm_1h"),
)


class Ring(NamedTuple):
    """Tiles of one size: the windows that are read from them, as (width, place among the totals), and how many can live."""

    tile: int
    windows: list[tuple[int, int]]
    length: int


class Rings:
    """The tiles of one entity type: `rings` are (tile size, widths of the windows that are read from it).

    Example:
        >>> rings = Rings([(15 * SECOND, [5 * MINUTE])], half_life=HOUR)
        >>> state = rings.new()
        >>> for minute in (0, 1, 4, 7):
        ...     totals, points = rings.read(state, minute * MINUTE)
        ...     print(totals[0][1:3], points)
        ...     rings.add(state, minute * MINUTE, 20.0)
        [0, 0.0] [nan, nan, nan]
        [1, 20.0] [60.0, 20.0, 20.0]
        [2, 40.0] [180.0, 20.0, 20.0]
        [1, 20.0] [180.0, 20.0, 20.0]
    """

    def __init__(self, rings: Sequence[tuple[int, Sequence[int]]], half_life: int) -> None:
        self._half_life = half_life
        self._rings: list[Ring] = []
        for tile, widths in rings:
            first = sum(len(ring.windows) for ring in self._rings)
            length = max(-(-width // tile) for width in widths) + 1
            self._rings.append(Ring(tile, [(width, first + n) for n, width in enumerate(widths)], length))

    def new(self) -> State:
        """The state of an entity that was never seen."""
        return [
            [None, 0.0, 0.0, 0.0],
            [[] for _ in self._rings],
            [[0, 0, 0.0, 0.0] for ring in self._rings for _ in ring.windows],
        ]

    def read(self, state: State, time: int) -> tuple[list[Total], list[float]]:
        """As of `time`: the windows' totals, and [seconds since the newest event, last value, weighted mean]."""
        points, rings, totals = state
        newest = points[NEWEST]
        if newest is None:
            return totals, [NAN, NAN, NAN]
        if time < newest:
            return self._late_totals(state, time), [NAN, NAN, points[SUM] / points[WEIGHT]]
        for (tile, windows, _), tiles in zip(self._rings, rings):  # noqa: B905 - `strict` costs as much as a window
            for width, index in windows:
                total = totals[index]
                start, first = total[0], (time - width) // tile
                while start < len(tiles) and tiles[start][0] < first:
                    gone = tiles[start]
                    total[1] -= gone[1]
                    total[2] -= gone[2]
                    total[3] -= gone[3]
                    start += 1
                total[0] = start
        if time - newest > WITHIN:
            return totals, [NAN, NAN, NAN]
        return totals, [(time - newest) / 1e6, points[LAST], points[SUM] / points[WEIGHT]]

    def add(self, state: State, time: int, value: float, kept: str | None = None) -> None:
        """Count an event in, after `read` has been called for it; `kept` is its value of what is counted distinct."""
        points, rings, totals = state
        newest = points[NEWEST]
        if newest is not None and time < newest:
            self._add_late(state, time, value, kept)
        else:
            for (tile, windows, _), tiles in zip(self._rings, rings):  # noqa: B905 - as above
                number = time // tile
                if tiles and tiles[-1][0] == number:
                    _into(tiles[-1], value, kept)
                else:
                    _forget(tiles, [totals[index] for _, index in windows])
                    tiles.append(_tile(number, value, kept))
                for _, index in windows:
                    total = totals[index]
                    total[1] += 1
                    total[2] += value
                    total[3] += value * value
        self._add_to_points(points, time, value)

    def _add_late(self, state: State, time: int, value: float, kept: str | None) -> None:
        """Into its own tiles, which may have to be made; windows that have moved past them do not count it."""
        points, rings, totals = state
        for (tile, windows, length), tiles in zip(self._rings, rings, strict=True):
            number, newest = time // tile, points[NEWEST]
            if number <= newest // tile - length:
                continue
            place = bisect_left(tiles, number, key=_number)
            made = place == len(tiles) or tiles[place][0] != number
            if made:
                tiles.insert(place, _tile(number, value, kept))
            else:
                _into(tiles[place], value, kept)
            for width, index in windows:
                total, first = totals[index], (newest - width) // tile
                total[0] += made and (place < total[0] or (place == total[0] and number < first))
                if number >= first:
                    total[1:] = [total[1] + 1, total[2] + value, total[3] + value * value]

    def _add_to_points(self, points: list[Any], time: int, value: float) -> None:
        newest = points[NEWEST]
        if newest is None or time - newest > WITHIN:
            points[:] = [time, value, value, 1.0]
        elif time >= newest:
            decay = 2.0 ** ((newest - time) / self._half_life)
            points[:] = [time, value, points[SUM] * decay + value, points[WEIGHT] * decay + 1.0]
        elif time >= newest - WITHIN:
            weight = 2.0 ** ((time - newest) / self._half_life)
            points[SUM] += weight * value
            points[WEIGHT] += weight

    def _late_totals(self, state: State, time: int) -> list[Total]:
        """Of an event that is older than the newest: its windows end with its own tiles."""
        found = []
        for (tile, windows, _), tiles in zip(self._rings, state[1], strict=True):
            stop = bisect_right(tiles, time // tile, key=_number)
            for _, index in windows:
                start = state[2][index][0]
                sums = [sum(one[place] for one in tiles[start:stop]) for place in (1, 2, 3)]
                found.append([start, *sums, stop])
        return found


def inside(tiles: list[Tile], total: Total) -> list[Tile]:
    """The tiles of a window, for what has no running total."""
    return tiles[total[0] :] if len(total) == 4 else tiles[total[0] : total[4]]


def mean(total: Total) -> float:
    """The mean of a window, NaN when it is empty."""
    return total[2] / total[1] if total[1] else NAN


def std(total: Total) -> float:
    """The sample standard deviation of a window, NaN below two values."""
    _, count, sum_, squares = total[:4]
    return math.sqrt(max(squares - sum_ * sum_ / count, 0.0) / (count - 1)) if count > 1 else NAN


def maximum(tiles: list[Tile], total: Total) -> float:
    """The greatest value of a window, NaN when it is empty."""
    return max([tile[4] for tile in inside(tiles, total)]) if total[1] else NAN


def distinct(tiles: list[Tile], total: Total) -> int:
    """How many different values a window has."""
    found = inside(tiles, total)
    return len(found[0][5]) if len(found) == 1 else len(set(chain.from_iterable(tile[5] for tile in found)))


class Card(Rings):
    """The card's 16 features."""

    def __init__(self) -> None:
        rings = [(15 * SECOND, [5 * MINUTE]), (5 * MINUTE, [HOUR]), (HOUR, [DAY, 7 * DAY]), (DAY, [30 * DAY])]
        super().__init__(rings, half_life=6 * HOUR)

    def take(self, state: State, time: int, amount: float, terminal: str) -> list[float]:
        """`CARD_FEATURES` as of an event, before it counts; then it does."""
        (m5, h1, d1, d7, d30), (since, last, ewm) = self.read(state, time)
        hours = state[1][2]
        features = [m5[1], h1[1], d1[1], d7[1], d30[1], h1[2] if h1[1] else 0.0, d1[2] if d1[1] else 0.0]
        features += [mean(d1), mean(d7), mean(d30), std(d7), maximum(hours, d1), last, since, ewm]
        features.append(distinct(hours, d1))
        self.add(state, time, amount, terminal)
        return features


class Terminal(Rings):
    """The terminal's 8 features."""

    def __init__(self) -> None:
        rings = [
            (15 * SECOND, [5 * MINUTE]),
            (5 * MINUTE, [HOUR]),
            (HOUR, [12 * HOUR, DAY]),
            (DAY, [30 * DAY]),
        ]
        super().__init__(rings, half_life=HOUR)

    def take(self, state: State, time: int, amount: float) -> list[float]:
        """`TERMINAL_FEATURES` as of an event, before it counts; then it does."""
        (m5, h1, h12, d1, d30), (since, _, ewm) = self.read(state, time)
        features = [m5[1], h1[1], d1[1], mean(h1), mean(d30), maximum(state[1][2], h12), since, ewm]
        self.add(state, time, amount)
        return features


def _number(tile: Tile) -> int:
    number: int = tile[0]
    return number


def _tile(number: int, value: float, kept: str | None) -> Tile:
    return [number, 1, value, value * value, value, [] if kept is None else [kept]]


def _into(tile: Tile, value: float, kept: str | None) -> None:
    tile[1] += 1
    tile[2] += value
    tile[3] += value * value
    tile[4] = max(tile[4], value)
    if kept is not None and kept not in tile[5]:
        tile[5].append(kept)


def _forget(tiles: list[Tile], totals: list[Total]) -> None:
    """Drop the tiles that every window has left behind; totals of windows that are empty lose their rounding errors."""
    gone = min([total[0] for total in totals])
    if gone:
        del tiles[:gone]
        for total in totals:
            total[0] -= gone
            if not total[1]:
                total[2] = total[3] = 0.0
