"""Labels that come late, and not at random: positives within the hour, negatives after most of a day."""

from typing import Any

import numpy as np
import pytest

from driftwood import Blend
from models.blend import log_odds, probability
from models.blend_scorer import BlendScorer
from models.learning import Learning
from models.maturity import LEAST_LABELS, Judged, Maturity
from models.state_bytes import pack_state, unpack_state
from tests.served_outcomes import HOUR_US, NAN, START_US, RateSpec, matured, pipeline

DAY_US = 24 * HOUR_US
POSITIVE_US, NEGATIVE_US = HOUR_US, 20 * HOUR_US


def judged(hashes, times_us, delays_us, codes=None):
    hashes = np.asarray(hashes, np.uint64)
    times_us = np.broadcast_to(np.asarray(times_us, np.int64), hashes.shape).copy()
    codes = np.zeros(len(hashes)) if codes is None else np.asarray(codes, np.float64)
    return Judged(
        hashes,
        times_us,
        times_us + delays_us,
        codes,
        np.ones(len(hashes)),
        codes.astype(np.int64),
        {"champion": np.arange(len(hashes), dtype=np.float64)},
    )


def taken(maturity, rows, now_us=None):
    maturity.hold(rows, int(rows.known_us.max()) if now_us is None else now_us)
    return maturity.release()


# ---- the world in which a naive blend is fooled


def arrivals(hours, an_hour, rng):
    """(event ids, times, known times, codes, true probabilities) in the order in which labels become known."""
    counts = [an_hour(hour) for hour in range(hours)]
    times = np.concatenate(
        [START_US + hour * HOUR_US + rng.integers(0, HOUR_US, count) for hour, count in enumerate(counts)]
    )
    truth = rng.beta(2.0, 6.0, len(times))
    codes = (rng.random(len(times)) < truth).astype(np.float64)
    known = times + np.where(codes == 1, POSITIVE_US, NEGATIVE_US)
    order = np.argsort(known, kind="stable")
    return np.arange(len(times))[order], times[order], known[order], codes[order], truth[order]


def run(blend, hours, an_hour):
    """A learning side that sees, in the order of labels, a champion that is right and a learner that always exaggerates.

    Gives, hour by hour of label time, the weight of the learner and what is answered where 25 % is the truth.
    """
    learner = RateSpec("exaggerates")
    declared = pipeline(online=[learner], horizon="1d", blend=blend)
    learning, seen = Learning(declared), []
    ids, times, known, codes, truth = arrivals(hours, an_hour, np.random.default_rng(7))
    exaggerated = probability(log_odds(truth) + 1.5)
    for hour in range(hours):
        now = (START_US + hour * HOUR_US <= known) & (known < START_US + (hour + 1) * HOUR_US)
        if not now.any():
            continue
        parts = {"lightgbm": truth[now], learner.name: exaggerated[now]}
        learning.step(
            matured(
                codes[now],
                truth[now],
                parts=parts,
                ids=[f"e{number}" for number in ids[now]],
                times_us=times[now],
                delays_us=known[now] - times[now],
            )
        )
        scoring = unpack_state(learning.scoring())
        seen.append((scoring["weights"].get(learner.name, 0.0), answered(declared, learning)))
    return np.array(seen)


class Quarter:
    """A champion that says 25 %."""

    name, version, feature_hash, threshold, flags = "lightgbm", "lightgbm-1", "", 0.5, ()

    def score(self, matrix):
        return np.full(len(matrix), 0.25)

    def unseen_categories(self, matrix):
        return np.zeros(len(matrix), np.bool_)


def answered(declared, learning):
    """What is answered where the champion says 25 %, the learner's part left aside."""
    scorer = BlendScorer(declared, Quarter(), learning.scoring())
    scorer._learners.clear()
    return float(scorer.score(matured([0.0], [0.5]).matrix)[0])


def busy(**settings: Any) -> Blend:
    """Weights that move within a day."""
    return Blend(rate=0.1, floor=0.1, **settings)


@pytest.mark.parametrize(
    ("name", "an_hour"),
    [
        ("the first day", lambda hour: 200),
        ("a stream that grows tenfold on its fourth day", lambda hour: 60 if hour < 72 else 600),
    ],
)
def test_a_naive_blend_is_fooled_by_positives_that_come_early_and_ours_is_not(name, an_hour):
    naive = run(busy(mature_after="1s"), 120, an_hour)
    ours = run(busy(), 120, an_hour)
    assert (
        naive[:, 0].max() > 0.5 and naive[:, 1].max() > 0.4
    )  # it believes the one that exaggerates, and joins in
    assert ours[:, 0].max() < 0.1
    assert np.abs(ours[:, 1] - 0.25).max() < 0.08  # the first hundred mature outcomes are few
    assert np.abs(ours[60:, 1] - 0.25).max() < 0.03


def test_calibration_is_learnt_from_every_outcome_once_however_late():
    ours = Learning(pipeline(blend=Blend(mature_after="20h")))
    ids, times, known, codes, truth = arrivals(72, lambda hour: 100, np.random.default_rng(1))
    for start in range(0, len(ids), 50):
        piece = slice(start, start + 50)
        ours.step(
            matured(
                codes[piece],
                truth[piece],
                ids=[f"e{number}" for number in ids[piece]],
                times_us=times[piece],
                delays_us=known[piece] - times[piece],
            )
        )
    figures = ours.figures()
    assert figures["calibrator"]["rows"] + figures["maturity"]["held"] == len(ids) == figures["matured"]


# ---- how it works


def test_a_cohort_waits_for_the_horizon_while_no_delay_is_known():
    maturity = Maturity(DAY_US, 2)
    assert maturity.after_us == DAY_US
    assert taken(maturity, judged([1, 2], START_US, HOUR_US)) == []
    assert taken(maturity, judged([3], START_US + DAY_US, 0)) == [] and maturity.held == 3
    (ready,) = taken(maturity, judged([4], START_US + 2 * DAY_US, 0))[:1]
    assert ready.hashes.tolist() == [1, 2]


def test_the_delay_is_that_of_the_slowest_class_and_learnt_from_closed_cohorts_only():
    maturity, number = Maturity(DAY_US, 2), 0
    for hour in range(24 * 4):
        time_us = START_US + hour * HOUR_US
        for code, delay_us in ((1, POSITIVE_US), (0, NEGATIVE_US)):
            rows = judged(np.arange(number, number + 10), time_us, delay_us, np.full(10, code))
            taken(maturity, rows, time_us)
            number += 10
        if hour < 24:
            assert maturity.after_us == DAY_US, "no cohort is closed yet"
    assert NEGATIVE_US <= maturity.after_us <= NEGATIVE_US * 1.1
    assert maturity.figures()["learnt"] == 1.0


def test_a_class_with_few_labels_counts_with_its_longest_delay():
    maturity = Maturity(DAY_US, 2)
    taken(maturity, judged(np.arange(LEAST_LABELS), START_US, HOUR_US))
    taken(maturity, judged([1_000], START_US, 15 * HOUR_US, [1.0]))
    taken(maturity, judged([1_001], START_US + 3 * DAY_US, 0))
    assert 15 * HOUR_US <= maturity.after_us <= 16.5 * HOUR_US


def test_what_is_declared_is_not_learnt():
    maturity = Maturity(DAY_US, 2, mature_after_us=2 * HOUR_US)
    taken(maturity, judged(np.arange(500), START_US, 10 * HOUR_US))
    assert maturity.after_us == 2 * HOUR_US and maturity.figures()["learnt"] == 0.0


def test_a_label_for_a_mature_cohort_is_handed_on_at_once_in_the_order_of_event_time():
    maturity = Maturity(DAY_US, 2, mature_after_us=HOUR_US)
    late = judged([1, 2, 3], START_US, 9 * HOUR_US)
    late.times_us[:] += [3, 1, 2]
    (ready,) = taken(maturity, late)
    assert ready.hashes.tolist() == [2, 3, 1] and maturity.held == 0


def test_a_held_outcome_is_corrected_and_taken_out():
    maturity = Maturity(DAY_US, 2)
    taken(maturity, judged([1, 2, 3], START_US, HOUR_US))
    maturity.correct(1, START_US, 1.0)
    maturity.correct(2, START_US, NAN)
    maturity.correct(99, START_US, 1.0)
    assert maturity.held == 2
    (ready,) = [
        piece for piece in taken(maturity, judged([4], START_US + 3 * DAY_US, 0)) if 1 in piece.hashes
    ]
    assert dict(zip(ready.hashes.tolist(), ready.codes.tolist(), strict=True)) == {1: 1.0, 3: 0.0}


def test_held_outcomes_are_bounded_and_thinned_alike_for_early_and_late_labels():
    rng = np.random.default_rng(2)
    maturity = Maturity(DAY_US, 2, most_held=1_000)
    hashes = rng.integers(0, 2**63, 8_000).astype(np.uint64)
    codes = (rng.random(8_000) < 0.25).astype(np.float64)
    order = np.argsort(codes == 0, kind="stable")  # all positives first
    for start in range(0, 8_000, 200):
        rows = order[start : start + 200]
        taken(maturity, judged(hashes[rows], START_US, HOUR_US, codes[rows]))
        assert maturity.held <= 1_000
    ready = taken(maturity, judged([0], START_US + 3 * DAY_US, 0))[0]
    assert maturity.thinned == 8_000 - len(ready)
    assert ready.codes.mean() == pytest.approx(0.25, abs=0.06)


def test_cohorts_that_are_done_leave_no_memory():
    maturity = Maturity(DAY_US, 2)
    for day in range(60):
        taken(maturity, judged(np.arange(20) + day * 20, START_US + day * DAY_US, HOUR_US))
    assert len(maturity.state()["delays"]) <= 3 and maturity.held <= 60


def test_a_state_goes_on_bit_for_bit():
    rng = np.random.default_rng(3)
    one = Maturity(DAY_US, 2, most_held=300)
    for step in range(60):
        rows = judged(
            rng.integers(0, 2**63, 40), START_US + step * 2 * HOUR_US, HOUR_US, rng.integers(0, 2, 40)
        )
        other = Maturity(DAY_US, 2, most_held=300)
        other.restore(unpack_state(pack_state(one.state())))
        found, wanted = taken(other, rows), taken(one, rows)
        assert [piece.hashes.tolist() for piece in found] == [piece.hashes.tolist() for piece in wanted]
        assert pack_state(one.state()) == pack_state(other.state())
