"""The payments as a producer sends them: events, labels and actions as JSON, with everything that goes wrong on the way.

Records come lazily, in the order of their arrival; memory is that of the columns, some 60 bytes a payment.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from examples.payments.feed import actions_of, labels_of
from examples.payments.frauds import simulated_payments
from examples.payments.simulation import Draws, Ints, Payments, generator
from examples.payments.switches import Switches

MINUTE_US = 60_000_000

# What is sent a second time comes within the hour.
COPY_WITHIN_US = 60 * MINUTE_US

# Rows that are turned into JSON at a time: fast, and small beside the columns.
SLICE = 20_000

EVENTS, LABELS, ACTIONS = "events", "labels", "actions"


class Record(NamedTuple):
    """A record of a topic: when it arrives (microseconds since 1970), its key and its value."""

    at_us: int
    key: bytes
    value: bytes


# Each is refused for another reason: no JSON, nothing, no id, no time, a text as amount, a negative amount, a time
# far ahead.
BAD_EVENTS: tuple[bytes, ...] = (
    b'{"payment_id":"x%09d","at":"%s","customer":',
    b"",
    b'{"at":"%s","customer":"c00001","terminal":"t00001","amount":1.0}',
    b'{"payment_id":"x%09d","customer":"c00001","terminal":"t00001","amount":1.0}',
    b'{"payment_id":"x%09d","at":"%s","customer":"c00001","terminal":"t00001","amount":"1.0"}',
    b'{"payment_id":"x%09d","at":"%s","customer":"c00001","terminal":"t00001","amount":-1.0}',
    b'{"payment_id":"x%09d","at":"2150-01-01T00:00:00Z","customer":"c00001","terminal":"t00001","amount":1.0}',
)

# No JSON, nothing, no id, a word as label, a label that is none of two, known in a far future; the last one is well
# written, of a payment that never was: it becomes the outcome `unknown`.
BAD_LABELS: tuple[bytes, ...] = (
    b'{"event_id":"x%09d","fraud":',
    b"",
    b'{"fraud":1,"known_at":"%s"}',
    b'{"event_id":"x%09d","fraud":"perhaps","known_at":"%s"}',
    b'{"event_id":"x%09d","fraud":2,"known_at":"%s"}',
    b'{"event_id":"x%09d","fraud":1,"known_at":"2150-01-01T00:00:00Z"}',
    b'{"event_id":"x%09d","fraud":1,"known_at":"%s"}',
)


def payment_id(number: int) -> str:
    """The event id of a payment.

    Example:
        >>> payment_id(41)
        'p000000041'
    """
    return f"p{number:09d}"


def feed(switches: Switches, made: Payments | None = None) -> Iterator[tuple[str, Record]]:
    """All records of the three topics in one order of arrival, as (topic, record); at one moment events come first.

    `made`: the payments of these switches, if they are at hand.

    Example:
        >>> small = Switches(days=10, customers=10, terminals=20)
        >>> firsts = dict(reversed([(topic, record.value.decode()) for topic, record in feed(small)]))
        >>> print(firsts["events"])
        {"payment_id":"p000000000","at":"2024-04-01T06:02:24.351Z","customer":"c00006","terminal":"t00004","amount":99.70}
        >>> print(firsts["labels"])
        {"event_id":"p000000000","fraud":0,"known_at":"2024-04-08T06:02:24.351Z"}
    """
    made = simulated_payments(switches) if made is None else made
    # heapq.merge keeps the order of the streams where the moments are equal.
    return heapq.merge(
        _of(EVENTS, event_records(made, switches)),
        _of(LABELS, label_records(made, switches)),
        _of(ACTIONS, action_records(made, switches)),
        key=lambda pair: pair[1].at_us,
    )


def event_records(made: Payments, switches: Switches) -> Iterator[Record]:
    """The events, keyed by customer: one a payment, and the duplicates, late and poison ones of the switches."""
    draw = generator(switches, Draws.EVENT_ORDER)
    count = len(made)
    behind = draw.uniform(0, switches.latest_minutes * MINUTE_US, count).astype(np.int64)
    arrives_us = made.times_us + np.where(draw.random(count) < switches.late, behind, 0)
    again = np.flatnonzero(draw.random(count) < switches.duplicates)
    copies_us = arrives_us[again] + draw.integers(1, COPY_WITHIN_US, len(again))
    rows, at_us = _ordered(np.arange(count), arrives_us, again, copies_us)

    def slice_of(rows: Ints, at_us: Ints) -> Iterator[Record]:
        part = made.taken(rows)
        columns = (part.numbers, _texts(part.times_us), part.customers, part.terminals, part.amounts)
        for at, number, text, customer, terminal, amount in zip(
            at_us.tolist(), *(column.tolist() for column in columns), strict=True
        ):
            key = b"c%05d" % customer
            value = b'{"payment_id":"p%09d","at":"%s","customer":"%s","terminal":"t%05d","amount":%.2f}' % (
                number, text, key, terminal, amount,
            )  # fmt: skip
            yield Record(at, key, value)

    good = _sliced(slice_of, rows, at_us)
    bad = _poison(BAD_EVENTS, Draws.EVENT_POISON, arrives_us, switches)
    return heapq.merge(good, bad, key=lambda record: record.at_us)


def label_records(made: Payments, switches: Switches) -> Iterator[Record]:
    """The labels, keyed by event id, with the duplicates and the unusable ones of the switches."""
    labels = labels_of(made, switches)
    draw = generator(switches, Draws.LABEL_COPIES)
    again = np.flatnonzero(draw.random(len(labels)) < switches.duplicates)
    copies_us = labels.arrives_us[again] + draw.integers(1, COPY_WITHIN_US, len(again))
    rows, at_us = _ordered(np.arange(len(labels)), labels.arrives_us, again, copies_us)

    def slice_of(rows: Ints, at_us: Ints) -> Iterator[Record]:
        numbers, codes = made.numbers[labels.payments[rows]], labels.codes[rows]
        columns = (numbers, codes, _texts(labels.known_us[rows]))
        for at, number, code, text in zip(
            at_us.tolist(), *(column.tolist() for column in columns), strict=True
        ):
            key = b"p%09d" % number
            yield Record(at, key, b'{"event_id":"%s","fraud":%d,"known_at":"%s"}' % (key, code, text))

    good = _sliced(slice_of, rows, at_us)
    bad = _poison(BAD_LABELS, Draws.LABEL_POISON, labels.arrives_us, switches)
    return heapq.merge(good, bad, key=lambda record: record.at_us)


def action_records(made: Payments, switches: Switches) -> Iterator[Record]:
    """The actions, keyed by event id."""
    actions = actions_of(made, switches)
    columns = (actions.times_us, made.numbers[actions.payments], actions.reviewed, _texts(actions.times_us))
    for at, number, reviewed, text in zip(*(column.tolist() for column in columns), strict=True):
        key = b"p%09d" % number
        what = b"reviewed" if reviewed else b"blocked"
        yield Record(at, key, b'{"event_id":"%s","action":"%s","at":"%s"}' % (key, what, text))


def _of(topic: str, records: Iterator[Record]) -> Iterator[tuple[str, Record]]:
    for record in records:
        yield topic, record


def _ordered(rows: Ints, at_us: Ints, copies: Ints, copies_us: Ints) -> tuple[Ints, Ints]:
    rows, at_us = np.concatenate([rows, copies]), np.concatenate([at_us, copies_us])
    order = np.argsort(at_us, kind="stable")
    return rows[order], at_us[order]


def _sliced(slice_of: Callable[[Ints, Ints], Iterator[Record]], rows: Ints, at_us: Ints) -> Iterator[Record]:
    for first in range(0, len(rows), SLICE):
        yield from slice_of(rows[first : first + SLICE], at_us[first : first + SLICE])


def _poison(forms: tuple[bytes, ...], part: Draws, times_us: Ints, switches: Switches) -> Iterator[Record]:
    """`poison` bad records for each good one, at the moments of some of them, the forms in turn."""
    draw = generator(switches, part)
    count = round(switches.poison * len(times_us))
    at_us = np.sort(draw.choice(times_us, count)) if count else np.zeros(0, np.int64)
    for number, (at, text) in enumerate(zip(at_us.tolist(), _texts(at_us).tolist(), strict=True)):
        yield Record(at, b"x%09d" % number, _filled(forms[number % len(forms)], number, text))


def _filled(form: bytes, number: int, text: bytes) -> bytes:
    return form.replace(b"%09d", b"%09d" % number).replace(b"%s", text)


def _texts(times_us: Ints) -> npt.NDArray[np.bytes_]:
    """RFC 3339 with milliseconds, UTC, as bytes."""
    texts = np.datetime_as_string(times_us.astype("datetime64[us]"), unit="ms", timezone="UTC")
    return texts.astype("S")
