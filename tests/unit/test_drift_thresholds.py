"""Thresholds: incidents are counted as an alert lives, and the budget decides how far is too far."""

import numpy as np
import pytest

from features.durations import HOUR_US
from models.drift.data_judge import DataJudge
from models.drift.reference import MOST_SPANS, Reference
from models.drift.spec import Drift
from models.drift.thresholds import calibrated, incidents, lengths_of
from models.drift.time_slice import empty_slice
from tests.drift_slices import COLUMNS, Payments

DRIFT = Drift()


@pytest.fixture(scope="module")
def reference():
    return Reference.of(COLUMNS, Payments(1, 600).slices(24 * 40), DRIFT)


def test_an_incident_lasts_from_the_threshold_until_everything_is_calm():
    path = np.array([[0.0, 1.0, 0.8, 1.2, 0.75, 0.6, 1.0, 0.9]])
    assert incidents(path, np.array([1.0, 1.1, 1.3])).tolist() == [2, 1, 0]
    # Of 0.5, seven tenths are 0.35: it is never calm again.
    assert incidents(path, np.array([0.5])).tolist() == [1]


def test_a_larger_budget_lowers_the_threshold_and_never_below_chance(reference):
    limits = [calibrated(reference, budget).limit for budget in (0.1, 1.0, 10.0, 1e6)]
    assert limits == sorted(limits, reverse=True)
    assert limits[0] > limits[2]
    assert limits[-1] >= 4.5


def test_the_reference_itself_keeps_to_the_budget(reference):
    thresholds = calibrated(reference, 1.0)
    assert (thresholds.peaks >= 0).all()
    judge = DataJudge(COLUMNS, DRIFT, reference)
    payments, alarms, open_ = Payments(1, 600), 0, False
    for _ in range(24 * 40):
        strength = max((signal.strength for signal in judge.judge(payments.slice(), {})), default=0.0)
        alarms += strength >= 1 and not open_
        open_ = strength >= (0.7 if open_ else 1.0)
    assert alarms <= 2


def test_seven_windows_are_compared_as_one_where_the_reference_is_six_times_as_long(reference):
    assert lengths_of(reference) == (24,)
    longer = Reference.of(COLUMNS, Payments(2, 600).slices(24 * 42), DRIFT)
    assert lengths_of(longer) == (24, 168)


def test_gaps_are_hours_without_rows_and_only_the_newest_time_is_kept():
    slices = Payments(3, 100).slices(50)
    found = Reference.of(COLUMNS, [*slices[40:], *slices[:10]], DRIFT)
    assert len(found.tallies) == 50
    assert found.tallies[20].sum() == 0
    assert found.rows == sum(one.rows for one in [*slices[:10], *slices[40:]])
    later = empty_slice(COLUMNS, slices[-1].start_us + MOST_SPANS * HOUR_US, HOUR_US)
    assert Reference.of(COLUMNS, [*slices, later], DRIFT).rows == 0


def test_short_slices_are_counted_together_to_a_twenty_fourth_of_the_window():
    hours = Payments(4, 100).slices(48)
    two_days = Drift(window="4d")
    found = Reference.of(COLUMNS, hours, two_days)
    assert found.step_us == 4 * HOUR_US
    assert found.rows == sum(one.rows for one in hours)


def test_a_reference_of_other_columns_is_refused_by_name(reference):
    data = reference.encoded()
    with pytest.raises(ValueError, match="age"):
        Reference.decoded(data, [column for column in COLUMNS if column.name != "age"])
    with pytest.raises(ValueError, match="another order"):
        Reference.decoded(data, COLUMNS[::-1])
    with pytest.raises(ValueError, match="no reference"):
        Reference.decoded(b"nonsense", COLUMNS)
    with pytest.raises(ValueError, match="at least one"):
        Reference.of(COLUMNS, [], DRIFT)
