"""What is probably behind an alert: each cause is found where it is, and not where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.drift.alert import moment
from models.drift.causes import causes
from models.drift.columns import Column
from models.drift.recent import COARSE, FINE, MOST_BEFORE, WINDOWS, Recent
from models.drift.signals import Evidence, Signal
from models.drift.spec import Drift
from models.drift.time_slice import MOST_VALUES, Counting, TimeSlice, WatchedRows

HOUR = 3_600_000_000
COLUMNS = (Column("amount", "number", "feature"), Column("card", "category", "entity"))
DRIFT = Drift(segments=["country"])


def served(
    hour: int,
    rows: int = 200,
    scale: Callable[[str], float] = lambda country: 1.0,
    missing: Callable[[str], float] = lambda country: 0.01,
    countries: Mapping[str, float] | None = None,
    one_card: float = 0.0,
    version: str = "a",
) -> TimeSlice:
    """A slice of events: `one_card` is the share that one card has."""
    random = np.random.default_rng(hour)
    chances = countries or {"DE": 0.3, "FR": 0.5, "IT": 0.2}
    picked = random.choice(list(chances), rows, p=list(chances.values())).tolist()
    amounts = random.lognormal(3, 0.5, rows) * [scale(one) for one in picked]
    amounts[random.random(rows) < [missing(one) for one in picked]] = np.nan
    cards = np.where(random.random(rows) < one_card, 0, random.integers(1, 500, rows))
    counting = Counting(COLUMNS, hour * HOUR, HOUR)
    texts = [pa.array([str(card) for card in cards])]
    times = np.full(rows, hour * HOUR)
    if rows:
        counting.add(WatchedRows(times, amounts[:, None], texts, {"country": picked}, version))
    return counting.closed()


def told(
    change: Mapping[str, Any],
    signal: Signal,
    hours: int = 6,
    before: int = 72,
    dead: Mapping[str, int] | None = None,
) -> tuple[str, ...]:
    """What is said after `hours` of a change, `before` that as usual."""
    recent = Recent(COLUMNS, DRIFT)
    for hour in range(before):
        recent.add(served(hour), {"not_json": 1}, "a")
    for hour in range(before, before + hours):
        slice_ = served(hour, **change)
        recent.add(slice_, dead or {"not_json": 1}, next(iter(slice_.versions), "a"))
    return causes(recent, [signal])


def signal(
    subject: str = "amount", statistic: str = "ks", level: Any = "data", strength: float = 1.5, **more: Any
) -> Signal:
    return Signal(level, subject, statistic, 0, strength / 10, 0.1, strength, **more)


CHANGED = moment(72 * HOUR)


@pytest.mark.parametrize("statistic", ["ks", "missing", "outside"])
def test_where_nothing_has_happened_nothing_is_said(statistic):
    assert told({}, signal(statistic=statistic)) == ()
    assert told({}, signal("dead_letters", "rate")) == told({}, signal("feed", "volume", "labels")) == ()


def test_values_that_are_missing_from_one_moment_on_are_a_change_of_the_schema():
    [sentence] = told({"missing": lambda country: 0.5}, signal(statistic="missing"))
    assert sentence.startswith("a change of the schema") and CHANGED in sentence and "amount" in sentence
    assert told({"missing": lambda country: 0.5}, signal("card", "missing")) == ()  # it is not what has moved


def test_records_that_are_refused_from_one_moment_on_are_a_change_of_the_schema():
    [sentence] = told({}, signal("dead_letters", "rate"), dead={"not_json": 1, "wrong_type": 60})
    assert "refused as wrong_type" in sentence and CHANGED in sentence and "0 % before" in sentence


@pytest.mark.parametrize(
    ("change", "statistic"),
    [
        ({"missing": lambda country: 0.6 if country == "DE" else 0.01}, "missing"),
        ({"scale": lambda country: 2.0 if country == "DE" else 1.0}, "ks"),
    ],
)
def test_one_producer_that_explains_the_change_is_named(change, statistic):
    sentences = told(change, signal(statistic=statistic))
    assert [
        one for one in sentences if one.startswith("one country: DE explains most of the change of amount")
    ]
    assert not [one for one in sentences if "FR" in one or "IT" in one]


def test_no_producer_is_named_when_all_of_them_change():
    assert told({"scale": lambda country: 1.5}, signal()) == ()


def test_a_producer_that_has_grown_is_named():
    [sentence] = told({"countries": {"DE": 0.8, "FR": 0.1, "IT": 0.1}}, signal(), hours=12)
    assert sentence == "one country: DE has 79.6 % of the events now, 30 % before"


def test_one_entity_that_has_much_of_the_events_is_told_without_its_name():
    [sentence] = told({"one_card": 0.4}, signal())
    assert sentence.startswith("one card: a single one has ") and "of the events" in sentence


def test_a_new_champion_is_told_for_a_window_and_the_first_is_none():
    [sentence] = told({"version": "b"}, signal("score", level="prediction"))
    assert sentence == f"a new champion, b, answers since {CHANGED}"
    assert told({"version": "b"}, signal("score", level="prediction"), hours=26) == ()


def test_a_feed_that_stands_still_is_told_for_what_has_to_do_with_feeds():
    for feed in (signal("volume", "log_ratio"), signal("feed", "volume", "labels")):
        assert told({"rows": 0}, feed)[0].startswith(f"no event was answered since {CHANGED}")
    assert told({"rows": 0}, signal()) == ()


def test_volume_is_told_in_events():
    [sentence] = told({"rows": 20}, signal("volume", "log_ratio"), hours=24)
    assert sentence == "480 events were answered in the newest window, 4,800 in the one before it"


def test_what_the_judges_know_is_passed_on_once():
    known = Evidence(why=("a season",))
    recent = Recent(COLUMNS, DRIFT)
    assert causes(recent, [signal(evidence=known), signal("card", evidence=known)]) == ("a season",)
    assert (
        causes(recent, [signal(strength=2.0, evidence=known)]) == ()
    )  # no season is twice as strong as all others
    assert causes(recent, [signal("feed", "outage", "labels", 9.0, evidence=known)]) == ("a season",)


def test_what_is_remembered_is_bounded_and_goes_on_after_a_restart():
    recent, values = Recent(COLUMNS, DRIFT), iter(range(10**6))
    for hour in range(24 * 40):
        counting = Counting(COLUMNS, hour * HOUR, HOUR)
        many = [str(next(values)) for _ in range(50)]  # a segment of ever new values
        counting.add(
            WatchedRows(np.full(50, hour * HOUR), np.ones((50, 1)), [pa.array(many)], {"country": many})
        )
        recent.add(counting.closed(), {}, "a")
    before, now = recent.segments()
    assert len(recent.fine) == FINE * WINDOWS
    assert max(len(before["country"]), len(now["country"])) <= MOST_VALUES
    assert sum(one.rows for one in before["country"].values()) <= MOST_BEFORE * 50 * 24 / COARSE
    other = Recent(COLUMNS, DRIFT)
    other.restore(recent.state())
    for one in (recent, other):
        one.add(served_once, {}, "b")
    assert other.state() == recent.state()


served_once = served(24 * 40)
