"""Alerts and what people decide about them: who is silenced, and until when; times and names as people give them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from driftwood.alerts import Decisions, folded, since_us
from features.errors import DeveloperError
from models.drift.alert import Alert
from models.drift.signals import LEVELS, Signal
from streams.control import AlertAck, AlertSilence, AlertUnsilence, ControlRecord, encoded

AT = "2024-05-01T00:00:00Z"
NOW = datetime(2024, 5, 1, 1, tzinfo=UTC)


def alert(*subjects: str, level: Any = "data", more: int = 0) -> Alert:
    signals = tuple(Signal(level, subject, "ks", 0, 0.3, 0.1, 3.0) for subject in subjects)
    levels = tuple(dict.fromkeys((level, *(one.level for one in signals))))
    return Alert(
        "a", "raised", 0, "shop", "warning", AT, AT, "", levels, signals, None, (), "drift-data", (), more
    )


def silence(hour: int = 2, **about: Any) -> AlertSilence:
    return AlertSilence(f"2024-05-01T{hour:02}:00:00Z", AT, "ann", **about)


def test_an_alert_is_silenced_while_each_of_its_signals_is_and_until_the_first_one_is_heard():
    amount, level = silence(3, subject="amount"), silence(2, level="data")
    assert Decisions(silences=[amount]).silenced(alert("amount"), NOW) == amount.until
    assert Decisions(silences=[amount]).silenced(alert("amount", "age"), NOW) is None
    assert Decisions(silences=[amount, level]).silenced(alert("amount", "age"), NOW) == level.until
    assert Decisions(silences=[silence(2, level="concept")]).silenced(alert("amount"), NOW) is None
    both = silence(2, level="concept", subject="amount")
    assert Decisions(silences=[both]).silenced(alert("amount"), NOW) is None


def test_a_silence_that_is_over_silences_nothing():
    assert Decisions(silences=[silence(1, level="data")]).silenced(alert("amount"), NOW) is None


def test_signals_that_are_not_listed_are_silenced_by_their_level_alone():
    wide = alert("amount", more=3)
    assert Decisions(silences=[silence(subject="amount")]).silenced(wide, NOW) is None
    assert Decisions(silences=[silence(level="data")]).silenced(wide, NOW) is not None


def test_decisions_add_up_in_their_order():
    records: list[ControlRecord] = [
        AlertAck("a", AT, "ann", "first"),
        silence(2, level="data"),
        silence(5, level="data"),
        AlertAck("a", AT, "ben", "second"),
        silence(2, subject="amount"),
        AlertUnsilence(AT, "ann", subject="amount"),
        AlertSilence("tomorrow", AT, "ann", level="concept"),  # written by something else
    ]
    found = folded([b"{", *(encoded(record) for record in records)])
    assert found.acks["a"].by == "ben"
    assert found.silences == [silence(5, level="data")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T00:00:00Z", "2024-05-01T00:00:00Z"),
        ("2024-05-01", "2024-05-01T00:00:00Z"),
        ("2024-05-01T02:00", "2024-05-01T02:00:00Z"),
        ("2024-05-01T02:00+02:00", "2024-05-01T00:00:00Z"),
        ("2h", "2024-04-30T23:00:00Z"),
    ],
)
def test_since_is_a_time_a_date_or_so_long_ago(text, expected):
    assert since_us(text, NOW) == datetime.fromisoformat(expected).timestamp() * 1e6


@pytest.mark.parametrize("text", ["", "soon", "2024-13-01", "T"])
def test_anything_else_is_refused_in_words(text):
    with pytest.raises(DeveloperError, match="--since"):
        since_us(text, NOW)


def test_every_level_can_be_silenced():
    for level in LEVELS:
        assert Decisions(silences=[silence(level=level)]).silenced(alert("x", level=level), NOW) is not None
