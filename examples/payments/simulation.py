"""Card payments and their truth, drawn from nothing but a seed, in the manner of the Fraud Detection Handbook.

    customers ── each lives somewhere, has a usual amount and a usual number of payments a day
        │ pay at
    terminals ── each stands somewhere; a customer goes to the nearest ones
        │
    payments  ── number by Poisson, hour by a bell over the day, amount by the customer's habit
        │
    frauds    ── `frauds.py` turns some of them into fraud, and knows which scenario did it

After Le Borgne, Siblini, Lebichot, Bontempi (2022), Reproducible Machine Learning for Credit Card Fraud Detection,
chapter 3: the ranges of the customers' habits and the ideas of the first three scenarios are theirs, the rest is not.

Every part draws from a generator of its own, so that turning one switch leaves all other draws as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import KDTree

from examples.payments.switches import Switches

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

DAY_US = 86_400_000_000

# A customer pays at the nearest terminals only. The handbook takes those within a radius, which are as many on average.
NEAR_TERMINALS = 75

# Ranges of the customers' habits: EUR, payments a day, and the deviation of an amount as a share of the usual one.
USUAL_AMOUNTS = (5.0, 100.0)
PAYMENTS_A_DAY = (0.0, 3.85)
AMOUNT_DEVIATION = 0.5

# Nobody pays more than this by card without asking the bank first. EUR; three usual deviations above the highest usual.
LIMIT = 220.0

# Most payments are made around 13:00, two thirds within 4.5 hours of it. What falls out of the day falls into its
# other end.
BUSIEST_HOUR, HOUR_DEVIATION = 13.0, 4.5


class Draws(IntEnum):
    """The parts that draw from a generator of their own. A new one gets a new number: the others' must not change."""

    PEOPLE = 1
    PAYMENTS = 2
    FRAUDS = 3
    WAVES = 4
    NEW_FRAUD = 5
    BLOCKED = 6
    LABELS = 7
    CORRECTED = 8
    FLIPPED = 9
    EVENT_ORDER = 10
    EVENT_POISON = 11
    LABEL_COPIES = 12
    LABEL_POISON = 13


class Scenario(IntEnum):
    """What is behind a payment. All but GENUINE are fraud; `frauds.py` says what each does."""

    GENUINE = 0
    LARGE_AMOUNT = 1
    BAD_TERMINAL = 2
    STOLEN_CARD = 3
    CARD_TEST = 4


@dataclass(frozen=True)
class Payments:
    """n payments in the order of (event time, number).

    `numbers` int64[n] name them for ever: a payment keeps its number when a switch adds others. `times_us` int64[n];
    `customers`, `terminals` int64[n]; `amounts` float64[n] in EUR, whole cents; `scenarios` int8[n], see `Scenario`.
    """

    numbers: Ints
    times_us: Ints
    customers: Ints
    terminals: Ints
    amounts: Floats
    scenarios: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def fraud(self) -> Flags:
        """bool[n]: the truth, whatever the labels say."""
        flags: Flags = self.scenarios != Scenario.GENUINE
        return flags

    def taken(self, rows: Ints | Flags) -> Payments:
        """These rows of it."""
        return Payments(*(column[rows] for column in vars(self).values()))


def generator(switches: Switches, part: Draws) -> np.random.Generator:
    """The generator of one part."""
    return np.random.default_rng([switches.seed, part])


def start_us(switches: Switches) -> int:
    """The first moment of the simulation, in microseconds since 1970."""
    day = datetime.fromisoformat(switches.start).replace(tzinfo=UTC)
    return int(day.timestamp()) * 1_000_000


def moment_us(switches: Switches, days: float) -> int:
    """So many days after the start.

    Example:
        >>> moment_us(Switches(), 1.5) - moment_us(Switches(), 0.0)
        129600000000
    """
    return start_us(switches) + round(days * DAY_US)


def genuine_payments(switches: Switches) -> Payments:
    """The payments of a world without fraud, numbered in the order of their times."""
    usual, rates, near = _people(switches)
    draw = generator(switches, Draws.PAYMENTS)
    counts = draw.poisson(rates[:, None], (switches.customers, switches.days)).ravel()
    place = np.repeat(np.arange(counts.size, dtype=np.int64), counts)
    customers, days = np.divmod(place, switches.days)
    hours = draw.normal(BUSIEST_HOUR, HOUR_DEVIATION, len(place)) % 24.0
    times_us = start_us(switches) + days * DAY_US + (hours * 3_600_000).astype(np.int64) * 1_000
    terminals = near[customers, draw.integers(0, near.shape[1], len(place))]
    amounts = _amounts(draw, usual[customers])
    order = np.argsort(times_us, kind="stable")
    return Payments(
        np.arange(len(place), dtype=np.int64),
        times_us[order],
        customers[order],
        terminals[order],
        amounts[order],
        np.full(len(place), Scenario.GENUINE, np.int8),
    )


def _people(switches: Switches) -> tuple[Floats, Floats, Ints]:
    """(usual amounts [customers], payments a day [customers], terminals near each customer [customers, near])."""
    draw = generator(switches, Draws.PEOPLE)
    homes = draw.random((switches.customers, 2))
    terminals = draw.random((switches.terminals, 2))
    usual = draw.uniform(*USUAL_AMOUNTS, switches.customers)
    rates = draw.uniform(*PAYMENTS_A_DAY, switches.customers)
    count = min(NEAR_TERMINALS, switches.terminals)
    near = KDTree(terminals).query(homes, k=count, return_distance=False).astype(np.int64)
    return usual, rates, near


def _amounts(draw: np.random.Generator, usual: Floats) -> Floats:
    """Whole cents around each usual amount; what would be negative, or above the limit, is drawn again, evenly."""
    amounts = draw.normal(usual, AMOUNT_DEVIATION * usual)
    again = draw.uniform(0.0, 2.0 * usual)
    amounts = np.where((amounts <= 0) | (amounts >= LIMIT), again, amounts)
    return cents(amounts)


def cents(amounts: Floats) -> Floats:
    """Rounded to whole cents, at least one."""
    return np.maximum(np.round(amounts, 2), 0.01)
