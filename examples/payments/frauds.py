"""Four ways of fraud, and what changes over time. Each leaves another trace, and needs other features to be seen.

| scenario | what happens | what shows it |
|---|---|---|
| LARGE_AMOUNT | somebody pays more than the limit | the amount alone |
| BAD_TERMINAL | a terminal is compromised: for 28 days all payments there are fraud | the terminal's fraud rate |
| STOLEN_CARD | a card's data are stolen: for 14 days a third of its payments are, at five times the amount | the amount
beside the customer's usual one |
| CARD_TEST | only with `new_fraud_from`: a card is tried with eight small payments in one night hour, anywhere | hour,
count and amount of the customer's last day |

The third and second need the past of the customer and of the terminal, and the second also yesterday's labels.
"""

from __future__ import annotations

import numpy as np

from examples.payments.simulation import (
    DAY_US,
    LIMIT,
    Draws,
    Flags,
    Floats,
    Payments,
    Scenario,
    cents,
    generator,
    genuine_payments,
    moment_us,
    start_us,
)
from examples.payments.switches import Switches

# How often each happens, chosen so that 0.8 % of all payments are fraud, in about the handbook's proportions.
LARGE_AMOUNT_SHARE = 0.0006  # of payments
BAD_TERMINAL_A_DAY = 0.00015  # of terminals
STOLEN_CARD_A_DAY = 0.0006  # of customers
CARD_TESTS_A_DAY = 0.0025  # of customers

BAD_TERMINAL_DAYS = 28
STOLEN_CARD_DAYS = 14
STOLEN_CARD_SHARE, STOLEN_CARD_TIMES = 1 / 3, 5.0

LARGEST = 2 * LIMIT

# A card test: so many payments, in EUR between these, within an hour that begins between these hours, UTC.
TEST_PAYMENTS = 8
TEST_AMOUNTS = (0.5, 5.0)
TEST_HOURS = (1.0, 4.0)


def simulated_payments(switches: Switches) -> Payments:
    """All payments of this world, with their truth; about a second for the default size.

    Example:
        >>> made = simulated_payments(Switches(days=60, customers=400, terminals=800))
        >>> len(made), round(float(made.fraud.mean()), 3)
        (47428, 0.011)
    """
    made = _with_frauds(genuine_payments(switches), switches)
    made = _with_card_tests(made, switches)
    if switches.amounts_moved_from is None:
        return made
    moved = made.times_us >= moment_us(switches, switches.amounts_moved_from)
    made.amounts[moved] = cents(made.amounts[moved] * switches.amounts_moved_by)
    return made


def bad_terminals(switches: Switches) -> Flags:
    """bool[terminals, days]: compromised on that day."""
    draw = generator(switches, Draws.FRAUDS)
    bad = _spells(draw, switches.terminals, switches.days, BAD_TERMINAL_A_DAY, BAD_TERMINAL_DAYS)
    draw = generator(switches, Draws.WAVES)
    for begin in switches.terminal_waves:
        hit = draw.random(switches.terminals) < switches.wave_share
        day = int(begin)
        bad[hit, day : day + BAD_TERMINAL_DAYS] = True
    return bad


def _with_frauds(payments: Payments, switches: Switches) -> Payments:
    """The first three scenarios, in this order; a payment is fraud for one reason."""
    bad = bad_terminals(switches)
    draw = np.random.default_rng(
        [switches.seed, Draws.FRAUDS, 1]
    )  # after the terminals' draws, whatever their number
    count = len(payments)
    days = (payments.times_us - start_us(switches)) // DAY_US
    large = draw.random(count) < LARGE_AMOUNT_SHARE
    beyond = draw.uniform(LIMIT, LARGEST, count)
    stolen = _spells(draw, switches.customers, switches.days, STOLEN_CARD_A_DAY, STOLEN_CARD_DAYS)
    used = stolen[payments.customers, days] & (draw.random(count) < STOLEN_CARD_SHARE)
    at_bad = bad[payments.terminals, days]
    scenarios = np.select(
        [large, at_bad, used],
        [Scenario.LARGE_AMOUNT, Scenario.BAD_TERMINAL, Scenario.STOLEN_CARD],
        Scenario.GENUINE,
    ).astype(np.int8)
    amounts = np.where(large, beyond, payments.amounts)
    amounts = np.where(scenarios == Scenario.STOLEN_CARD, STOLEN_CARD_TIMES * amounts, amounts)
    return Payments(
        payments.numbers, payments.times_us, payments.customers, payments.terminals, cents(amounts), scenarios
    )


def _spells(draw: np.random.Generator, members: int, days: int, a_day: float, length: int) -> Flags:
    """bool[members, days]: within `length` days of a day on which bad luck struck, with the chance `a_day`.

    Draws begin `length` days early, so that the first day is like any other.
    """
    struck = draw.random((members, length + days)) < a_day
    so_far = np.cumsum(struck, axis=1)
    flags: Flags = np.greater(so_far[:, length:], so_far[:, :-length])
    return flags


def _with_card_tests(payments: Payments, switches: Switches) -> Payments:
    if switches.new_fraud_from is None:
        return payments
    draw = generator(switches, Draws.NEW_FRAUD)
    tested = draw.random((switches.customers, switches.days)) < CARD_TESTS_A_DAY
    customers, days = (index.astype(np.int64) for index in np.nonzero(tested))
    began = draw.uniform(*TEST_HOURS, len(customers))
    hours: Floats = np.repeat(began, TEST_PAYMENTS) + draw.random(len(customers) * TEST_PAYMENTS)
    days = np.repeat(days, TEST_PAYMENTS)
    times_us = start_us(switches) + days * DAY_US + (hours * 3_600_000).astype(np.int64) * 1_000
    count = len(times_us)
    tests = Payments(
        len(payments) + np.arange(count, dtype=np.int64),
        times_us,
        np.repeat(customers, TEST_PAYMENTS),
        draw.integers(0, switches.terminals, count),
        cents(draw.uniform(*TEST_AMOUNTS, count)),
        np.full(count, Scenario.CARD_TEST, np.int8),
    )
    tests = tests.taken(tests.times_us >= moment_us(switches, switches.new_fraud_from))
    return _in_order(payments, tests)


def _in_order(payments: Payments, more: Payments) -> Payments:
    pairs = zip(vars(payments).values(), vars(more).values(), strict=True)
    both = Payments(*(np.concatenate(pair) for pair in pairs))
    return both.taken(np.lexsort((both.numbers, both.times_us)))
