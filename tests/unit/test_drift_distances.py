"""Distances by bin against the plain ones, bins that hold what they should, and what scores let expect."""

import numpy as np
import pyarrow as pa
import pytest

from models.drift.bins import CATEGORY_BINS, NUMBER_BINS, Bins
from models.drift.buckets import MISSING, category_bucket, number_buckets, probability_buckets
from models.drift.columns import Column
from models.drift.distances import largest_difference, share_distance, stability_index, total_variation
from models.drift.estimate import expected
from models.drift.findings import quantiles
from models.drift.season import cell_shares, cells_of, usual_rows
from models.drift.time_slice import Counting, WatchedRows

NUMBER = Column("amount", "number", "feature")
CATEGORY = Column("country", "category", "feature")
SCORE = Column("score", "probability", "score")


def histogram(buckets):
    return np.unique(buckets, return_counts=True)


def test_the_largest_difference_of_each_column_is_that_of_its_cumulative_shares():
    random = np.random.default_rng(1)
    widths = [2, 5, 17]
    starts = np.array([0, 2, 7])
    shares = [[random.dirichlet(np.ones(width)) for width in widths] for _ in range(2)]
    found = largest_difference(np.concatenate(shares[0]) - np.concatenate(shares[1]), starts)
    for place in range(3):
        one, other = np.cumsum(shares[0][place]), np.cumsum(shares[1][place])
        assert found[place] == pytest.approx(np.abs(one - other).max())


def test_total_variation_and_psi_are_zero_for_equals_and_symmetric():
    one, other = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    start = np.array([0])
    assert total_variation(one - one, start)[0] == 0 == stability_index(one, one, start)[0]
    assert total_variation(one - other, start)[0] == pytest.approx(0.4)
    assert stability_index(one, other, start)[0] == pytest.approx(stability_index(other, one, start)[0])
    assert np.isfinite(stability_index(np.array([1.0, 0.0]), np.array([0.0, 1.0]), start)).all()


def test_the_distance_of_shares_has_the_error_of_its_sample_whatever_the_share():
    random = np.random.default_rng(2)
    for share in (0.01, 0.3, 0.97):
        found = share_distance(random.binomial(2_000, share, 4_000) / 2_000, np.array(share), np.array(2_000))
        assert found.mean() == pytest.approx(0, abs=0.1)
        assert found.std() == pytest.approx(1, abs=0.06)


def test_bins_of_numbers_hold_equal_shares_and_have_room_outside():
    values = np.random.default_rng(3).lognormal(0, 1, 20_000)
    bins = Bins.of([NUMBER], [histogram(number_buckets(values))])
    counting = Counting([NUMBER], 0, 1)
    counting.add(WatchedRows(np.zeros(20_000, np.int64), values[:, None], []))
    counts, missing = bins.counted(counting.closed())
    assert counts[0] == counts[-1] == missing[0] == 0
    assert counts.sum() == 20_000
    assert counts[1:-1].max() < 1.6 * 20_000 / NUMBER_BINS
    outside = Counting([NUMBER], 0, 1)
    outside.add(
        WatchedRows(np.zeros(5, np.int64), np.array([[-np.inf], [-9.0], [1e9], [np.inf], [np.nan]]), [])
    )
    counts, missing = bins.counted(outside.closed())
    assert (counts[0], counts[-1], counts.sum(), missing[0]) == (2, 2, 4, 1)


def test_a_value_with_a_large_share_has_a_bin_of_its_own():
    values = np.concatenate([np.zeros(500), np.linspace(1, 2, 500)])
    bins = Bins.of([NUMBER], [histogram(number_buckets(values))])
    zero = number_buckets(np.zeros(1))[0]
    assert zero in bins.edges[0]
    assert zero - 1 in bins.edges[0]


def test_bins_of_categories_are_the_largest_the_rest_and_the_unseen():
    names = [f"c{number}" for number in range(200)]
    buckets = np.array([category_bucket(name) for name in names for _ in range(3 if name < "c2" else 1)])
    bins = Bins.of([CATEGORY], [histogram(buckets)])
    assert bins.widths[0] == CATEGORY_BINS + 2
    unseen = next(name for name in map(str, range(10_000)) if category_bucket(name) not in set(buckets))
    counting = Counting([CATEGORY], 0, 1)
    counting.add(WatchedRows(np.zeros(3, np.int64), np.zeros((3, 0)), [pa.array([unseen, None, names[0]])]))
    counts, missing = bins.counted(counting.closed())
    assert counts[-1] == 1 == missing[0]
    assert counts.sum() == 2


def test_a_column_without_values_in_the_reference_has_no_bins():
    bins = Bins.of(
        [NUMBER, SCORE], [histogram(np.full(9, MISSING)), histogram(probability_buckets(np.array([0.5])))]
    )
    assert bins.widths[0] == 0 < bins.widths[1]


def test_expected_metrics_are_those_that_labels_then_show_within_their_errors():
    random = np.random.default_rng(4)
    auc, loss = [], []
    for _ in range(200):
        scores = random.beta(0.5, 4, 1_500)
        labels = random.random(1_500) < scores
        found = expected(histogram(probability_buckets(scores)))
        ranks = np.argsort(np.argsort(scores)) + 1
        positives = labels.sum()
        true_auc = (ranks[labels].sum() - positives * (positives + 1) / 2) / positives / (1_500 - positives)
        true_loss = -np.log(np.where(labels, scores, 1 - scores)).mean()
        auc.append((true_auc - found.auc) / found.auc_error)
        loss.append((true_loss - found.log_loss) / found.log_loss_error)
    assert np.mean(auc) == pytest.approx(0, abs=0.25) == np.mean(loss)
    assert np.std(auc) == pytest.approx(1, abs=0.2) == np.std(loss)


def test_nothing_is_expected_of_no_scores():
    assert np.isnan(expected((np.zeros(0, np.int64), np.zeros(0, np.int64))).auc)
    assert quantiles("number", (np.array([MISSING]), np.array([5]))) is None


def test_shares_of_a_cell_are_drawn_towards_those_of_its_hours_when_it_has_few_rows():
    starts = np.arange(24 * 28, dtype=np.int64) * 3_600_000_000
    cells = cells_of(starts)
    sums = np.zeros((42, 2))
    for cell in range(42):
        rows = 5.0 if cell == 0 else 5_000.0
        sums[cell] = rows, rows * (0.8 if cell % 6 == 0 else 0.2)
    sums[0, 1] = 0
    parts_of = np.array([0, 0])
    shares = cell_shares(sums, parts_of, days=28)[:, 1]
    assert shares[6] == pytest.approx(0.8, abs=0.01)
    assert shares[1] == pytest.approx(0.2, abs=0.01)
    assert 0.7 < shares[0] < 0.8
    assert len(np.unique(cells)) == 42
    # In two weeks a day of the week was seen twice: its hours are compared with those of all days.
    assert len(np.unique(cell_shares(sums, parts_of, days=14)[:, 1].round(6))) == 2
    assert len(np.unique(cell_shares(sums, parts_of, days=2)[:, 1])) == 1


def test_usual_rows_are_those_of_the_hour_of_the_week_once_it_was_seen_three_times():
    hours = np.tile(np.arange(168), 3)
    rows = np.where(hours < 24, 10.0, 70.0)
    assert usual_rows(hours, rows, 1.0)[[0, 30]].tolist() == [10, 70]
    once = usual_rows(np.arange(168), rows[:168], 1.0)
    assert once[0] == once[30] == pytest.approx((10 + 6 * 70) / 7)
