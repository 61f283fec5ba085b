"""Signals about the label feed and about concepts: what raises one, what does not, and when it is over."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest

from driftwood import Drift
from features.durations import DAY_US, HOUR_US
from features.errors import SnapshotError
from models.drift.label_counting import LabelCounting
from models.drift.label_history import BLOCKS, LabelHistory
from models.drift.label_judge import LabelJudge
from models.drift.label_reports import FeedState, LabelSlice, LossChange, Side
from models.drift.label_statistics import Measure, calibration, deviation, quantile, share
from models.drift.signals import CLEARS, RAISES, Signal
from models.outcomes import MATCHED, SILENT, UNKNOWN
from tests.labelled_days import FIRST_US, Day, cut, day_of, outcomes, raised, reports, signals
from tests.served_outcomes import START_US, pipeline

WATCHED = pipeline(horizon="3d", drift=Drift(time_slice="3h"))
BEFORE = [Day(events=900)] * 20


def upto(days, seed=1):
    """Outcomes of these days, without the last ones, whose events are not all there."""
    rows = outcomes(days, seed)
    return rows.select(rows.known_us < FIRST_US + len(days) * DAY_US)


def judged(days, seed=1):
    return signals(WATCHED, reports(WATCHED, upto(days, seed)))


def quiet_from(found, name):
    """The day from which a signal is calm until the end."""
    strong = [day_of(one) for one in found if one.name == name and one.strength >= CLEARS]
    calm = [day_of(one) for one in found if one.name == name and one.strength < CLEARS]
    assert calm
    assert calm[-1] > strong[-1]
    return calm[-1]


@pytest.mark.parametrize(
    ("name", "unusual", "within_days"),
    [
        ("labels/feed/volume", Day(events=300), 1.0),
        ("labels/feed/volume", Day(events=3_000), 1.0),
        ("labels/feed/delay", Day(events=900, delays_h=(8.0, 8.0)), 1.0),
        ("labels/class/1", Day(events=900, positives=0.45), 1.5),
        ("concept/score/loss", Day(events=900, wrong=0.25), 0.6),
        ("concept/score/calibration", Day(events=900, wrong=0.25), 1.5),
    ],
)
def test_what_is_unusual_for_a_day_is_told_and_over_when_it_is_as_before(name, unusual, within_days):
    found = judged([*BEFORE, *[unusual] * 3, *[Day(events=900)] * 4])
    first = raised(found)
    assert 20.0 < first[name] <= 20.0 + within_days
    assert 23.0 < quiet_from(found, name) <= 25.5
    if name.startswith("labels"):
        assert not [one for one in first if one.startswith("concept")]


def test_nothing_is_said_before_there_is_enough_to_compare_with():
    assert judged([Day(events=900, wrong=0.1 if number % 2 else 0.5) for number in range(6)]) == []


def test_days_that_always_differ_are_no_alarm_and_one_that_differs_more_is():
    source = np.random.default_rng(3)
    days = [
        Day(events=int(900 * source.uniform(0.7, 1.4)), wrong=source.uniform(0.05, 0.15)) for _ in range(30)
    ]
    found = raised(judged([*days, *[Day(events=900, wrong=0.35)] * 2]))
    assert found["concept/score/loss"] > 30.0
    assert [name for name, day in found.items() if day < 30.0] == []


def test_weekends_with_a_third_of_the_labels_are_usual_after_two_weeks():
    # 1970-01-01 was a Thursday: the days of a week are counted from it.
    first = FIRST_US // DAY_US
    days = [Day(events=300 if (first + number) % 7 in (2, 3) else 900) for number in range(42)]
    assert "labels/feed/volume" not in raised(judged(days))
    days += [Day(events=250)] * 7
    assert raised(judged(days))["labels/feed/volume"] > 42.0


def test_an_evidence_says_what_it_was_before_and_of_how_many_labels():
    found = judged([*BEFORE, *[Day(events=900, wrong=0.25)] * 2])
    one = next(one for one in found if one.name == "concept/score/loss" and one.strength >= RAISES)
    before, now = one.evidence.shares["loss"]
    assert one.value == pytest.approx(now - before, abs=1e-5)
    assert one.strength == pytest.approx(one.value / one.threshold)
    assert one.evidence.reference.count > 12_000 > one.evidence.current.count > 50
    assert one.evidence.reference.end_us <= one.evidence.current.start_us
    # The change began with the events of day 20; their labels came one to three hours later.
    assert FIRST_US + 19.9 * DAY_US < one.evidence.current.start_us < FIRST_US + 20.3 * DAY_US


def test_a_part_that_stays_worse_is_left_alone_when_the_score_is_as_before():
    rows = upto([*BEFORE, *[Day(events=900)] * 5])
    late = rows.times_us >= FIRST_US + 20 * DAY_US
    rows.parts["lightgbm"][late] = 1 - rows.parts["lightgbm"][late]
    found = signals(WATCHED, reports(WATCHED, rows))
    assert set(raised(found)) >= {"concept/lightgbm/loss"}
    assert not [one for one in raised(found) if one.startswith("concept/score")]
    assert 21.0 < quiet_from(found, "concept/lightgbm/loss") < 22.0


def test_a_part_that_stays_worse_is_told_as_long_as_the_score_is_worse():
    found = judged([*BEFORE, *[Day(events=900, wrong=0.3)] * 6])
    told = [one for one in found if one.name == "concept/lightgbm/loss"]
    assert day_of(told[-1]) > 25.5
    assert min(one.strength for one in told) >= RAISES


def test_labels_of_an_outage_and_the_time_outs_after_it_are_no_change_of_the_concept():
    """Positives come after hours, that the others are none after two days of silence; for a day and a half nothing comes.

    Scores are much worse for positives, so whoever counts labels as they come sees a loss that jumps up and down.
    """
    rows = upto([Day(events=2_000, positives=0.1, wrong=0.0, silent=True, delays_h=(48.0, 5.0))] * 30)
    positive = rows.codes == 1
    rows.score[positive] = 0.25
    begin, end = FIRST_US + 22 * DAY_US, FIRST_US + 22 * DAY_US + 36 * HOUR_US
    held = (rows.known_us >= begin) & (rows.known_us < end)
    counting, judge = LabelCounting(WATCHED), LabelJudge(WATCHED)
    found: list[Signal] = []
    changes: list[LossChange] = []

    def take(made):
        changes.extend(one for one in made if isinstance(one, LossChange))
        found.extend(signal for report in made for signal in judge.judge(report))

    for record in cut(rows.select(rows.known_us < begin)):
        take(counting.step(record))
    take(counting.hear("0", begin // 1_000, (begin + 2 * HOUR_US) // 1_000))
    # Labels that the feed held back come all at once, then every time-out that waited.
    for kind in (MATCHED, SILENT):
        named = np.array([one == kind for one in rows.kinds])
        for record in cut(rows.select(held & named)):
            take(counting.step(record))
    take(counting.hear("0", None, end // 1_000))
    for record in cut(rows.select(rows.known_us >= end)):
        take(counting.step(record))
    assert set(raised(found)) == {"labels/feed/outage"}
    assert day_of([one for one in found if one.name == "labels/feed/outage"][-1]) < 24
    assert [one for one in changes if one.grown] == []


def test_an_outage_is_told_by_the_first_partition_and_over_with_the_last():
    judge, found = LabelJudge(WATCHED), []
    said = [("0", True, 10), ("1", True, 20), ("0", False, 30), ("1", False, 40)]
    for partition, stalled, at_ms in said:
        found.append(judge.judge(FeedState(partition, stalled, 5, at_ms, START_US)))
    assert [[one.strength >= RAISES for one in some] for some in found] == [[True], [True], [True], [False]]
    assert judge.judge(FeedState("1", False, 5, 50, START_US)) == []


def test_unknown_ids_are_told():
    judge = LabelJudge(WATCHED)
    found = []
    for hour in range(24 * 22):
        unknown = 30 if hour >= 24 * 20 else 1
        counts = {MATCHED: 100, UNKNOWN: unknown}
        start = FIRST_US + hour * HOUR_US
        found += judge.judge(LabelSlice(start, start + HOUR_US, counts, 0, {"0": 100}, {90: 100}, [], []))
    assert {name: int(day) for name, day in raised(found).items()} == {"labels/feed/unknown_ids": 20}


def test_labels_of_one_class_for_weeks_and_slices_of_a_year_ago_are_nothing():
    days = [Day(events=300, positives=0.0, wrong=0.05)] * 30
    found = reports(WATCHED, upto(days))
    judge = LabelJudge(WATCHED)
    assert [one for report in found for one in judge.judge(report) if one.strength >= RAISES] == []
    state = judge.state()
    old = next(one for one in found if isinstance(one, LabelSlice))
    assert judge.judge(old) == []
    assert judge.state() == state


def test_after_a_year_without_labels_everything_begins_anew():
    first = reports(WATCHED, upto(BEFORE))
    judge = LabelJudge(WATCHED)
    for report in first:
        judge.judge(report)
    year = 365 * DAY_US
    late = LabelSlice(FIRST_US + year, FIRST_US + year + HOUR_US, {MATCHED: 3}, 0, {"0": 3}, {80: 3}, [], [])
    assert judge.judge(late) == []
    assert (
        judge.judge(msgspec.structs.replace(late, start_us=late.end_us, end_us=late.end_us + HOUR_US)) == []
    )


def test_a_loss_that_shrinks_or_grows_by_less_than_days_differ_is_no_alarm():
    before = LabelJudge(WATCHED)
    for report in reports(WATCHED, upto(BEFORE)):
        before.judge(report)
    at_us, cut_us = FIRST_US + 20 * DAY_US, FIRST_US + 20 * DAY_US - HOUR_US
    older = Side(10_000, 0.10, 0.02, FIRST_US, cut_us)
    told = []
    for mean in (0.02, 0.11, 0.2):
        judge = LabelJudge(WATCHED)
        judge.restore(before.state())
        newer = Side(400, mean, 0.02, cut_us, at_us)
        found = judge.judge(LossChange("score", "", "known", at_us, older, newer))
        told.append([one.strength >= RAISES for one in found])
    assert told == [[], [], [True]]


@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_losses_of_other_kinds_are_judged_as_well(kind):
    watched = pipeline(kind, horizon="3d", drift=Drift(time_slice="2h"))
    rows = upto([Day(events=1_000)] * 22)
    late = rows.times_us >= FIRST_US + 20 * DAY_US
    source = np.random.default_rng(4)
    size = len(rows)
    if kind == "regression":
        codes = source.normal(10, 3, size)
        score = codes + source.standard_t(3, size) * np.where(late, 3, 1)
    else:
        codes = source.integers(0, 3, size).astype(float)
        wrong = source.random(size) < np.where(late, 0.4, 0.1)
        said = (codes + wrong) % 3
        score = np.where(np.arange(3) == said[:, None], 0.8, 0.1)
    changed = type(rows)(**{**vars(rows), "codes": codes, "score": score, "parts": {"lightgbm": score}})
    found = raised(signals(watched, reports(watched, changed)))
    assert 20.0 < found["concept/score/loss"] < 21.0
    assert min(found.values()) > 20.0


def test_a_history_is_the_sum_of_what_came_and_forgets_what_is_older_than_its_blocks():
    source = np.random.default_rng(0)
    history, all_rows = LabelHistory(DAY_US, HOUR_US), []
    time_us = FIRST_US
    for _ in range(2_000):
        time_us += int(source.exponential(HOUR_US))
        history.add(time_us, {"labels": 1})
        all_rows.append(time_us)
        low, high = history.now_us - history.window_us, history.now_us
        if history.complete:
            assert history.window()["labels"] == sum(low <= one < high for one in all_rows)
    assert len(history.blocks) <= BLOCKS
    for start_us, counts in history.full_blocks():
        assert counts["labels"] == sum(start_us <= one < start_us + DAY_US for one in all_rows)
    starts = [start for start, _ in history.blocks]
    assert all(later - earlier == DAY_US for earlier, later in pairwise(starts))


def test_a_threshold_follows_from_how_much_windows_differ_and_how_often_it_may_be_wrong():
    past = [Measure(float(value), 0.1, float(value)) for value in np.random.default_rng(1).normal(5, 1, 20)]
    often, seldom = (deviation(Measure(9.0, 0.1, 9.0), past, chance) for chance in (0.01, 0.0001))
    usual = deviation(Measure(6.0, 0.1, 6.0), past, 0.01)
    assert often
    assert seldom
    assert usual
    assert often.threshold < seldom.threshold
    assert often.strength > 1.0 > usual.strength
    assert deviation(Measure(9.0, 0.1, 9.0), past[:13], 0.01) is None
    assert quantile(0.001, 13) > quantile(0.001, 1000) > 3.0
    assert share(3, 10) is None
    assert calibration([]) is None


def test_a_state_that_is_none_is_refused():
    with pytest.raises(SnapshotError):
        LabelJudge(WATCHED).restore(b"junk")
