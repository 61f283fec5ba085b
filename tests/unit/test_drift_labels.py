"""Outcomes become few reports: what is counted where, what a correction takes back, and what holds a cohort up."""

from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from driftwood import Blend, Drift, Label, Pipeline, categorical
from features.durations import DAY_US, HOUR_US
from features.errors import SnapshotError
from features.feature_set import FeatureMatrix
from models.drift.cohorts import MOST_OPEN, Cohorts, spread
from models.drift.label_counting import LabelCounting
from models.drift.label_reports import LOSS_UNITS, FeedState, LabelSlice, LossChange, decoded, encoded
from models.drift.loss_book import MOST_VALUES, OTHER
from models.maturity import delay_bin
from models.outcomes import CENSORED, DUPLICATE, EXPIRED, LATE, MATCHED, REPEAT, SILENT, UNKNOWN
from tests.labelled_days import FIRST_US, Day, outcomes, reports
from tests.served_outcomes import NAN, matured, pipeline


def told(watched, *records):
    counting = LabelCounting(watched)
    found = [one for record in records for one in counting.step(record)]
    return counting, found


def at(*hours: float) -> list[int]:
    return [FIRST_US + int(hour * HOUR_US) for hour in hours]


def end_of(hour: float):
    """An outcome by which all slices before that hour are over."""
    return matured([NAN], [NAN], times_us=at(hour), delays_us=0, kinds=[EXPIRED])


def test_a_slice_is_told_when_the_first_label_of_a_later_one_comes():
    rows = matured(
        [1, 0, 0], [0.9, 0.2, 0.3], times_us=at(0, 0.5, 0.9), delays_us=0, parts={"lightgbm": [0.9, 0.1, NAN]}
    )
    counting, nothing = told(pipeline(), rows)
    assert nothing == []
    (found,) = counting.step(end_of(5))
    assert (found.start_us, found.end_us) == tuple(at(0, 1))
    assert (found.outcomes, found.classes) == ({MATCHED: 3}, {"0": 2, "1": 1})
    assert found.delays == {0: 3}
    by_subject = {one.subject: one.classes for one in found.losses}
    assert {name: sums.count for name, sums in by_subject["score"].items()} == {"0": 2, "1": 1}
    assert by_subject["lightgbm"]["0"].count == 1
    # log loss in fifths of five nats: -ln(0.9) / 5
    assert by_subject["score"]["1"].loss / LOSS_UNITS == pytest.approx(-np.log(0.9) / 5, abs=1e-7)


def test_every_outcome_is_counted_by_its_name_and_only_labels_that_came_have_a_delay():
    kinds = [MATCHED, SILENT, CENSORED, EXPIRED, LATE, DUPLICATE, REPEAT]
    codes = [1, 0, NAN, NAN, NAN, NAN, NAN]
    rows = matured(codes, [0.5] * 7, times_us=at(*[0.0] * 7), delays_us=HOUR_US // 2, kinds=kinds)
    _, (found,) = told(pipeline(), rows, end_of(3))
    assert found.outcomes == dict.fromkeys(sorted(kinds), 1)
    assert found.delays == {int(delay_bin(np.array([HOUR_US // 2]))[0]): 1}
    assert found.classes == {"0": 1, "1": 1}


def test_an_unknown_id_is_counted_now_though_its_label_was_known_a_horizon_ago():
    first = matured([1], [0.5], times_us=at(100), delays_us=0)
    unknown = matured([NAN], [NAN], times_us=at(4), delays_us=0, kinds=[UNKNOWN])
    _, (found,) = told(pipeline(), first, unknown, end_of(102))
    assert (found.outcomes, found.behind) == ({MATCHED: 1, UNKNOWN: 1}, 0)


def test_what_comes_long_after_it_was_known_is_measured_but_in_no_count_of_the_hour():
    first = matured([1], [0.5], times_us=at(100), delays_us=0)
    behind = matured([0, 0], [0.5] * 2, times_us=at(90, 91), delays_us=0)
    _, (found,) = told(pipeline(), first, behind, end_of(102))
    assert (found.outcomes, found.classes, found.behind) == ({MATCHED: 1}, {"1": 1}, 2)
    assert sum(sums.count for sums in found.losses[1].classes.values()) == 3


def test_a_correction_takes_the_old_class_back_and_is_not_measured_again():
    first = matured([1, 0], [0.9, 0.2], times_us=at(0, 0.1), delays_us=0)
    corrected = matured([0], [0.9], replaced=[1], times_us=at(0), delays_us=HOUR_US // 2)
    taken_back = matured(
        [NAN], [0.2], replaced=[0], times_us=at(0.1), delays_us=HOUR_US // 2, kinds=[CENSORED]
    )
    watched = pipeline(horizon="1d", blend=Blend(mature_after="1h"))
    _, found = told(watched, first, corrected, taken_back, end_of(4))
    (slice_,) = found
    assert slice_.classes == {"0": 1}
    assert {one.subject: sum(sums.count for sums in one.classes.values()) for one in slice_.losses} == {
        "score": 2,
        "lightgbm": 2,
    }
    (cohort,) = slice_.cohorts
    assert cohort.classes == {"0": 1}
    assert cohort.losses.count == 1
    # Said 0.9 of what did not come true.
    assert [(rows, came) for rows, _, came in cohort.calibration["score"].values()] == [(1, 0)]


def test_a_cohort_waits_for_the_horizon_where_silence_means_a_class_and_else_for_the_delay_that_is_learnt():
    days = [Day(events=500, delays_h=(2.0, 4.0))] * 8
    learnt = reports(pipeline(horizon="1d"), outcomes(days))
    silent = Pipeline(
        "quiet",
        event=_Event,
        id="id",
        time="at",
        time_unit="s",
        features=["x", "y"],
        label=Label("came", horizon="1d", when_silent=0),
    )
    for found, low_h, high_h in ((learnt, 4, 9), (reports(silent, outcomes(days)), 24, 27)):
        slices = [one for one in found if isinstance(one, LabelSlice)]
        late = [(one.end_us - cohort.end_us) / HOUR_US for one in slices[120:] for cohort in one.cohorts]
        assert late
        assert low_h <= min(late) <= max(late) <= high_h


class _Event(msgspec.Struct):
    id: str
    at: int
    x: float
    y: float


def test_a_stalled_feed_holds_cohorts_up_until_it_flows_again():
    watched = pipeline(horizon="1d")
    counting, _ = told(watched, matured([1], [0.5], times_us=at(0), delays_us=0))
    (stalled,) = counting.hear("0", 1_000, 61_000)
    assert stalled == FeedState("0", True, 1_000, 61_000, at(0)[0])
    (slice_,) = counting.step(end_of(30))
    assert slice_.cohorts == []
    # What was held up comes now, for a time that has long been over.
    counting.step(matured([0, 0], [0.5] * 2, times_us=at(0.1, 0.2), delays_us=DAY_US, kinds=[SILENT] * 2))
    assert counting.hear("0", None, 99_000) == [FeedState("0", False, 1_000, 99_000, at(30)[0])]
    (slice_,) = counting.step(end_of(31))
    assert [cohort.classes for cohort in slice_.cohorts] == [{"0": 2, "1": 1}]


def test_of_a_feed_only_changes_are_told():
    counting = LabelCounting(pipeline())
    assert counting.hear("0", None, 5) == []
    assert counting.hear("0", 1, 5) == [FeedState("0", True, 1, 5, 5_000)]
    assert counting.hear("0", 1, 6) == []


def test_scores_that_are_no_numbers_and_absent_parts_are_not_measured():
    rows = matured(
        [1, 0, 1],
        [NAN, 0.2, np.inf],
        times_us=at(0, 0.1, 0.2),
        delays_us=0,
        parts={"lightgbm": [NAN] * 3, "online": [0.5, NAN, 1.0]},
    )
    watched = pipeline(blend=Blend(mature_after="1h"))
    _, (found,) = told(watched, rows, end_of(4))
    assert {one.subject: sum(sums.count for sums in one.classes.values()) for one in found.losses} == {
        "score": 1,
        "online": 2,
    }
    assert found.cohorts[0].classes == {"0": 1, "1": 2}
    assert found.cohorts[0].losses.count == 1


@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_labels_of_other_kinds_are_measured_between_nothing_and_one(kind):
    source = np.random.default_rng(0)
    if kind == "regression":
        codes = source.normal(0, 100, 1_000)
        score = codes + source.standard_t(2, 1_000) * 30
        score[3] = 1e300
    else:
        codes = source.integers(0, 3, 1_000).astype(float)
        score = source.dirichlet([1, 1, 1], 1_000)
    watched = pipeline(kind, blend=Blend(mature_after="1h"))
    _, found = told(
        watched, matured(codes, score, times_us=FIRST_US + np.arange(1_000), delays_us=0), end_of(4)
    )
    (slice_,) = [one for one in found if isinstance(one, LabelSlice)]
    sums = next(one.classes for one in slice_.losses if one.subject == "score")
    assert sum(one.count for one in sums.values()) == (800 if kind == "regression" else 1_000)
    assert all(0 < one.loss < one.count * LOSS_UNITS for one in sums.values())
    assert bool(slice_.cohorts[0].calibration) == (kind == "multiclass")
    assert set(slice_.classes) == ({"value"} if kind == "regression" else {"a", "b", "c"})


class _Sale(msgspec.Struct):
    id: str
    at: int
    x: float
    shop: str | None


def test_a_segment_that_is_a_feature_has_losses_of_its_own_and_many_values_share_the_last_place():
    watched = Pipeline(
        "sales",
        event=_Sale,
        id="id",
        time="at",
        time_unit="s",
        features=["x", categorical("shop")],
        label=Label("came"),
        drift=Drift(segments=["shop"]),
    )
    shops: list[str | None] = [f"s{number % (MOST_VALUES + 8)}" for number in range(400)]
    shops[5] = None
    rows = matured([0.0] * 400, [0.1] * 400, times_us=FIRST_US + np.arange(400), delays_us=0)
    texts = pa.array(shops, pa.string())
    rows = replace(rows, matrix=FeatureMatrix(("x", "shop"), np.zeros((400, 2)), {1: texts}))
    _, (found,) = told(watched, rows, end_of(3))
    segments = {one.segment: one.classes["0"].count for one in found.losses if one.subject == "score"}
    assert segments.pop("") == 400 == sum(segments.values())
    assert len(segments) == MOST_VALUES + 1
    assert {"shop=s0", "shop=(none)", f"shop={OTHER}"} <= segments.keys()


def test_a_change_of_the_mixture_alone_is_none_of_the_loss_as_it_becomes_known():
    """Positives are always judged worse; for a while, as after an outage, nothing else comes."""
    source = np.random.default_rng(1)
    codes = np.concatenate([source.random(6_000) < 0.02, np.ones(800), source.random(3_000) < 0.02]).astype(
        float
    )
    score = np.where(codes == 1, source.uniform(0.2, 0.6, len(codes)), source.uniform(0.0, 0.1, len(codes)))
    rows = matured(codes, score, times_us=FIRST_US + np.arange(len(codes)) * 10_000_000, delays_us=0)
    found = reports(pipeline(horizon="30d"), rows)
    assert [one for one in found if isinstance(one, LossChange)] == []


def test_wrong_scores_twice_as_often_are_seen_within_500_labels():
    late = []
    for seed in range(15):
        source = np.random.default_rng(seed)
        codes = (source.random(9_000) < 0.5).astype(float)
        wrong = source.random(9_000) < np.where(np.arange(9_000) < 8_000, 0.1, 0.2)
        sure = source.uniform(0.7, 0.95, 9_000)
        score = np.where((codes == 1) ^ wrong, sure, 1 - sure)
        rows = matured(codes, score, times_us=FIRST_US + np.arange(9_000) * 1_000_000, delays_us=0)
        changes = [one for one in reports(pipeline(horizon="30d"), rows) if isinstance(one, LossChange)]
        grown = [one for one in changes if one.subject == "score" and one.grown]
        assert len(grown) == 1
        late.append((grown[0].at_us - FIRST_US) / 1e6 - 8_000)
        assert grown[0].before.count + grown[0].after.count <= 9_000
        assert abs((grown[0].after.start_us - FIRST_US) / 1e6 - 8_000) < 200
    assert np.median(late) <= 500
    assert min(late) > 0


def test_a_loss_that_stays_as_it_is_changes_less_than_once_in_a_hundred_thousand_labels():
    found, labels = 0, 0
    for positives, seed in ((0.5, 1), (0.01, 2)):
        rows = outcomes([Day(events=30_000, positives=positives)] * 5, seed)
        changes = [one for one in reports(pipeline(horizon="1d"), rows) if isinstance(one, LossChange)]
        found, labels = found + len(changes), labels + len(rows)
    assert found <= labels / 100_000


def test_losses_of_a_cohort_are_fed_in_an_order_that_has_nothing_to_do_with_their_size():
    losses = spread(np.array([500, *[0] * 62, 500]))
    assert (losses > 0.5).sum() == 500
    halves = [(half > 0.5).mean() for half in np.split(losses, 10)]
    assert np.ptp(halves) < 0.05


def test_cohorts_are_bounded_also_when_nothing_ever_ends_them():
    cohorts = Cohorts(("0", "1"), HOUR_US, DAY_US)
    times = np.arange(10_000) * HOUR_US
    none = np.zeros(10_000, np.int64)
    cohorts.add(times, none, none, none - 1, {})
    assert len(cohorts.state()["open"]) == MOST_OPEN


def test_empty_records_and_a_single_outcome_of_no_kind_of_label_make_no_report():
    counting, found = told(pipeline(), matured([], []), matured([NAN], [NAN], kinds=[UNKNOWN]))
    assert found == []
    assert counting.step(matured([], [])) == []


def test_reports_that_are_none_are_refused():
    with pytest.raises(ValueError, match="truncated"):
        decoded(b"")
    with pytest.raises(SnapshotError):
        LabelCounting(pipeline()).restore(b"no state")
    one = FeedState("1", False, 1, 2, 3)
    assert decoded(encoded(one)) == one
