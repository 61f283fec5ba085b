"""The quality benchmarks count what they say they count: on made-up worlds whose answers are known."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import pandas as pd
import pytest

from benchmarks.quality import elec2, flights, payments
from benchmarks.quality.replay import Answered
from examples.payments.simulation import DAY_US, Payments, Scenario, moment_us
from examples.payments.switches import Switches
from offline.topic_lists import ListedRecord

START = datetime(1996, 5, 7, tzinfo=UTC)


def half_hours(classes: list[str]) -> pd.DataFrame:
    """As the table of Elec2, with prices that say nothing."""
    at = pd.date_range(START, periods=len(classes), freq="30min").tz_localize(None)
    columns = {name: np.linspace(0.0, 1.0, len(classes)) for name in elec2.NUMBERS}
    later = at + pd.Timedelta(minutes=30)
    return pd.DataFrame({"event_time": at, **columns, "class": classes, "label_time": later})


def test_a_delayed_no_change_classifier_repeats_the_label_before_the_last():
    classes = ["UP", "UP", "DOWN", "DOWN"] * 15
    found = elec2.measured(half_hours(classes))
    assert found["accuracy"]["no change"] == pytest.approx(30 / 60, abs=0.02)
    assert found["accuracy_delayed"]["no change"] == pytest.approx(0.0, abs=0.04)
    assert found["accuracy"].keys() == {"scaled_logistic", "bounded_tree", "blend", "no change"}
    assert found["kappa_temporal_delayed"].keys() == found["accuracy"].keys() - {"no change"}


def test_a_part_that_had_no_say_yet_has_no_score():
    answered = Answered()
    for event_id, parts in (("a", {"fallback": 0.2}), ("b", {"fallback": 0.2, "tree": 0.6})):
        known = {name: {"score": score, "weight": 0.5} for name, score in parts.items()}
        value = msgspec.json.encode({"event_id": event_id, "score": 0.4, "parts": known})
        answered.watch("predictions", [ListedRecord(0, 0, None, value)])
    answered.watch("dead-letters", [ListedRecord(0, 0, None, b"")])
    assert answered.ids == ["a", "b"] and answered.dead == 1
    assert list(answered.scores) == ["fallback", "tree", "blend"]
    assert np.array_equal(answered.scores["tree"], [np.nan, 0.6], equal_nan=True)


def test_flights_without_a_label_are_judged_by_nobody_and_the_lead_is_over_the_best_part():
    codes = np.array([0.0, 1.0, np.nan, 1.0])
    parts = {
        "lightgbm": np.array([0.1, 0.9, 0.5, 0.05]),
        "blend": np.array([0.1, 0.9, 0.0, 0.8]),
    }
    month = flights._of_month(codes, parts, {"lightgbm": np.ones(4)}, np.ones(4, bool))
    assert month["labels"] == 3
    assert month["auc"] == {"lightgbm": 0.5, "blend": 1.0} and month["lead"] == 0.5


def drifted(recovered: float) -> payments.World:
    """A fraud an hour, and as many of the new kind from the drift on; who answers puts the old ones first from the
    beginning, and from their 2,000th label on this share of the new ones as well."""
    switches = Switches(days=200, new_fraud_from=payments.DRIFT)
    first, drift, end = (moment_us(switches, day) for day in (payments.CUT, payments.DRIFT, switches.days))
    times_us = np.arange(first, end, 3_600_000_000 // 4)
    kind = np.arange(len(times_us)) % 4
    scenarios = np.where(kind == 0, Scenario.LARGE_AMOUNT, Scenario.GENUINE).astype(np.int8)
    scenarios[(kind == 1) & (times_us >= drift)] = Scenario.CARD_TEST
    new = np.flatnonzero(scenarios == Scenario.CARD_TEST)
    learnt_us = times_us[new[payments.NEW_LABELS - 1]] + 7 * DAY_US
    seen = new[(times_us[new] >= learnt_us) & (np.arange(len(new)) % 100 < 100 * recovered)]
    scores = (scenarios == Scenario.LARGE_AMOUNT).astype(float)
    frozen = scores.copy()
    scores[seen] = 1.0
    nothing = np.zeros(len(times_us), np.int64)
    made = Payments(nothing, times_us, nothing, nothing, nothing.astype(float), scenarios)
    return payments.World(switches, made, {"lightgbm": frozen, "blend": scores}, {})


def test_what_came_back_is_measured_between_the_week_without_labels_and_the_time_before_the_drift():
    found = payments._recovery(drifted(1.0))
    assert found["ap_around_drift"]["before"] == {"lightgbm": 1.0, "blend": 1.0}
    assert found["recovered_fraction"] == 1.0
    assert found["recovered_fractions"]["lightgbm"] == pytest.approx(0.0, abs=0.01)
    assert found["recovered_after_days"] == pytest.approx(2_000 / 24 + 7, abs=0.2)


def test_half_of_what_was_lost_is_no_recovery():
    assert 0.3 < payments._recovery(drifted(0.5))["recovered_fraction"] < 0.7
