"""Calendar parts of a time (hour of the day, day of the week, …) in a named time zone, over whole columns.

The offset of a zone is looked up in a table of its changes, made once from the system's zone data: a batch then costs
one binary search, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np

from features.durations import DAY_US, HOUR_US, MINUTE_US
from features.errors import PipelineError
from features.plan import Floats, Ints
from features.schema import nearest

# The table of a zone covers these years; outside them the offset at the nearest end holds.
FIRST_YEAR, LAST_YEAR = 1970, 2100

# How far apart the zone data is probed. Two changes within a week that cancel each other have not been seen in any zone.
_PROBE = timedelta(days=7)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class CalendarPart:
    """A feature that is a part of a time in a zone's local calendar; `of` None means the event time."""

    part: str
    zone: str
    of: str | None
    name: str | None

    @property
    def described(self) -> str:
        """The declaration as the user wrote it."""
        return f"{self.part}({self.zone!r})"

    @property
    def feature_name(self) -> str:
        """`hour_of_day`, or `<field>_hour_of_day` for another time than the event's, or the name that was given."""
        return self.name or (f"{self.of}_{self.part}" if self.of else self.part)


def hour_of_day(zone: str = "UTC", *, of: str | None = None, name: str | None = None) -> CalendarPart:
    """0 .. 23 in the local time of `zone`, of the event time or of the time field `of`.

    Example:
        >>> hour_of_day("Europe/Paris", of="arrival").feature_name
        'arrival_hour_of_day'
    """
    return CalendarPart("hour_of_day", zone, of, name)


def minute_of_day(zone: str = "UTC", *, of: str | None = None, name: str | None = None) -> CalendarPart:
    """0 .. 1439 in the local time of `zone`."""
    return CalendarPart("minute_of_day", zone, of, name)


def day_of_week(zone: str = "UTC", *, of: str | None = None, name: str | None = None) -> CalendarPart:
    """0 (Monday) .. 6 (Sunday) in the local time of `zone`."""
    return CalendarPart("day_of_week", zone, of, name)


def day_of_month(zone: str = "UTC", *, of: str | None = None, name: str | None = None) -> CalendarPart:
    """1 .. 31 in the local time of `zone`."""
    return CalendarPart("day_of_month", zone, of, name)


def day_of_year(zone: str = "UTC", *, of: str | None = None, name: str | None = None) -> CalendarPart:
    """1 .. 366 in the local time of `zone`."""
    return CalendarPart("day_of_year", zone, of, name)


def month(zone: str = "UTC", *, of: str | None = None, name: str | None = None) -> CalendarPart:
    """1 .. 12 in the local time of `zone`."""
    return CalendarPart("month", zone, of, name)


def check_zone(zone: object, place: str) -> None:
    """Raise PipelineError unless `zone` is a name of the IANA time zone database."""
    try:
        ZoneInfo(zone)  # type: ignore[arg-type]  # whatever the user wrote
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        known = nearest(zone, sorted(available_timezones())).partition(" (there are")[0]
        near = known if known.startswith("'") else "a name such as 'UTC' or 'Europe/Paris'"
        raise PipelineError(place, f"{zone!r} is no time zone", near) from error


def local_us(times_us: Ints, zone: str) -> Ints:
    """The local clock of `zone` at these moments, as microseconds since 1970-01-01 00:00 on that clock.

    Example:
        >>> local_us(np.array([1_385_870_400_000_000]), "America/New_York") - 1_385_870_400_000_000
        array([-18000000000])
    """
    changes, offsets = _offsets(zone)
    local: Ints = times_us + offsets[np.searchsorted(changes, times_us, side="right")]
    return local


def part_of(part: str, times_us: Ints, zone: str) -> Floats:
    """One calendar part of each moment, float64[n].

    Example:
        >>> part_of("day_of_week", np.array([0]), "UTC")        # 1970-01-01 was a Thursday
        array([3.])
    """
    return _PARTS[part][0](local_us(times_us, zone)).astype(np.float64)


def part_range(part: str) -> tuple[float, float]:
    """The least and the greatest value of a part."""
    return _PARTS[part][1:]


def _day_number(local: Ints) -> Ints:
    days: Ints = local // DAY_US
    return days


def _days(local: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.datetime64]]:
    return _day_number(local).astype("datetime64[D]")


def _months(local: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.datetime64]]:
    return _days(local).astype("datetime64[M]")


_PARTS: dict[str, tuple[Callable[[Ints], Ints], float, float]] = {
    "hour_of_day": (lambda local: local % DAY_US // HOUR_US, 0, 23),
    "minute_of_day": (lambda local: local % DAY_US // MINUTE_US, 0, 1439),
    "day_of_week": (lambda local: (_day_number(local) + 3) % 7, 0, 6),
    "day_of_month": (lambda local: (_days(local) - _months(local)).astype(np.int64) + 1, 1, 31),
    "day_of_year": (
        lambda local: (_days(local) - _days(local).astype("datetime64[Y]")).astype(np.int64) + 1,
        1,
        366,
    ),
    "month": (lambda local: _months(local).astype(np.int64) % 12 + 1, 1, 12),
}


@lru_cache(maxsize=64)  # a zone's table is 10 KiB; no pipeline names more zones than this
def _offsets(zone: str) -> tuple[Ints, Ints]:
    """(changes int64[m], offsets int64[m + 1]): offsets[i] holds before changes[i], all in microseconds."""
    info = ZoneInfo(zone)
    end = datetime(LAST_YEAR, 1, 1, tzinfo=UTC)
    moment = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
    changes: list[int] = []
    offsets = [_offset_us(info, moment)]
    while moment < end:
        following = min(moment + _PROBE, end)
        if _offset_us(info, following) != offsets[-1]:
            changes.append(_change_us(info, moment, following))
            offsets.append(_offset_us(info, following))
        moment = following
    return np.array(changes, np.int64), np.array(offsets, np.int64)


def _offset_us(info: ZoneInfo, moment: datetime) -> int:
    return (moment.astimezone(info).utcoffset() or timedelta()) // _MICROSECOND


def _change_us(info: ZoneInfo, before: datetime, after: datetime) -> int:
    """The second at which the offset of `before` ends, by bisection."""
    old = _offset_us(info, before)
    low, high = (int((moment - _EPOCH).total_seconds()) for moment in (before, after))
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_us(info, _EPOCH + timedelta(seconds=middle)) == old:
            low = middle
        else:
            high = middle
    return high * 1_000_000
