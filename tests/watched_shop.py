"""A shop under watch, made up: four weeks as they should be, then one in which amounts grow and a producer loses a field."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Annotated

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Meta

from driftwood import Entity, Label, Pipeline, categorical, personal, scaled_logistic
from driftwood.drift_watched import Heard
from models.drift.alert import Alert
from models.drift.columns import watched_columns
from models.drift.reference import Reference
from models.drift.spec import Drift
from models.drift.time_slice import Counting, TimeSlice, WatchedRows
from models.drift.watch import DriftWatch

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
BEGIN_US = int(datetime(2024, 4, 1, tzinfo=UTC).timestamp() * 1e6)
USUAL_DAYS, DAYS = 28, 35
CHANGED_US = BEGIN_US + USUAL_DAYS * DAY_US
LENGTH_US = 4 * HOUR_US
ROWS = 240
END_US = BEGIN_US + DAYS * DAY_US
VERSION = "0a1b2c3d4e5f"


class Order(msgspec.Struct):
    order_id: str
    at: datetime
    customer: str
    amount: Annotated[float, Meta(ge=0, le=10_000)]
    country: str
    weight_kg: float | None = None
    age: Annotated[float | None, personal] = None


customer = Entity("customer")


def shop_called(name: str) -> Pipeline:
    """The shop's pipeline under this name."""
    return Pipeline(
        name,
        event=Order,
        id="order_id",
        time="at",
        features=[
            "amount",
            categorical("country"),
            "weight_kg",
            "age",
            customer.count("1d"),
            customer.mean("amount", "7d"),
        ],
        label=Label("returned", horizon="14d"),
        online=[scaled_logistic()],
        allow_personal=["age"],
        drift=Drift(time_slice="4h"),
    )


shop = shop_called("shop")
COLUMNS = watched_columns(shop)


@cache
def slices() -> list[TimeSlice]:
    """All of them, of four hours each."""
    random = np.random.default_rng(7)
    return [_slice(start_us, random) for start_us in range(BEGIN_US, END_US, LENGTH_US)]


def _slice(start_us: int, random: np.random.Generator) -> TimeSlice:
    changed = start_us >= CHANGED_US
    hour = start_us // HOUR_US % 24
    rows = int(random.poisson(ROWS * (1 + 0.6 * np.sin(2 * np.pi * (hour - 9) / 24))))
    amounts = random.lognormal(3.5, 0.9, rows) * (1.3 if changed else 1.0)
    weights = random.gamma(2.0, 3.0, rows)
    weights[random.random(rows) < (0.3 if changed else 0.02)] = np.nan
    counts = random.poisson(1.5, rows).astype(float)
    scores = 1 / (1 + np.exp(-(random.normal(-2.2, 1.0, rows) + (0.5 if changed else 0.0))))
    numbers = {
        "amount": amounts,
        "weight_kg": weights,
        "age": random.normal(44.0, 12.0, rows).round(),
        "customer_count_1d": counts,
        "customer_amount_mean_7d": amounts * random.lognormal(0, 0.3, rows),
        "score": scores,
        "decision": (scores >= 0.5).astype(float),
    }
    known = ["DE", "FR", "IT", "PL"]
    countries = random.choice(
        [*known, "XX"], rows, p=[0.5, 0.25, 0.15, 0.06, 0.04] if changed else [0.5, 0.3, 0.15, 0.05, 0]
    )
    texts = {"country": countries, "customer": random.integers(0, 500, rows).astype(str)}
    of_kind = [column for column in COLUMNS if column.kind != "category"]
    counting = Counting(COLUMNS, start_us, LENGTH_US)
    counting.add(
        WatchedRows(
            np.full(rows, start_us),
            np.stack([numbers[column.name] for column in of_kind], axis=1),
            [pa.array(texts[column.name]) for column in COLUMNS if column.kind == "category"],
            version=VERSION,
        )
    )
    return counting.closed()


@cache
def reference() -> Reference:
    """What the champion was trained on: the time before the change."""
    return Reference.of(COLUMNS, [one for one in slices() if one.start_us < CHANGED_US], shop.drift)


def heard() -> Heard:
    """What a monitor hears of it, and nothing of labels."""
    found = Heard()
    for one in slices():
        found.served(one, {})
    return found


@cache
def alerts() -> list[Alert]:
    """What a monitor raises upon it."""
    watch = DriftWatch(shop, COLUMNS, lambda _: reference())
    return [alert for one in slices() for alert in watch.served(one, {})]
