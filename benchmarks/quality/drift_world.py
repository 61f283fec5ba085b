"""Worlds of card payments for the drift watch: calm ones, and ones in which something changes at a known moment.

The payments and their frauds are those of `examples/payments`; what a drift watch needs is added: the channel of a payment, the
gateway that sent it (`producer`), and how far from home the customer is. The features have no windows over labels, so that
those of a batch (`offline/backfill.py`) are those of the stream to the last bit.

    0 ────────── CUT ───────────── onset ───────── end     days
      reference,     watched, calm       changed
      model
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from math import isnan
from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Meta

from driftwood import (
    Drift,
    Entity,
    Label,
    LightGBM,
    Pipeline,
    Threshold,
    categorical,
    expression,
    hour_of_day,
    scaled_logistic,
)
from examples.payments.frauds import simulated_payments
from examples.payments.records import payment_id
from examples.payments.simulation import DAY_US, cents, moment_us
from examples.payments.switches import Switches
from features.elements import Element
from features.plan import Floats, Ints
from features.rows import Rows

Flags = npt.NDArray[np.bool_]

CUT: Final = 42
"""Days of the reference, on the first half of which the model is fitted."""

LABEL_DELAY: Final = 2.0
"""Days."""

GATEWAYS: Final = ("north", "south", "west", "east")
GATEWAY_SHARES: Final = (0.4, 0.3, 0.2, 0.1)
CHANNELS: Final = ("chip", "online", "contactless", "phone", "stripe")
CHANNEL_SHARES: Final = (0.45, 0.25, 0.2, 0.07, 0.03)
HIT: Final = "west"
"""The gateway of a drift that hits one."""

MISSING_DISTANCE: Final = 0.02
RAMP_DAYS: Final = 5.0
"""A gradual drift is whole after so many days; until then it hits a growing share of the payments."""


class Payment(msgspec.Struct):
    """One payment, as the terminal asks whether to let it through."""

    payment_id: str
    at: datetime
    customer: str
    terminal: str
    amount: Annotated[float, Meta(ge=0, le=100_000)]
    channel: str
    producer: str
    distance_km: float | None = None


customer, terminal = Entity("customer"), Entity("terminal")


def pipeline(time_slice: str = "1h") -> Pipeline:
    """Watched with a budget of one false alarm a month, by gateway."""
    return _watched((), time_slice)


def wide_pipeline() -> Pipeline:
    """The same with 30 features."""
    return _watched(
        [
            customer.count("3d", "5d"),
            customer.mean("amount", "3d", "5d"),
            customer.min("amount", "3d", "5d"),
            terminal.count("3d", "5d"),
            terminal.mean("amount", "3d", "5d"),
            terminal.max("amount", "3d", "5d"),
        ],
        "1h",
    )


def _watched(more: Sequence[Element], time_slice: str) -> Pipeline:
    return Pipeline(
        "watched_payments",
        event=Payment,
        id="payment_id",
        time="at",
        earliest="2024-01-01",
        label=Label("fraud", horizon="3d"),
        decide=Threshold(0.1),
        features=[
            "amount",
            "distance_km",
            categorical("channel"),
            categorical("producer"),
            hour_of_day("UTC"),
            customer.count("1d", "7d"),
            customer.mean("amount", "1d", "7d"),
            customer.std("amount", "7d"),
            customer.max("amount", "7d"),
            customer.since_last(within="7d"),
            terminal.count("1d", "7d"),
            terminal.mean("amount", "7d"),
            expression("amount_to_usual", "amount / customer_amount_mean_7d"),
            expression("amount_log", "log(amount + 1)"),
            expression("burst", "customer_count_1d / (customer_count_7d + 1)"),
            *more,
        ],
        batch=LightGBM(rounds=60, num_leaves=15, min_data_in_leaf=50),
        # So that it has a learn road, and hop-join; the champion alone answers here.
        online=[scaled_logistic()],
        fallback="min(amount / 400, 1)",
        drift=Drift(1.0, time_slice=time_slice, segments=["producer"]),
    )


class Draws(IntEnum):
    """Parts that draw from a generator of their own."""

    FIELDS = 101
    DRIFT = 102


@dataclass(frozen=True)
class Onset:
    """When something changes, in days since the start; `gradual`: over `RAMP_DAYS`."""

    day: float
    gradual: bool = False


@dataclass(frozen=True)
class World:
    """n payments in the order of their times, and the labels that will be told of them."""

    times_us: Ints
    ids: list[str]
    customers: Ints
    terminals: Ints
    amounts: Floats
    channels: Ints
    producers: Ints
    distances: Floats
    fraud: Flags

    def __len__(self) -> int:
        return len(self.times_us)

    @property
    def known_us(self) -> Ints:
        """When each label becomes known."""
        return self.times_us + round(LABEL_DELAY * DAY_US)

    def rows(self, made: Pipeline, first: int, end: int) -> Rows:
        """The payments `first` to `end`, decoded."""
        layout, part = made.feature_set.layout, slice(first, end)
        numbers = {"amount": self.amounts, "distance_km": self.distances}
        texts: dict[str, list[str]] = {
            "customer": [f"c{number:05d}" for number in self.customers[part].tolist()],
            "terminal": [f"t{number:05d}" for number in self.terminals[part].tolist()],
            "channel": np.array(CHANNELS)[self.channels[part]].tolist(),
            "producer": np.array(GATEWAYS)[self.producers[part]].tolist(),
        }
        return Rows(
            layout,
            pa.array(self.ids[part], pa.string()),
            self.times_us[part],
            np.column_stack([numbers[name][part] for name in layout.numbers]),
            tuple(pa.array(texts[name], pa.string()) for name in layout.texts),
        )

    def events(self) -> Iterator[bytes]:
        """As a producer sends them."""
        columns = (
            self.ids,
            np.datetime_as_string(self.times_us.astype("datetime64[us]"), timezone="UTC").tolist(),
            [f"c{number:05d}" for number in self.customers.tolist()],
            [f"t{number:05d}" for number in self.terminals.tolist()],
            self.amounts.tolist(),
            np.array(CHANNELS)[self.channels].tolist(),
            np.array(GATEWAYS)[self.producers].tolist(),
            [None if isnan(distance) else distance for distance in self.distances.tolist()],
        )
        names = [one.name for one in msgspec.structs.fields(Payment)]
        for values in zip(*columns, strict=True):
            yield msgspec.json.encode(dict(zip(names, values, strict=True)))


def start_us(seed: int) -> int:
    """The first moment of a world."""
    return moment_us(Switches(seed=seed), 0.0)


def calm(seed: int, days: int, customers: int) -> World:
    """A world in which nothing changes but by chance."""
    switches = Switches(seed=seed, days=days, customers=customers, terminals=2 * customers)
    made = simulated_payments(switches)
    draw = np.random.default_rng([seed, Draws.FIELDS])
    count = len(made)
    # A terminal always goes through the same gateway, and a customer has a usual distance from home.
    gateways = draw.choice(len(GATEWAYS), switches.terminals, p=GATEWAY_SHARES)
    usual_km = draw.lognormal(1.5, 0.6, customers)
    distances = usual_km[made.customers] * draw.lognormal(0.0, 0.5, count)
    distances[draw.random(count) < MISSING_DISTANCE] = np.nan
    return World(
        made.times_us,
        [payment_id(number) for number in made.numbers.tolist()],
        made.customers,
        made.terminals,
        made.amounts,
        draw.choice(len(CHANNELS), count, p=CHANNEL_SHARES),
        gateways[made.terminals],
        distances,
        made.fraud,
    )


# ---- what changes


def _amounts(world: World, hit: Flags, draw: np.random.Generator) -> World:
    return replace(world, amounts=np.where(hit, cents(world.amounts * 1.3), world.amounts))


def _one_segment(world: World, hit: Flags, draw: np.random.Generator) -> World:
    return _amounts(world, hit & _of_gateway(world), draw)


def _field_missing(world: World, hit: Flags, draw: np.random.Generator) -> World:
    return replace(world, distances=np.where(hit & _of_gateway(world), np.nan, world.distances))


def _category_swap(world: World, hit: Flags, draw: np.random.Generator) -> World:
    swapped = np.array([1, 0, *range(2, len(CHANNELS))])
    return replace(world, channels=np.where(hit, swapped[world.channels], world.channels))


def _new_fraud(world: World, hit: Flags, draw: np.random.Generator) -> World:
    """Payments of an ordinary kind become fraud: nothing that comes in looks other than before."""
    kind = (world.channels == CHANNELS.index("online")) & (world.amounts < 40)
    return replace(world, fraud=world.fraud | (hit & kind & (draw.random(len(world)) < 0.2)))


def _label_flip(world: World, hit: Flags, draw: np.random.Generator) -> World:
    return replace(world, fraud=world.fraud ^ (hit & (draw.random(len(world)) < 0.1)))


def _of_gateway(world: World) -> Flags:
    flags: Flags = world.producers == GATEWAYS.index(HIT)
    return flags


@dataclass(frozen=True)
class Kind:
    """Something that changes. `inputs`: what comes in changes; else only what labels say."""

    change: Callable[[World, Flags, np.random.Generator], World] = field(repr=False)
    inputs: bool = True


KINDS: Final[Mapping[str, Kind]] = {
    "amounts x 1.3": Kind(_amounts),
    "field missing at one producer": Kind(_field_missing),
    "category swap": Kind(_category_swap),
    "amounts x 1.3 in one segment": Kind(_one_segment),
    "new fraud pattern": Kind(_new_fraud, inputs=False),
    "labels flipped 10 %": Kind(_label_flip, inputs=False),
}


def drifted(world: World, seed: int, kind: str, onset: Onset) -> World:
    """The same world with a change from its onset on; before it, nothing differs."""
    draw = np.random.default_rng([seed, Draws.DRIFT])
    began_us = start_us(seed) + round(onset.day * DAY_US)
    days = (world.times_us - began_us) / DAY_US
    share = np.clip(days / RAMP_DAYS, 0, 1) if onset.gradual else 1.0
    hit: Flags = (days >= 0) & (draw.random(len(world)) < share)
    return KINDS[kind].change(world, hit, draw)
