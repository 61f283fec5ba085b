"""Events, labels and actions in one order of time, and cut into slices: first the questions, then the answers.

An answer that becomes known at t helps the questions after t. So of one time events come first, here as in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Literal, NamedTuple

Feed = Literal["events", "labels", "actions"]
_ORDER: dict[Feed, int] = {"events": 0, "labels": 1, "actions": 2}


class Sent(NamedTuple):
    """One record that a producer sends, and the time at which it comes, in microseconds."""

    at_us: int
    feed: Feed
    value: bytes
    key: bytes | None = None


class Slice(NamedTuple):
    """What comes between two snapshots: first the events, then the labels and actions."""

    end_us: int
    events: list[Sent]
    answers: list[Sent]


def merged(*feeds: Iterable[Sent]) -> Iterator[Sent]:
    """One order of several, each of them in order: by time, then events, labels, actions.

    Example:
        >>> events = [Sent(5, "events", b"a"), Sent(9, "events", b"b")]
        >>> [sent.value for sent in merged([Sent(5, "labels", b"0"), Sent(8, "labels", b"1")], events)]
        [b'a', b'0', b'1', b'b']
    """
    return merge(*feeds, key=lambda sent: (sent.at_us, _ORDER[sent.feed]))


def slices(sent: Iterable[Sent], span_us: int = 0) -> Iterator[Slice]:
    """Cuts one order into slices: of `span_us` each, or with 0 wherever a question follows an answer.

    With 0 the order is kept to the record. With a span answers wait for the end of their slice, so they come late by at
    most that, never early.

    Example:
        >>> order = [Sent(1, "events", b"a"), Sent(2, "labels", b"0"), Sent(3, "events", b"b"), Sent(12, "events", b"c")]
        >>> [(len(one.events), len(one.answers)) for one in slices(order)]
        [(1, 1), (2, 0)]
        >>> [(len(one.events), len(one.answers)) for one in slices(order, span_us=10)]
        [(2, 1), (1, 0)]
    """
    events: list[Sent] = []
    answers: list[Sent] = []
    last_us = 0
    for one in sent:
        over = one.at_us // span_us != last_us // span_us if span_us else one.feed == "events" and answers
        if over and (events or answers):
            yield Slice(last_us, events, answers)
            events, answers = [], []
        (events if one.feed == "events" else answers).append(one)
        last_us = one.at_us
    if events or answers:
        yield Slice(last_us, events, answers)
