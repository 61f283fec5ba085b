"""Will this flight arrive 15 minutes late or more? Asked at its scheduled departure, of every departure of 2013.

The event holds what is known at that moment: the plan, the aircraft's facts, and the weather of the last full hour.
What is known only later (the actual departure, the delay, the arrival) is no field of it. The aircraft is the one that
flew in the end: its turn-around times would know of later swaps, so it has windows of days only (see `data.py`).
"""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from driftwood import (
    Entity,
    Label,
    LightGBM,
    Pipeline,
    Threshold,
    categorical,
    day_of_week,
    hour_of_day,
    minute_of_day,
    unit,
)

Kilometres = Annotated[float, Meta(ge=0, le=20_000), unit("km")]
Millimetres = Annotated[float, Meta(ge=0, le=500), unit("mm/h")]
KilometresPerHour = Annotated[float, Meta(ge=0, le=400), unit("km/h")]


class Departure(msgspec.Struct):
    """One scheduled departure from New York."""

    flight_id: str
    scheduled_departure: datetime
    origin: str
    destination: str
    carrier: str
    distance_km: Kilometres
    aircraft: str | None = None
    scheduled_minutes: Annotated[int, Meta(ge=0, le=1_440), unit("min")] | None = None
    seats: Annotated[int, Meta(ge=1, le=900)] | None = None
    wind_kmh: KilometresPerHour | None = None
    gust_kmh: KilometresPerHour | None = None
    visibility_km: Kilometres | None = None
    precipitation_mm: Millimetres | None = None


NEW_YORK = "America/New_York"
origin, carrier = Entity("origin"), Entity("carrier")
destination, aircraft = Entity("destination"), Entity("aircraft")

flights = Pipeline(
    "flights",
    event=Departure,
    id="flight_id",
    time="scheduled_departure",
    decided="at scheduled departure",
    earliest="2013-01-01",
    label=Label("late", horizon="3d"),
    decide=Threshold(0.5),
    features=[
        "distance_km",
        "scheduled_minutes",
        "seats",
        "wind_kmh",
        "gust_kmh",
        "visibility_km",
        "precipitation_mm",
        categorical("origin"),
        categorical("carrier"),
        hour_of_day(NEW_YORK),
        minute_of_day(NEW_YORK),
        day_of_week(NEW_YORK),
        origin.count("1h"),
        origin.mean("visibility_km", "3h"),
        origin.min("visibility_km", "12h"),
        origin.max("precipitation_mm", "6h"),
        origin.mean("precipitation_mm", "12h"),
        carrier.count("1h"),
        carrier.mean("visibility_km", "3h"),
        carrier.mean("precipitation_mm", "3h"),
        destination.mean("visibility_km", "6h"),
        destination.mean("precipitation_mm", "6h"),
        aircraft.count("7d"),
        aircraft.mean("distance_km", "14d"),
    ],
    batch=LightGBM(
        rounds=150,
        num_leaves=31,
        learning_rate=0.03,
        min_data_in_leaf=300,
        parameters={
            "lambda_l2": 20.0,
            "feature_fraction": 0.3,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "cat_smooth": 50.0,
            "max_bin": 127,
        },
    ),
    fallback=0.24,
)
