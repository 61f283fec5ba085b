"""How a pipeline's event time is written in its records, and the microseconds since the Unix epoch that it means.

- `datetime`: RFC 3339 with an offset ("2013-04-01T10:15:00+02:00", "…Z"). Without an offset it is nobody's moment, and
  refused, unless the pipeline names a `time_zone`: then it is the clock on the wall there. Of an hour that the clock
  shows twice (end of summer time) the first is meant; a time that it skips is read with the offset before the change.
- `date`: midnight in `time_zone`, or UTC.
- `int` or `float` with `time_unit`: seconds, milliseconds or microseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from features.calendar import check_zone
from features.errors import PipelineError
from features.plan import Floats, Ints
from features.schema import Field

UNITS_US = {"s": 1_000_000, "ms": 1_000, "us": 1}

# No event of this century is later: what is beyond is another unit (milliseconds read as seconds) or a placeholder
# such as 9999-12-31.
LATEST_US = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000

# Before this, a number of seconds was read as milliseconds (today's date in seconds is January 1970 in milliseconds).
DEFAULT_EARLIEST = "2000-01-01"

_TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class TimeReading:
    """How the values of a time field become microseconds. `scale_us` is 0 for datetimes and dates."""

    field: str
    scale_us: int
    zone: str | None
    dates: bool = False

    def microseconds(self, values: Sequence[Any]) -> Ints:
        """int64[n] from the decoded values (no nulls). Numbers too large for a time are clipped to int64's ends.

        Example:
            >>> TimeReading("at", 1_000, None).microseconds([1_364_811_300_000]).tolist()
            [1364811300000000]
            >>> TimeReading("at", 0, "Europe/Paris").microseconds([datetime(2013, 4, 1, 12, 15)]).tolist()
            [1364811300000000]
        """
        if self.scale_us:
            return _scaled(values, self.scale_us)
        return instants_us(values, self.zone)

    @property
    def wants_offset(self) -> bool:
        """Whether a datetime without an offset is nobody's moment here."""
        return self.scale_us == 0 and self.zone is None and not self.dates


def read_time(field: Field, time_unit: object, time_zone: object, place: str) -> TimeReading:
    """How this field is read as the event time; raises PipelineError where the declaration leaves it open."""
    if not field.required or field.nullable:
        raise PipelineError(
            f"{place}, time", f"{field.described} may be null or absent", "a field that every event has"
        )
    if field.known_later:
        raise PipelineError(f"{place}, time", f"{field.described} is known_later", "the moment of decision")
    if field.kind not in ("time", "number"):
        raise PipelineError(
            f"{place}, time", f"{field.described}", "a datetime, a date, or a number with time_unit"
        )
    if field.kind == "number":
        if time_zone is not None:
            raise PipelineError(
                f"{place}, time_zone", f"{field.described} counts from 1970-01-01 UTC", "no time_zone"
            )
        if time_unit not in UNITS_US:
            seen = f"{field.described} is a number and time_unit is {time_unit!r}"
            raise PipelineError(f"{place}, time_unit", seen, "'s', 'ms' or 'us' (since 1970-01-01 UTC)")
        return TimeReading(field.name, UNITS_US[str(time_unit)], None)
    if time_unit is not None:
        seen = f"{time_unit!r}, but {field.described} is no number"
        raise PipelineError(f"{place}, time_unit", seen, "no time_unit: it is for int and float times")
    if time_zone is not None:
        check_zone(time_zone, f"{place}, time_zone")
    return TimeReading(field.name, 0, None if time_zone is None else str(time_zone), dates=field.type is date)


def moment_us(value: object, place: str) -> int:
    """A moment written in a pipeline file: "2013-01-01", "2013-01-01T06:00:00+01:00" (UTC without an offset), a date."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, date):
            return int(instants_us([value], "UTC")[0])
    except ValueError:
        pass
    raise PipelineError(
        place, f"{value!r} is no date", "a date such as '2013-01-01' or '2013-01-01T06:00:00Z'"
    )


def seconds(values: Sequence[Any], zone: str | None) -> Floats:
    """float64[n] seconds since the epoch of a time field that is not the event time; NaN for null."""
    missing = np.array([value is None for value in values], np.bool_)
    moments = instants_us([_NEVER if value is None else value for value in values], zone) / 1e6
    moments[missing] = np.nan
    return moments


_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def instants_us(values: Sequence[Any], zone: str | None) -> Ints:
    """int64[n] of datetimes and dates; those without an offset are clock times in `zone` (UTC when None)."""
    if zone is not None:
        place = ZoneInfo(zone)
        values = [_located(value, place) for value in values]
    elif values and not isinstance(values[0], datetime):
        values = [_located(value, UTC) for value in values]
    microseconds: Ints = pa.array(values, _TIMESTAMP).view(pa.int64()).to_numpy()
    return microseconds


def instant_us(value: date, zone: str | None) -> int:
    """One datetime or date as `instants_us` has it, in a hundredth of the time that a column of one takes.

    Example:
        >>> instant_us(datetime(2013, 4, 1, 12, 15), "Europe/Paris")
        1364811300000000
    """
    return (_located(value, UTC if zone is None else ZoneInfo(zone)) - _EPOCH) // _MICROSECOND


_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def _located(value: date, place: ZoneInfo | Any) -> datetime:
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), place)
    return value.replace(tzinfo=place) if value.tzinfo is None else value


def _scaled(values: Sequence[Any], scale_us: int) -> Ints:
    numbers = np.array(values)
    limit = np.iinfo(np.int64).max // scale_us
    if numbers.dtype == np.int64:
        scaled: Ints = np.clip(numbers, -limit, limit) * scale_us
        return scaled
    if numbers.dtype == np.object_:  # whole numbers beyond 64 bits, one of which no float may hold
        numbers = np.clip(numbers, -limit, limit)
    # Above 2^53 a float no longer tells microseconds apart; times of this century stay below.
    return np.rint(np.clip(numbers.astype(np.float64) * scale_us, -9e18, 9e18)).astype(np.int64)
