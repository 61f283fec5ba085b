"""Entities and the windows over their events: what a pipeline writes.

    origin = Entity("origin")
    origin.count("1h", "12h"), origin.mean("wind_kmh", "3h"), origin.since_last()

Nothing is checked here: a declaration only remembers what was written, and the pipeline checks all of them at once,
with their places (`features/compiler.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from features.durations import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from features.plan import Aggregate, GroupKind, PointKind

# How many distinct values a `distinct` counts exactly. Raising it costs 8 bytes a tile and value.
DISTINCT_EXACT_TO = 32
# Below 4 the estimate beyond the bound would be a guess; above 1,024 a tile alone would be 8 KiB.
DISTINCT_BOUNDS = (4, 1_024)

# `last`, `since_last` and `ewm` forget after this much, unless `within` says otherwise: the longest window there is.
DEFAULT_WITHIN = "90d"


class TileSize(NamedTuple):
    """Windows of at least `from_us` are read from tiles of `tile_us`."""

    from_us: int
    tile_us: int


# The beginning of a window is blurred by at most one tile: a twelfth of its width from 12 minutes up, a quarter for one
# minute. The price is the number of tiles that a read adds up: at most 289 (just under 12 d, in tiles of 1 h).
TILE_SIZES = (
    TileSize(12 * DAY_US, DAY_US),
    TileSize(12 * HOUR_US, HOUR_US),
    TileSize(HOUR_US, 5 * MINUTE_US),
    TileSize(12 * MINUTE_US, MINUTE_US),
    TileSize(0, 15 * SECOND_US),
)


def tile_us(width_us: int) -> int:
    """The tile size of a window.

    Example:
        >>> tile_us(7 * DAY_US) // HOUR_US, tile_us(HOUR_US) // MINUTE_US
        (1, 5)
    """
    return next(size.tile_us for size in TILE_SIZES if width_us >= size.from_us)


def ring_length(width_us: int) -> int:
    """How many tiles of a window can be alive at once.

    Example:
        >>> ring_length(HOUR_US)
        13
    """
    return math.ceil(width_us / tile_us(width_us)) + 1


# Labels may run ahead of the events of their entity: events wait behind a worker that was away, labels come by another way.
# So much farther does a ring over labels reach, and so many tiles of 48 bytes it costs at most; when they are farther
# ahead, the windows of the events lose what lies before the ring.
AHEAD_US = 6 * HOUR_US
AHEAD_TILES = 72


def label_ring_length(width_us: int) -> int:
    """How many tiles of a window over labels can be alive at once.

    Example:
        >>> label_ring_length(HOUR_US), label_ring_length(7 * DAY_US)
        (85, 175)
    """
    return ring_length(width_us) + min(math.ceil(AHEAD_US / tile_us(width_us)), AHEAD_TILES)


@dataclass(frozen=True)
class AggregateRule:
    """What an aggregate is made of: a window group or a point; its usual default, and what its values can be."""

    aggregate: Aggregate
    source: GroupKind | PointKind
    default: float  # when nothing was seen; NaN: missing
    unit: str | None  # None: the unit of its input
    at_least_zero: bool
    keeps_range: bool  # its values lie within the range of the input


RULES = {
    "count": AggregateRule(Aggregate.COUNT, GroupKind.COUNT, 0.0, "events", True, False),
    "sum": AggregateRule(Aggregate.SUM, GroupKind.MOMENTS, 0.0, None, False, False),
    "mean": AggregateRule(Aggregate.MEAN, GroupKind.MOMENTS, math.nan, None, False, True),
    "std": AggregateRule(Aggregate.STD, GroupKind.MOMENTS, math.nan, None, True, False),
    "rate": AggregateRule(Aggregate.MEAN, GroupKind.SUMS, math.nan, "share", True, False),
    "min": AggregateRule(Aggregate.MIN, GroupKind.EXTREMES, math.nan, None, False, True),
    "max": AggregateRule(Aggregate.MAX, GroupKind.EXTREMES, math.nan, None, False, True),
    "distinct": AggregateRule(Aggregate.DISTINCT, GroupKind.DISTINCT, 0.0, "values", True, False),
    "last": AggregateRule(Aggregate.LAST, PointKind.LAST, math.nan, None, False, True),
    "since_last": AggregateRule(Aggregate.SINCE_LAST, PointKind.SEEN, math.nan, "s", True, False),
    "ewm": AggregateRule(Aggregate.EWM, PointKind.DECAYED, math.nan, None, False, True),
}


# What a correction can take back. (Of the newest, the least or the distinct values it is not known what stood before.)
OVER_LABELS = ("rate", "count", "sum", "mean", "std")


@dataclass(frozen=True)
class WindowFeatures:
    """One call of an entity's aggregate, as written; one feature for each of its windows (one where it has none)."""

    entity: Entity
    aggregate: str  # a key of RULES
    value: str | None
    windows: tuple[str, ...]
    where: str | None = None
    within: str | None = None
    half_life: str | None = None
    exact_to: int = 0
    name: str | None = None
    default: float | None = None
    unit: str | None = None

    @property
    def described(self) -> str:
        """The declaration as the user wrote it: `origin.mean('wind_kmh', '3h')`."""
        given = [repr(self.value)] if self.value is not None else []
        given += [repr(window) for window in self.windows]
        options = {
            "half_life": self.half_life,
            "within": None if self.within == DEFAULT_WITHIN else self.within,
            "exact_to": None if self.exact_to in (0, DISTINCT_EXACT_TO) else self.exact_to,
            "where": self.where,
            "name": self.name,
            "default": self.default,
        }
        given += [f"{name}={value!r}" for name, value in options.items() if value is not None]
        return f"{self.entity.name}.{self.aggregate}({', '.join(given)})"


@dataclass(frozen=True, init=False)
class Entity:
    """Somebody or something whose past matters: an airport, a card, a shop, a route.

    `Entity("origin")` is keyed by the event's field of that name, `Entity("shop", keys="merchant_id")` by another
    field, `Entity("route", keys=("origin", "destination"))` by two. Keys are text or whole numbers. Where a key is
    null the event belongs to no such entity: its features take their defaults and nothing is remembered.

    Its methods declare features of the entity's earlier events, as of each event and without it. `where` keeps only
    the events for which a condition holds, `name` replaces `<entity>_<field>_<aggregate>` in the feature's name (the
    window stays), `default` replaces the value when nothing was seen.

    `rate`, `count`, `sum`, `mean` and `std` also take the name of the label, or of one of its `values`: such a window is
    over the labels of the entity's events that had become known by then, each at the time when it became known.

    Example:
        >>> Entity("route", keys=("origin", "destination")).mean("delay", "7d", where="delay < 300").described
        "route.mean('delay', '7d', where='delay < 300')"
    """

    name: str
    keys: tuple[str, ...]

    def __init__(self, name: str, *, keys: str | tuple[str, ...] | list[str] = ()) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "keys", ((keys,) if isinstance(keys, str) else tuple(keys)) or (name,))

    def count(
        self, *windows: str, where: str | None = None, name: str | None = None, default: float | None = None
    ) -> WindowFeatures:
        """How many events in each window (0 when none); with the label's name before the windows, how many labels."""
        return WindowFeatures(self, "count", None, windows, where, name=name, default=default)

    def rate(
        self, label: str, *windows: str, name: str | None = None, default: float | None = None
    ) -> WindowFeatures:
        """The share of positives among the labels that became known (missing when none did); of a binary label."""
        return WindowFeatures(self, "rate", label, windows, name=name, default=default)

    def sum(
        self,
        field: str,
        *windows: str,
        where: str | None = None,
        name: str | None = None,
        default: float | None = None,
        unit: str | None = None,
    ) -> WindowFeatures:
        """The sum of a number field or expression (0 when there were no values)."""
        return WindowFeatures(self, "sum", field, windows, where, name=name, default=default, unit=unit)

    def mean(
        self,
        field: str,
        *windows: str,
        where: str | None = None,
        name: str | None = None,
        default: float | None = None,
        unit: str | None = None,
    ) -> WindowFeatures:
        """The mean (missing when there were no values)."""
        return WindowFeatures(self, "mean", field, windows, where, name=name, default=default, unit=unit)

    def std(
        self,
        field: str,
        *windows: str,
        where: str | None = None,
        name: str | None = None,
        default: float | None = None,
        unit: str | None = None,
    ) -> WindowFeatures:
        """The sample standard deviation, n - 1 (missing with fewer than two values)."""
        return WindowFeatures(self, "std", field, windows, where, name=name, default=default, unit=unit)

    def min(
        self,
        field: str,
        *windows: str,
        where: str | None = None,
        name: str | None = None,
        default: float | None = None,
        unit: str | None = None,
    ) -> WindowFeatures:
        """The least value (missing when there were none)."""
        return WindowFeatures(self, "min", field, windows, where, name=name, default=default, unit=unit)

    def max(
        self,
        field: str,
        *windows: str,
        where: str | None = None,
        name: str | None = None,
        default: float | None = None,
        unit: str | None = None,
    ) -> WindowFeatures:
        """The greatest value (missing when there were none)."""
        return WindowFeatures(self, "max", field, windows, where, name=name, default=default, unit=unit)

    def distinct(
        self,
        field: str,
        *windows: str,
        exact_to: int = DISTINCT_EXACT_TO,
        where: str | None = None,
        name: str | None = None,
        default: float | None = None,
    ) -> WindowFeatures:
        """How many different values of a text or number field, exact up to `exact_to`, then an estimate.

        The estimate's standard error is 1 / sqrt(exact_to - 1) of the value: 18 % for 32, 6 % for 256.
        """
        return WindowFeatures(
            self, "distinct", field, windows, where, exact_to=exact_to, name=name, default=default
        )

    def last(
        self,
        field: str,
        *,
        within: str = DEFAULT_WITHIN,
        where: str | None = None,
        name: str | None = None,
        default: float | None = None,
        unit: str | None = None,
    ) -> WindowFeatures:
        """The newest value that is not null (missing when there is none, or when it is older than `within`)."""
        return WindowFeatures(self, "last", field, (), where, within, name=name, default=default, unit=unit)

    def since_last(
        self,
        *,
        within: str = DEFAULT_WITHIN,
        where: str | None = None,
        name: str | None = None,
        default: float | None = None,
    ) -> WindowFeatures:
        """Seconds since the entity's newest event (missing when there is none, or when it is older than `within`)."""
        return WindowFeatures(self, "since_last", None, (), where, within, name=name, default=default)

    def ewm(
        self,
        field: str,
        *,
        half_life: str,
        within: str = DEFAULT_WITHIN,
        where: str | None = None,
        name: str | None = None,
        default: float | None = None,
        unit: str | None = None,
    ) -> WindowFeatures:
        """The exponentially weighted mean: a value's weight halves with every `half_life` of its age.

        Missing when there is no value, or when the newest is older than `within`.
        """
        return WindowFeatures(
            self, "ewm", field, (), where, within, half_life, name=name, default=default, unit=unit
        )
