"""What comes in and what is answered, judged: each kind of change gives the right signal, and nothing stops the judge."""

import math

import numpy as np
import pytest

from features.durations import DAY_US, HOUR_US
from models.drift.data_judge import DataJudge
from models.drift.reference import Reference
from models.drift.signals import CLEARS
from models.drift.spec import Drift
from models.drift.time_slice import TimeSlice, empty_slice
from tests.drift_slices import COLUMNS, Payments

DRIFT = Drift(segments=["producer"])
DAYS = 30


@pytest.fixture(scope="module")
def reference():
    return Reference.of(COLUMNS, Payments(1).slices(24 * DAYS), DRIFT)


def judged(reference, alter=None, hours=30, drift=DRIFT, slice_of=None, seed=2):
    """Two calm days, then `hours` of change: the signals of the last slice by name, and all that were strong once."""
    payments = Payments(seed)
    payments.hour = 24 * DAYS
    judge = DataJudge(COLUMNS, drift, reference)
    for _ in range(48):
        judge.judge(payments.slice(), {})
    strongest: dict[str, float] = {}
    last = []
    for _ in range(hours):
        last = judge.judge(slice_of(payments) if slice_of else payments.slice(alter), {})
        for signal in last:
            assert math.isfinite(signal.strength) and math.isfinite(signal.value), signal
            assert math.isfinite(signal.threshold), signal
            strongest[signal.name] = max(strongest.get(signal.name, 0.0), signal.strength)
    return {signal.name: signal for signal in last}, strongest


def test_calm_days_give_no_signal_that_raises(reference):
    _, strongest = judged(reference, hours=24 * 3)
    assert max(strongest.values(), default=0.0) < 1.0


def test_a_scaled_number_is_seen_with_its_evidence(reference):
    def alter(numbers, texts, random):
        numbers[:, 0] *= 1.5

    last, _ = judged(reference, alter)
    signal = last["data/amount/ks"]
    assert signal.strength > 1
    assert signal.value == pytest.approx(signal.threshold * signal.strength)
    evidence = signal.evidence
    assert evidence.reference is not None and evidence.current is not None
    assert evidence.reference.count == reference.rows
    assert evidence.current.end_us - evidence.current.start_us == DAY_US
    assert evidence.current.end_us == signal.at_us
    before, now = evidence.quantiles["0.5"]
    assert now / before == pytest.approx(1.5, abs=0.15)
    assert evidence.psi is not None and evidence.psi > 0.05
    assert max(last.values(), key=lambda one: one.strength) == signal


def test_a_feature_that_goes_missing_for_one_producer_names_it(reference):
    def alter(numbers, texts, random):
        numbers[np.array(texts[2]) == "app", 0] = np.nan

    last, _ = judged(reference, alter)
    everywhere, there = last["data/amount/missing"], last["data/amount/missing/producer=app"]
    assert there.strength > everywhere.strength > 1
    assert there.evidence.shares["missing"][1] > 0.9
    assert "data/amount/missing/producer=till" not in last


def test_categories_that_change_places_are_seen_by_name(reference):
    def alter(numbers, texts, random):
        texts[0][:] = [{"DE": "FR", "FR": "DE"}.get(one, one) for one in texts[0]]

    last, _ = judged(reference, alter)
    shares = last["data/country/total_variation"].evidence.shares
    assert shares["DE"][0] > 0.4 > shares["DE"][1]
    assert shares["FR"][1] > 0.4 > shares["FR"][0]


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("constant", lambda numbers, texts: numbers.__setitem__((slice(None), 0), 5.0), "data/amount/ks"),
        (
            "all missing",
            lambda numbers, texts: numbers.__setitem__((slice(None), 0), np.nan),
            "data/amount/missing",
        ),
        (
            "infinite",
            lambda numbers, texts: numbers.__setitem__((slice(None), 0), np.inf),
            "data/amount/outside",
        ),
        (
            "below its range",
            lambda numbers, texts: numbers.__setitem__((slice(None), 0), -1.0),
            "data/amount/outside",
        ),
        (
            "never seen categories",
            lambda numbers, texts: texts[0].__setitem__(
                slice(None), [f"new{i}" for i in range(len(texts[0]))]
            ),
            "data/country/unseen",
        ),
        (
            "one card",
            lambda numbers, texts: texts[1].__setitem__(slice(None), ["card-1"] * len(texts[1])),
            "data/card/largest_share",
        ),
        (
            "higher scores",
            lambda numbers, texts: np.sqrt(numbers[:, 3], out=numbers[:, 3]),
            "prediction/score/ks",
        ),
        (
            "more decisions",
            lambda numbers, texts: numbers.__setitem__((slice(None), 4), 1.0),
            "prediction/decision/ks",
        ),
    ],
)
def test_what_breaks_is_named(reference, name, change, expected):
    def alter(numbers, texts, random):
        change(numbers, texts)

    last, _ = judged(reference, alter)
    assert last[expected].strength > 1, name


def test_scores_that_say_nothing_lower_the_expected_auc(reference):
    def alter(numbers, texts, random):
        numbers[:, 3] = 0.11

    last, _ = judged(reference, alter)
    signal = last["estimate/score/expected_auc"]
    assert signal.strength > 1
    assert signal.evidence.shares["expected_auc"][1] == pytest.approx(0.5, abs=0.02)
    assert signal.evidence.shares["expected_auc"][0] > 0.6


def test_a_day_without_traffic_is_a_signal_of_the_volume(reference):
    def nothing(payments):
        payments.hour += 1
        return empty_slice(COLUMNS, (payments.hour - 1) * HOUR_US, HOUR_US)

    last, strongest = judged(reference, slice_of=nothing, hours=30)
    assert last["data/volume/log_ratio"].strength > 1
    assert {name for name, strength in strongest.items() if strength >= 1} == {"data/volume/log_ratio"}


def test_clocks_an_hour_off_are_no_drift(reference):
    payments = Payments(3)
    payments.hour = 24 * DAYS
    judge = DataJudge(COLUMNS, DRIFT, reference)
    for _ in range(24 * 4):
        one = payments.slice()
        moved = TimeSlice(one.start_us + HOUR_US, *[getattr(one, name) for name in one.__struct_fields__[1:]])
        assert all(signal.strength < 1 for signal in judge.judge(moved, {}))


def test_dead_letters_and_late_rows_are_compared_with_what_came_before(reference):
    judge, payments = DataJudge(COLUMNS, DRIFT, reference), Payments(4)
    payments.hour = 24 * DAYS
    for _ in range(48):
        assert not [
            one for one in judge.judge(payments.slice(), {"json": 1}) if one.subject == "dead_letters"
        ]
    for _ in range(12):
        last = {signal.name: signal for signal in judge.judge(payments.slice(), {"json": 1, "range": 10})}
    signal = last["data/dead_letters/rate"]
    assert signal.strength > 1
    assert signal.evidence.shares["range"][0] == 0 < signal.evidence.shares["range"][1]


def test_a_signal_is_given_until_it_has_become_calm(reference):
    judge, payments = DataJudge(COLUMNS, DRIFT, reference), Payments(5)
    payments.hour = 24 * DAYS

    def alter(numbers, texts, random):
        numbers[:, 0] *= 3

    for hour in range(24 * 12):
        found = {one.name: one for one in judge.judge(payments.slice(alter if 48 <= hour < 72 else None), {})}
        if hour == 72:
            assert found["data/amount/ks"].strength > 1
        stood = {name for name, one in found.items() if one.strength >= CLEARS}
        if hour > 72 and "data/amount/ks" not in stood:
            break
    assert found["data/amount/ks"].strength < CLEARS
    after = {one.name for one in judge.judge(payments.slice(), {})}
    assert "data/amount/ks" not in after


def test_hidden_values_are_never_shown(reference):
    def alter(numbers, texts, random):
        numbers[:, 2] *= 4

    last, _ = judged(reference, alter)
    evidence = last["data/secret/ks"].evidence
    assert evidence.quantiles == {}
    assert set(evidence.shares) == {"missing", "outside"}


def test_the_convention_is_psi_above_a_fifth_and_nothing_else(reference):
    def alter(numbers, texts, random):
        numbers[:, 0] *= 2

    last, _ = judged(reference, alter, drift=Drift(thresholds="psi-0.2"))
    assert last["data/amount/psi"].threshold == 0.2
    assert last["data/amount/psi"].value == pytest.approx(0.2 * last["data/amount/psi"].strength)
    assert {signal.statistic for signal in last.values()} == {"psi"}


def test_nothing_is_said_before_a_whole_window_has_come(reference):
    judge, payments = DataJudge(COLUMNS, DRIFT, reference), Payments(6)
    payments.hour = 24 * DAYS

    def alter(numbers, texts, random):
        numbers[:, 0] *= 9

    for _ in range(23):
        assert judge.judge(payments.slice(alter), {}) == []
    assert judge.judge(payments.slice(alter), {})


def test_a_reference_that_is_too_short_is_not_ready():
    short = Reference.of(COLUMNS, Payments(7).slices(48), DRIFT)
    judge, payments = DataJudge(COLUMNS, DRIFT, short), Payments(8)
    assert not short.ready and not judge.ready
    for _ in range(30):
        assert judge.judge(payments.slice(), {}) == []


@pytest.mark.parametrize("days", [3, 5])
def test_a_few_days_of_reference_work_with_what_there_is(days):
    reference = Reference.of(COLUMNS, Payments(9).slices(24 * days), DRIFT)
    assert reference.ready

    def alter(numbers, texts, random):
        numbers[:, 0] *= 3

    last, _ = judged(reference, alter)
    assert last["data/amount/ks"].strength > 1


def test_without_a_reference_what_came_before_is_one():
    judge, payments = DataJudge(COLUMNS, Drift(reference="4d"), None), Payments(10)

    def alter(numbers, texts, random):
        numbers[:, 0] *= 3

    ready = [judge.ready]
    for _ in range(24 * 6):
        judge.judge(payments.slice(), {})
        ready.append(judge.ready)
    assert not ready[0] and not ready[24 * 3] and ready[-1]
    for _ in range(24):
        last = {one.name: one for one in judge.judge(payments.slice(alter), {})}
    assert last["data/amount/ks"].strength > 1
    # After a trailing period of it, it is what is usual.
    for _ in range(24 * 6):
        last = {one.name: one for one in judge.judge(payments.slice(alter), {})}
    assert last.get("data/amount/ks") is None or last["data/amount/ks"].strength < 1


def test_another_champion_brings_its_own_reference(reference):
    def alter(numbers, texts, random):
        numbers[:, 3] = np.sqrt(numbers[:, 3])

    other = Reference.of(COLUMNS, Payments(11).slices(24 * DAYS, alter), DRIFT)
    judge, payments = DataJudge(COLUMNS, DRIFT, reference), Payments(12)
    payments.hour = 24 * DAYS
    for _ in range(48):
        last = judge.judge(payments.slice(alter), {})
    assert any(signal.level == "prediction" and signal.strength > 1 for signal in last)
    judge.with_reference(other)
    last = judge.judge(payments.slice(alter), {})
    assert all(signal.strength < CLEARS for signal in last if signal.level == "prediction")


def test_slices_of_other_columns_do_not_stop_it(reference):
    judge, payments = DataJudge(COLUMNS, DRIFT, reference), Payments(13)
    payments.hour = 24 * DAYS
    for _ in range(30):
        start = payments.slice().start_us
        judge.judge(empty_slice(COLUMNS[:3], start, HOUR_US), {})
    for _ in range(30):
        judge.judge(payments.slice(), {})
    fewer = DataJudge(COLUMNS[:4], DRIFT, None)
    fewer.restore(judge.state())
    fewer.judge(empty_slice(COLUMNS[:4], payments.hour * HOUR_US, HOUR_US), {})
