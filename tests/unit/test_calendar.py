"""Calendar parts against Python's own calendar, in zones with odd offsets and odd changes."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.calendar import part_of, part_range

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Paris",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Africa/Cairo",
    "Pacific/Apia",
    "America/Caracas",
]
PARTS = {
    "hour_of_day": lambda local: local.hour,
    "minute_of_day": lambda local: local.hour * 60 + local.minute,
    "day_of_week": lambda local: local.weekday(),
    "day_of_month": lambda local: local.day,
    "day_of_year": lambda local: local.timetuple().tm_yday,
    "month": lambda local: local.month,
}
MOMENTS = st.lists(st.integers(0, 4_102_000_000_000_000), min_size=1, max_size=50)  # 1970 .. 2099


@given(MOMENTS, st.sampled_from(ZONES))
def test_every_part_is_that_of_the_calendar(moments, zone):
    for part, of in PARTS.items():
        local = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment) for moment in moments]
        expected = [of(moment.astimezone(ZoneInfo(zone))) for moment in local]
        values = part_of(part, np.array(moments, np.int64), zone)
        assert values.tolist() == expected
        low, high = part_range(part)
        assert all(low <= value <= high for value in values)


@pytest.mark.parametrize("zone", ZONES)
def test_the_microsecond_of_every_change_is_right(zone):
    year = 2014  # Egypt changed four times in it, Morocco too
    start = datetime(year, 1, 1, tzinfo=UTC)
    hours = [start + timedelta(minutes=15 * step) for step in range(366 * 96)]
    offsets = [moment.astimezone(ZoneInfo(zone)).utcoffset() for moment in hours]
    changes = [
        after
        for before, after, old, new in zip(hours, hours[1:], offsets, offsets[1:], strict=False)
        if old != new
    ]
    for change in changes:
        at = int(change.timestamp()) * 1_000_000
        expected = [
            datetime.fromtimestamp(moment / 1e6, UTC).astimezone(ZoneInfo(zone)).hour * 60
            + datetime.fromtimestamp(moment / 1e6, UTC).astimezone(ZoneInfo(zone)).minute
            for moment in (at - 1_000_000, at)
        ]
        assert part_of("minute_of_day", np.array([at - 1, at]), zone).tolist() == expected


def test_times_before_1970_have_their_calendar_too():
    moment = datetime(1969, 7, 20, 20, 17, tzinfo=UTC)
    us = int(moment.timestamp()) * 1_000_000
    assert [part_of(part, np.array([us]), "UTC")[0] for part in PARTS] == [
        of(moment) for of in PARTS.values()
    ]
