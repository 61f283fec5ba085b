"""What becomes known of the payments, and when: labels, corrections, and the actions that prevent labels.

payment ────────── 7 days ──────────> known at the bank ── line up? ──> arrives at us
   │ blocked by the bank's own rule: an action, and no label
   └─ reviewed by an investigator: its label a day later all the same
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.payments.simulation import DAY_US, Draws, Flags, Floats, Ints, Payments, generator, moment_us
from examples.payments.switches import Switches

# A control at the till answers before the customer has put the card away.
BLOCKED_AFTER_US = 1_000_000

# An investigator's day.
REVIEWED_AFTER_US = DAY_US

# A wrong label is put right so much later: within the day that the pipeline's horizon leaves after the usual delay.
CORRECTED_AFTER_US = DAY_US // 2

# After an outage the line catches up so many times as fast as life.
CATCH_UP = 100


@dataclass(frozen=True)
class LabelFeed:
    """m labels in the order of (arrival, payment, time known).

    `payments` int64[m]: the row of the payment; `codes` int64[m]: 1 fraud, 0 not, as said, not as true; `known_us`
    int64[m]: when the bank knew; `arrives_us` int64[m]: when it reaches us, later only for an outage.
    """

    payments: Ints
    codes: Ints
    known_us: Ints
    arrives_us: Ints

    def __len__(self) -> int:
        return len(self.payments)


@dataclass(frozen=True)
class ActionFeed:
    """k actions in the order of their times: `payments` int64[k], `reviewed` bool[k] (else blocked), `times_us` int64[k]."""

    payments: Ints
    reviewed: Flags
    times_us: Ints

    def __len__(self) -> int:
        return len(self.payments)


def blocked(made: Payments, switches: Switches) -> tuple[Flags, Flags]:
    """(bool[n]: blocked, bool[n]: and reviewed). As many genuine payments are blocked as frauds, on average."""
    draw = generator(switches, Draws.BLOCKED)
    fraud, chance = made.fraud, draw.random(len(made))
    genuine_share = switches.blocked * fraud.sum() / max((~fraud).sum(), 1)
    stopped: Flags = chance < np.where(fraud, switches.blocked, genuine_share)
    reviewed: Flags = stopped & (draw.random(len(made)) < switches.reviewed)
    return stopped, reviewed


def actions_of(made: Payments, switches: Switches) -> ActionFeed:
    """One action for each blocked payment, and another one when it has been reviewed."""
    stopped, reviewed = blocked(made, switches)
    rows = np.concatenate([np.flatnonzero(stopped), np.flatnonzero(reviewed)])
    kinds = np.repeat([False, True], [stopped.sum(), reviewed.sum()])
    times_us = made.times_us[rows] + np.where(kinds, REVIEWED_AFTER_US, BLOCKED_AFTER_US)
    order = np.lexsort((rows, times_us))
    return ActionFeed(rows[order], kinds[order], times_us[order])


def labels_of(made: Payments, switches: Switches) -> LabelFeed:
    """All labels that ever come, also those that come after the last payment.

    Example:
        >>> from examples.payments.frauds import simulated_payments
        >>> small = Switches(days=30, customers=100, terminals=200, label_delay=7, label_outage=(10, 17))
        >>> made = simulated_payments(small)
        >>> feed = labels_of(made, small)
        >>> len(made), len(feed), int((feed.arrives_us > feed.known_us).sum())
        (5738, 5738, 1314)
    """
    rows, codes, known_us = _first_labels(made, switches)
    codes = _flipped(codes, known_us, made.numbers[rows], switches)
    put_right = _corrected(made.numbers[rows], switches)
    rows = np.concatenate([rows, rows[put_right]])
    first = np.where(put_right, 1 - codes, codes)
    said = np.concatenate([first, codes[put_right]])
    known_us = np.concatenate([known_us, known_us[put_right] + CORRECTED_AFTER_US])
    arrives_us = _arrivals(known_us, switches)
    order = np.lexsort((known_us, rows, arrives_us))
    return LabelFeed(rows[order], said[order], known_us[order], arrives_us[order])


def _first_labels(made: Payments, switches: Switches) -> tuple[Ints, Ints, Ints]:
    """(rows, codes, times known) of the first true label of each payment that gets one."""
    stopped, reviewed = blocked(made, switches)
    spoken = _by_number(made.numbers, Draws.LABELS, switches) < switches.genuine_reported
    rows = np.flatnonzero(np.where(stopped, reviewed, made.fraud | spoken))
    delay_us = np.where(reviewed[rows], REVIEWED_AFTER_US, round(switches.label_delay * DAY_US))
    return rows, made.fraud[rows].astype(np.int64), made.times_us[rows] + delay_us


def _flipped(codes: Ints, known_us: Ints, numbers: Ints, switches: Switches) -> Ints:
    if switches.labels_flipped is None:
        return codes
    begin, end = (moment_us(switches, days) for days in switches.labels_flipped)
    wrong = (known_us >= begin) & (known_us < end)
    wrong &= _by_number(numbers, Draws.FLIPPED, switches) < switches.flipped
    return np.where(wrong, 1 - codes, codes)


def _corrected(numbers: Ints, switches: Switches) -> Flags:
    flags: Flags = _by_number(numbers, Draws.CORRECTED, switches) < switches.corrected
    return flags


def _arrivals(known_us: Ints, switches: Switches) -> Ints:
    if switches.label_outage is None:
        return known_us
    begin, end = (moment_us(switches, days) for days in switches.label_outage)
    held = (known_us >= begin) & (known_us < end)
    return np.where(held, end + (known_us - begin) // CATCH_UP, known_us)


def _by_number(numbers: Ints, part: Draws, switches: Switches) -> Floats:
    """float64[n]: a chance for each payment that depends on its number only, so that others do not move it."""
    return generator(switches, part).random(int(numbers.max(initial=-1)) + 1)[numbers]
