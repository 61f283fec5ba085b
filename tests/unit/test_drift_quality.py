"""The report's lines over time: labels, losses, and what the scores let expect beside what came true."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from driftwood.drift_quality import EXPECTED, TRUE, estimate_panels, label_panels, loss_panels
from features.durations import DAY_US, HOUR_US
from features.plan import Floats
from models.drift.cohorts import score_bins
from models.drift.columns import Column
from models.drift.label_reports import (
    LOSS_UNITS,
    SCORE_UNITS,
    Cohort,
    FeedState,
    LabelReport,
    LabelSlice,
    Losses,
    LossSums,
)
from models.drift.time_slice import Counting, TimeSlice, WatchedRows
from models.maturity import delay_bin
from models.outcomes import MATCHED, SILENT, UNKNOWN

COLUMNS = (Column("country", "category", "field"), Column("score", "probability", "score"))
BEGIN_US = 19_800 * DAY_US


def slice_of(start_us: int, scores: Floats) -> TimeSlice:
    counting = Counting(COLUMNS, start_us, HOUR_US)
    counting.add(
        WatchedRows(np.full(len(scores), start_us), scores[:, None], [pa.array(["DE"] * len(scores))])
    )
    return counting.closed()


def labels_of(start_us: int, matched: int, positives: int, unknown: int = 0, **more: object) -> LabelSlice:
    delays = {int(delay_bin(np.array([2 * DAY_US]))[0]): matched}
    classes = {"0": matched - positives, "1": positives}
    outcomes = {MATCHED: matched, SILENT: 5, UNKNOWN: unknown}
    given = {"losses": [], "cohorts": []} | more
    return LabelSlice(start_us, start_us + HOUR_US, outcomes, 0, classes, delays, **given)  # type: ignore[arg-type]


def test_labels_are_told_by_the_day_on_which_they_became_known() -> None:
    reports: list[LabelReport] = [
        FeedState("0", stalled=True, since_ms=0, at_ms=1, at_us=BEGIN_US),
        labels_of(BEGIN_US, 60, 6),
        labels_of(BEGIN_US + 23 * HOUR_US, 40, 14),
        labels_of(BEGIN_US + DAY_US, 90, 9, unknown=10),
    ]
    panels = label_panels(reports)
    noons = [BEGIN_US + DAY_US // 2, BEGIN_US + DAY_US + DAY_US // 2]
    # Of the second day one hour is over.
    assert panels["labels an hour, by day"]["labels"] == list(zip(noons, [100 / 24, 90.0], strict=True))
    assert panels["share of a class"] == {"1": list(zip(noons, [0.2, 0.1], strict=True))}
    assert [share for _, share in panels["share of labels for unknown ids"]["labels"]] == [0.0, 0.1]
    assert [days for _, days in panels["mean delay of a label, in days"]["labels"]] == pytest.approx(
        [2, 2], rel=0.1
    )


def test_without_labels_there_is_nothing_to_draw() -> None:
    stalled = FeedState("0", stalled=True, since_ms=0, at_ms=1, at_us=BEGIN_US)
    assert label_panels([stalled]) == {} and loss_panels([stalled]) == {}


def test_losses_are_means_over_all_classes_and_segments_stay_out() -> None:
    def losses(subject: str, segment: str, **by_class: tuple[int, float]) -> Losses:
        sums = {name: LossSums(n, round(n * mean * LOSS_UNITS), 0) for name, (n, mean) in by_class.items()}
        return Losses(subject, segment, sums)

    told = [
        losses("score", "", no=(30, 0.1), yes=(10, 0.5)),
        losses("score", "country=DE", no=(30, 0.9)),
        losses("tree", "", no=(10, 0.4)),
    ]
    (lines,) = loss_panels([labels_of(BEGIN_US, 40, 10, losses=told)]).values()
    assert {name: round(line[0][1], 6) for name, line in lines.items()} == {"score": 0.2, "tree": 0.4}


def test_what_came_true_is_the_auc_of_the_labels_and_calibrated_scores_let_expect_it() -> None:
    random = np.random.default_rng(5)
    scores = 1 / (1 + np.exp(-random.normal(-2, 1.5, 40_000)))
    truth = random.random(len(scores)) < scores
    found = estimate_panels(
        [slice_of(BEGIN_US, scores)], [labels_of(0, 1, 1, cohorts=[cohort(scores, truth)])], COLUMNS, DAY_US
    )
    ((at_us, expected),), ((true_at_us, true),) = found["AUC"][EXPECTED], found["AUC"][TRUE]
    assert at_us == true_at_us == BEGIN_US + DAY_US // 2
    # Scores of one bin, a step of 1 in their log odds, count as equal.
    assert true == pytest.approx(roc_auc_score(truth, scores), abs=0.02)
    assert expected == pytest.approx(true, abs=0.01)
    assert found["log loss"][TRUE][0][1] == pytest.approx(log_loss(truth, scores), abs=0.01)


def test_where_scores_come_to_mean_something_else_the_expectation_stays_and_the_truth_moves() -> None:
    random = np.random.default_rng(6)
    scores = 1 / (1 + np.exp(-random.normal(-2, 1.5, 40_000)))
    truth = random.random(len(scores)) < 0.15
    found = estimate_panels(
        [slice_of(BEGIN_US, scores)], [labels_of(0, 1, 1, cohorts=[cohort(scores, truth)])], COLUMNS, DAY_US
    )
    assert found["AUC"][EXPECTED][0][1] > 0.75
    assert found["AUC"][TRUE][0][1] == pytest.approx(0.5, abs=0.02)


def test_few_events_few_positives_and_scores_that_are_no_probabilities_give_no_line() -> None:
    scores = np.full(1_000, 0.001)
    assert estimate_panels([slice_of(BEGIN_US, scores)], [], COLUMNS, DAY_US) == {}
    assert estimate_panels([slice_of(BEGIN_US, scores[:10])], [], COLUMNS, DAY_US) == {}
    assert estimate_panels([], [], (Column("score", "number", "score"),), DAY_US) == {}


def cohort(scores: Floats, truth: npt.NDArray[np.bool_]) -> Cohort:
    bins = score_bins(scores)
    told = {
        at: (int(here.sum()), round(scores[here].sum() * SCORE_UNITS), int(truth[here].sum()))
        for at in np.unique(bins).tolist()
        for here in [bins == at]
    }
    classes = {"0": int((~truth).sum()), "1": int(truth.sum())}
    return Cohort(BEGIN_US, BEGIN_US + HOUR_US, classes, LossSums(0, 0, 0), {"score": told})
