"""A small shop, for tests of the whole road: pipelines over its orders, and awkward orders for them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from driftwood import Entity, Label, Pipeline, categorical, day_of_week, expression, hour_of_day, personal

START = datetime(2024, 5, 1, tzinfo=UTC)


class Order(msgspec.Struct):
    order_id: str
    placed_at: datetime
    customer: Annotated[str | None, personal]
    shop: int
    amount: Annotated[float | None, Meta(ge=0, le=1e6)]
    country: str | None = None
    street: str | None = None
    city: str | None = None
    express: bool = False


customer, shop = Entity("customer"), Entity("shop")
place = Entity("place", keys=("street", "city"))


def orders(features: list[Any] | None = None, **more: Any) -> Pipeline:
    """A pipeline over orders; by default with three entities, and a rule as its fallback."""
    if features is None:
        features = [
            "amount",
            categorical("country"),
            hour_of_day("Europe/Berlin"),
            customer.count("1h", "7d"),
            customer.mean("amount", "1d"),
            customer.since_last(),
            shop.sum("amount", "2h"),
            shop.distinct("country", "1d", exact_to=4),
            shop.last("amount", within="6h"),
            expression("share", "amount / shop_amount_sum_2h"),
            place.max("amount", "3h", where="express"),
            place.ewm("amount", half_life="30m"),
        ]
        more = {"fallback": "customer_count_7d / 10", **more}
    declared: dict[str, Any] = {"label": Label("returned"), **more}
    return Pipeline("orders", event=Order, id="order_id", time="placed_at", features=features, **declared)


def random_orders(source: random.Random, n: int, first: int = 0) -> list[dict[str, Any]]:
    """Orders in the order of arrival: some late (some too late), some tied in time, some without keys or amounts."""
    events = []
    now = START
    for number in range(first, first + n):
        now += timedelta(seconds=source.choice([0, 0, 1, 30, 400, 4_000]))
        late = timedelta(seconds=source.choice([0, 0, 0, 0, 5, 600, 20_000, 700_000]))
        order: dict[str, Any] = {
            "order_id": f"o{number}",
            "placed_at": (now - late).isoformat(),
            "customer": source.choice(["ann", "ben", "cleo|x", "zoë", "", None]),
            "shop": source.choice([1, 2, 3]),
            "amount": source.choice([None, 0, 7.25, round(source.uniform(0, 900), 2)]),
            "country": source.choice(["DE", "FR", "AT", "CH", "ES", "PT", None]),
            "street": source.choice(["Main|St", "Main\\", None]),
            "city": source.choice(["Ulm", "Bonn", None]),
            "express": source.random() < 0.5,
        }
        if source.random() < 0.1:
            del order["country"]
        events.append(order)
    return events


def random_features(source: random.Random) -> list[Any]:
    """A few features of every kind, with windows of any width."""
    widths = ["1m", "90s", "7m", "15m", "1h", "5h", "12h", "30h", "3d", "9d", "12d", "90d"]

    def width() -> str:
        return source.choice(widths)

    found: list[Any] = []
    for number, entity in enumerate(source.sample([customer, shop, place], source.randint(1, 3))):

        def named(what: str, number: int = number) -> str:
            return f"{what}{number}"

        pool = [
            lambda e=entity, f=named: e.count(width(), where="amount > 100", name=f("large")),
            lambda e=entity, f=named: e.count(width(), name=f("all")),
            lambda e=entity, f=named: e.sum("amount * 2", width(), name=f("twice")),
            lambda e=entity, f=named: e.mean("amount", width(), name=f("mean")),
            lambda e=entity, f=named: e.std("amount", width(), name=f("std"), default=-1.0),
            lambda e=entity, f=named: e.min("amount", width(), name=f("least")),
            lambda e=entity, f=named: e.max("amount", width(), where="not express", name=f("most")),
            lambda e=entity, f=named: e.distinct("country", width(), exact_to=4, name=f("countries")),
            lambda e=entity, f=named: e.distinct("amount", width(), exact_to=4, name=f("amounts")),
            lambda e=entity, f=named: e.last("amount", within=width(), name=f("last")),
            lambda e=entity, f=named: e.since_last(within=width(), name=f("since")),
            lambda e=entity, f=named: e.ewm("amount", half_life=width(), name=f("ewm")),
        ]
        found += [make() for make in source.sample(pool, source.randint(1, len(pool)))]
    plain = ["amount", "express", categorical("country"), hour_of_day("Asia/Kathmandu"), day_of_week()]
    found += source.sample(plain, source.randint(0, len(plain)))
    source.shuffle(found)
    return found
