"""Will this flight arrive 15 minutes late or more? Asked at its scheduled departure, of every departure of 2013.

The event holds what is known at that moment: the plan, the aircraft's facts, and the weather of the last full hour.
What is known only later (the actual departure, the delay, the arrival) is no field of it; it is the label, and tells of
the flights after it: how late an airport, a carrier or this very flight has been, as far as that is known at the moment.
The aircraft is the one that flew in the end and knows of later swaps (see `data.py`): nothing is remembered of it.
"""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from driftwood import (
    Blend,
    Entity,
    Label,
    LightGBM,
    Pipeline,
    Threshold,
    bounded_tree,
    categorical,
    day_of_week,
    expression,
    hour_of_day,
    minute_of_day,
    scaled_logistic,
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
    flight_number: int
    distance_km: Kilometres
    aircraft: str | None = None
    scheduled_minutes: Annotated[int, Meta(ge=0, le=1_440), unit("min")] | None = None
    seats: Annotated[int, Meta(ge=1, le=900)] | None = None
    wind_kmh: KilometresPerHour | None = None
    gust_kmh: KilometresPerHour | None = None
    visibility_km: Kilometres | None = None
    precipitation_mm: Millimetres | None = None


NEW_YORK = "America/New_York"
origin, carrier, destination = Entity("origin"), Entity("carrier"), Entity("destination")
# The same flight of every day: some are late as a rule.
flight = Entity("flight", keys=("carrier", "flight_number", "origin"))


def landed(entity: str) -> str:
    """Landings that became known in six hours for each departure of that time: few where much has gone wrong."""
    return f"{entity}_late_count_6h / {entity}_count_6h"


flights = Pipeline(
    "flights",
    event=Departure,
    id="flight_id",
    time="scheduled_departure",
    decided="at scheduled departure",
    earliest="2013-01-01",
    label=Label("late", horizon="3d", values=("delay_minutes",)),
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
        categorical("destination"),
        hour_of_day(NEW_YORK),
        minute_of_day(NEW_YORK),
        day_of_week(NEW_YORK),
        origin.count("1h", "6h"),
        origin.count("late", "1h", "6h"),
        origin.rate("late", "1h", "3h"),
        origin.mean("delay_minutes", "1h", "3h", "12h", "1d", unit="min"),
        origin.mean("visibility_km", "3h"),
        origin.min("visibility_km", "12h"),
        origin.max("precipitation_mm", "6h"),
        origin.mean("precipitation_mm", "12h"),
        expression("origin_landed_6h", landed("origin")),
        carrier.count("6h"),
        carrier.count("late", "6h"),
        carrier.rate("late", "3h"),
        carrier.mean("delay_minutes", "1h", "3h", "12h", "1d", "7d", unit="min"),
        carrier.mean("visibility_km", "3h"),
        carrier.mean("precipitation_mm", "3h"),
        expression("carrier_landed_6h", landed("carrier")),
        destination.count("6h"),
        destination.count("late", "6h"),
        destination.rate("late", "12h"),
        destination.mean("delay_minutes", "3h", "12h", "1d", "7d", unit="min"),
        destination.mean("visibility_km", "6h"),
        destination.mean("precipitation_mm", "6h"),
        expression("destination_landed_6h", landed("destination")),
        flight.rate("late", "30d"),
        flight.mean("delay_minutes", "7d", "30d", unit="min"),
    ],
    batch=LightGBM(
        rounds=200,
        num_leaves=31,
        learning_rate=0.04,
        min_data_in_leaf=1_000,
        parameters={
            "lambda_l2": 20.0,
            "feature_fraction": 0.3,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "cat_smooth": 50.0,
            "max_bin": 127,
        },
    ),
    # Counts and mean delays have long tails: softened.
    online=[scaled_logistic(learning_rate=0.02, rows_per_step=4, soften=True), bounded_tree()],
    # Whoever left has landed half a day later, as good as all of them. A thousand labels are a day: a larger share would
    # leave the weakest part a sixth of the weight. LightGBM keeps two fifths.
    blend=Blend(share=0.0001, floor=0.4, mature_after="12h"),
    fallback=0.24,
)
