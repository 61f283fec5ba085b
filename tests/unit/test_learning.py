"""Learning: measured first, weighed by what is mature, then learnt; and what is done with a learner that breaks."""

import logging

import numpy as np
import pytest

from driftwood import Blend, scaled_logistic
from features.errors import DeveloperError, SnapshotError
from models.blend import CHAMPION, ENTRY, log_odds, probability
from models.guard import LEAST_OUTCOMES
from models.learning import Learning
from models.outcomes import CENSORED, CORRECTED, EXPIRED, MATCHED, SILENT
from models.snapshot import made_here
from models.state_bytes import pack_state, unpack_state
from models.weighing import LEAST_JUDGEMENTS
from tests.served_outcomes import HOUR_US, NAN, SECOND_US, START_US, RateSpec, matured, pipeline

AT_ONCE = Blend(mature_after="1s", rate=0.2)


def rate_of(learning, name="rate"):
    return learning._learners[name].model


def fed(learning, records, size=100, seed=1, says=None, name="rate", part="lightgbm"):
    """Records of a champion that is right and a learner that says `says` (a number, or a function of the truth)."""
    rng = np.random.default_rng(seed)
    for number in range(records):
        truth = rng.beta(2.0, 4.0, size)
        codes = (rng.random(size) < truth).astype(np.float64)
        said = truth if says is None else says(truth) if callable(says) else np.full(size, says)
        first = (seed * 1_000 + number) * size
        learning.step(matured(codes, truth, parts={part: truth, name: said}, first=first))
    return learning


def row(learning, name="rate"):
    return learning.figures()["models"][name]


def weights(learning):
    return unpack_state(learning.scoring())["weights"]


# ---- a label feed that is stalled


def test_while_the_label_feed_is_stalled_weights_and_calibrator_stand_still_and_catch_up_afterwards(caplog):
    def after(*stalls: int | None) -> Learning:
        learning = Learning(pipeline(online=[RateSpec()], blend=AT_ONCE))
        fed(learning, 5, says=0.9)
        for since_ms in stalls:
            learning.label_feed("0", since_ms)
        return learning

    frozen, free = after(1_700_000_000_000), after()
    before = weights(frozen)
    assert frozen.figures()["frozen"] == "label feed stalled since 2023-11-14T22:13:20Z"
    for learning in (frozen, free):
        fed(learning, 5, seed=2, says=0.9)
    assert weights(frozen) == before != weights(free)
    assert row(frozen)["learnt"] == row(free)["learnt"] == 1_000  # what did come is true, and learnt
    assert frozen.figures()["maturity"]["held"] > free.figures()["maturity"]["held"]
    frozen.label_feed("0", None)
    assert frozen.figures()["frozen"] is None
    for learning in (frozen, free):
        fed(learning, 1, seed=3, says=0.9)
    assert weights(frozen) != before
    assert frozen.figures()["maturity"]["held"] == free.figures()["maturity"]["held"]
    said = [record.message for record in caplog.records if "learning" in record.message]
    assert len(said) == 2


def test_a_frozen_learner_is_restored_frozen():
    learning = Learning(pipeline(online=[RateSpec()]))
    learning.label_feed("3", 1_700_000_000_000)
    restored = Learning.restore(learning._pipeline, made_here(learning.state()))
    assert restored.figures() == learning.figures()
    assert restored.state() == learning.state()
    restored.label_feed("3", None)
    assert restored.figures()["frozen"] is None


# ---- what is learnt, and in which order


def test_what_carries_a_code_is_learnt_in_order_and_a_correction_once_more():
    learning = Learning(pipeline(online=[RateSpec()]))
    learning.step(matured([1.0, NAN, NAN, 0.0], [0.5] * 4, kinds=[MATCHED, CENSORED, EXPIRED, SILENT]))
    learning.step(matured([0.0], [0.5], kinds=[CORRECTED], replaced=[1.0]))
    learning.step(matured([NAN], [0.5], first=9, kinds=[CENSORED]))
    assert rate_of(learning).learnt == [[1.0, 0.0], [0.0]]
    assert row(learning)["learnt"] == 3
    assert learning.figures()["outcomes"] == {CENSORED: 2, CORRECTED: 1, EXPIRED: 1, MATCHED: 1, SILENT: 1}


def test_the_served_scores_are_measured_and_nothing_is_scored_by_a_model_that_knows_the_label():
    learning = Learning(pipeline(online=[RateSpec()]))
    learning.step(matured([1.0, 1.0, 0.0], [0.2, 0.3, 0.9], parts={"lightgbm": [0.6, 0.6, 0.4]}))
    figures = learning.figures()["models"]
    assert figures["blend"]["total"]["auc"] == 0.0 and figures["lightgbm"]["total"]["auc"] == 1.0
    assert figures["rate"]["total"] == {"rows": 0}


def test_features_of_learnt_rows_are_those_that_were_served():
    declared = pipeline(online=[scaled_logistic()])
    one, other = Learning(declared), Learning(declared)
    values = np.random.default_rng(1).normal(size=(60, 2))
    codes = (values[:, 0] > 0).astype(np.float64)
    kinds = [CENSORED if number % 3 == 0 else MATCHED for number in range(60)]
    kept = np.array([kind == MATCHED for kind in kinds])
    one.step(matured(np.where(kept, codes, NAN), np.full(60, 0.5), kinds=kinds, values=values))
    other.step(matured(codes[kept], np.full(kept.sum(), 0.5), values=values[kept]))
    learners = [unpack_state(learning.scoring())["learners"] for learning in (one, other)]
    assert learners[0] == learners[1]


def test_an_empty_record_and_one_without_labels_are_taken():
    learning = Learning(pipeline(online=[RateSpec()]))
    learning.step(matured([], []))
    learning.step(matured([NAN], [0.5], kinds=[EXPIRED]))
    assert learning.figures()["matured"] == 0


# ---- the weights


def test_a_learner_answers_only_after_it_was_judged_by_enough_mature_outcomes():
    learning = fed(Learning(pipeline(online=[RateSpec()], blend=AT_ONCE)), 1, LEAST_JUDGEMENTS - 60)
    assert weights(learning) == {CHAMPION: 1.0}
    fed(learning, 1, 200, seed=2)
    assert weights(learning)["rate"] == pytest.approx(ENTRY, abs=0.02)


def test_while_no_cohort_is_mature_the_champion_answers_alone():
    learning = fed(Learning(pipeline(online=[RateSpec()], horizon="30d")), 20)
    assert weights(learning) == {CHAMPION: 1.0} and learning.figures()["calibrator"]["rows"] == 0


def test_weight_goes_to_whoever_was_right():
    better = fed(Learning(pipeline(online=[RateSpec()], blend=AT_ONCE)), 30, says=None)
    rng = np.random.default_rng(5)
    for number in range(60):
        truth = rng.beta(2.0, 4.0, 100)
        codes = (rng.random(100) < truth).astype(np.float64)
        worse = probability(log_odds(truth) - 2.0)
        parts = {"lightgbm": worse, "rate": truth}
        better.step(matured(codes, truth, parts=parts, first=(9_000 + number) * 100))
    assert weights(better)["rate"] > 0.7
    assert row(better, "lightgbm")["weight"] == weights(better)[CHAMPION] >= AT_ONCE.floor - 1e-12
    assert row(better, "blend")["weight"] is None


def test_another_champion_inherits_nothing_that_the_fallback_earned():
    learning = fed(
        Learning(pipeline(online=[RateSpec()], blend=AT_ONCE)), 40, says=lambda truth: truth, part="fallback"
    )
    learning._weighing.weights.weights = {CHAMPION: 0.2, "rate": 0.8}
    fed(learning, 1, 1, seed=3, part="lightgbm")
    assert weights(learning) == pytest.approx({CHAMPION: 1 - ENTRY, "rate": ENTRY}, abs=1e-3)
    assert learning.figures()["calibrator"]["rows"] <= 1
    before = weights(learning)
    fed(
        learning, 1, 50, seed=4, says=0.3, part="fallback"
    )  # the operator's switch: says nothing of the champion
    assert weights(learning) == before


def test_a_held_out_event_weighs_more_but_never_throws_the_weights_over():
    learning = fed(Learning(pipeline(online=[RateSpec()], blend=AT_ONCE)), 5)
    before = weights(learning)["rate"]
    learning.step(
        matured([1.0], [0.01], parts={"lightgbm": [0.01], "rate": [0.99]}, first=900_000, propensities=1e-6)
    )
    fed(learning, 1, 1, seed=9_000)
    assert before < weights(learning)["rate"] < 1 - AT_ONCE.floor + 1e-12


def test_weights_of_a_regression_are_in_units_of_the_champions_error():
    found = []
    for unit in (1.0, 1e6):
        learning = Learning(pipeline("regression", online=[RateSpec()], blend=AT_ONCE))
        rng = np.random.default_rng(6)
        for number in range(30):
            codes = rng.normal(0.0, 1.0, 100)
            parts = {"lightgbm": (codes + 1.0) * unit, "rate": (codes + rng.normal(0, 0.1, 100)) * unit}
            learning.step(matured(codes * unit, codes * unit, parts=parts, first=number * 100))
        found.append(weights(learning)["rate"])
    assert found[0] > 0.6 and found[0] == pytest.approx(found[1], rel=1e-6)


# ---- learners that correct the champion


def test_a_learner_over_the_champion_is_handed_what_the_champion_in_service_said():
    learning = Learning(pipeline(online=[RateSpec(over_champion=True)]))
    learning.step(matured([1.0, 0.0, 1.0], [0.3] * 3, parts={"lightgbm": [0.5, NAN, 0.2]}))
    model = rate_of(learning)
    assert model.learnt == [[1.0, 1.0]] and model.seen.names == ("x", "y", "champion said")
    assert model.seen.values[:, 2] == pytest.approx(log_odds(np.array([0.5, 0.2])))


def test_a_learner_over_the_champion_begins_anew_with_another_champion_and_others_go_on():
    learning = Learning(pipeline(online=[RateSpec(over_champion=True), RateSpec("plain")]))
    fed(learning, 2, part="fallback")
    fed(learning, 1, 10, seed=2, part="lightgbm")
    assert rate_of(learning).count == 10 and rate_of(learning, "plain").count == 210
    fed(
        learning, 1, 10, seed=3, part="fallback"
    )  # the operator's switch: nothing to learn about the champion
    assert rate_of(learning).count == 10 and rate_of(learning, "plain").count == 220


def served_by(learning, version, first, rows=100, rate=0.9, code=1.0, hours=0):
    """Events a second apart from number `first` on, all answered by this version and by the learner `rate`."""
    times = START_US + (first + np.arange(rows)) * SECOND_US
    learning.step(
        matured(
            np.full(rows, code),
            np.full(rows, 0.6),
            parts={"lightgbm": np.full(rows, 0.6), "rate": np.full(rows, rate)},
            first=first,
            times_us=times,
            delays_us=HOUR_US * (1 + hours),
            champions=[version] * rows,
        )
    )


def test_another_version_of_the_champion_begins_anew_like_another_champion():
    learning = Learning(pipeline(online=[RateSpec(over_champion=True), RateSpec("plain")], blend=AT_ONCE))
    for number in range(8):
        served_by(learning, "v1", number * 100)
    assert weights(learning)["rate"] > 0.3 and learning.figures()["calibrator"]["rows"] > 500
    served_by(learning, "v2", 800)
    assert weights(learning) == {CHAMPION: 1.0}
    assert rate_of(learning).count == 100 and rate_of(learning, "plain").count == 900
    assert learning.figures()["calibrator"]["rows"] <= 100
    assert unpack_state(learning.scoring())["version"] == "v2"


def test_labels_of_the_champion_before_neither_teach_nor_judge_what_corrects_the_new_one():
    learning = Learning(pipeline(online=[RateSpec(over_champion=True), RateSpec("plain")], blend=AT_ONCE))
    served_by(learning, "v1", 0)
    served_by(learning, "v2", 10_000)
    taught, judged = rate_of(learning).count, learning.figures()["calibrator"]["rows"]
    for number in range(1, 9):
        served_by(learning, "v1", 100 * number, hours=24)  # served before the change, known after it
    assert rate_of(learning).count == taught == 100 and rate_of(learning, "plain").count == 1_000
    assert "rate" not in weights(learning)
    assert learning.figures()["calibrator"]["rows"] <= judged + 100
    served_by(learning, "v1", 20_000)  # rolled back
    assert unpack_state(learning.scoring())["version"] == "v1" and rate_of(learning).count == 100


def test_a_frozen_learner_stays_frozen_when_the_champion_changes(caplog):
    caplog.set_level(logging.CRITICAL)
    learning = Learning(pipeline(online=[RateSpec(over_champion=True)]))
    served_by(learning, "v1", 0)
    learning.freeze("rate")
    served_by(learning, "v2", 1_000)
    assert row(learning)["frozen"] == "by command"


def test_a_learner_over_another_champion_is_not_restored():
    learning = Learning(pipeline(online=[RateSpec(over_champion=True)]))
    served_by(learning, "v1", 0)
    older = made_here(learning.state())
    learning.restore_learner("rate", older)
    served_by(learning, "v2", 1_000)
    with pytest.raises(
        SnapshotError, match="learner rate of the older state corrects champion v1, and v2 is in service"
    ):
        learning.restore_learner("rate", older)


# ---- the guard-rails


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (RateSpec(says=float("inf"), breaks_at=300), "its scores are not finite"),
        (RateSpec(raises=True, breaks_at=300), "it raised RuntimeError"),
    ],
)
def test_a_learner_that_raises_or_says_what_is_no_number_is_frozen_and_drops_out(broken, reason, caplog):
    caplog.set_level(logging.CRITICAL)
    learning = Learning(pipeline(online=[broken, RateSpec("sound")], blend=AT_ONCE))
    fed(learning, 6, says=0.3, name="sound")
    assert row(learning)["frozen"] == reason and row(learning, "sound")["frozen"] is None
    assert row(learning)["learnt"] == 300 and row(learning, "sound")["learnt"] == 600
    assert "rate" not in weights(learning)
    assert list(unpack_state(learning.scoring())["learners"]) == ["sound"]


def test_a_learner_whose_loss_explodes_is_frozen_and_one_that_is_merely_bad_is_not(caplog):
    caplog.set_level(logging.CRITICAL)
    exploding = Learning(pipeline(online=[RateSpec()], blend=AT_ONCE))
    fed(exploding, LEAST_OUTCOMES // 100 + 1, says=lambda truth: np.where(truth < 0.5, 1.0, 0.0))
    assert row(exploding)["frozen"].startswith("its loss is ")
    assert "rate" not in weights(exploding)
    bad = fed(Learning(pipeline(online=[RateSpec()], blend=AT_ONCE)), 20, says=0.99)
    assert row(bad)["frozen"] is None and weights(bad)["rate"] < 0.01


def test_a_regression_that_runs_away_is_frozen(caplog):
    caplog.set_level(logging.CRITICAL)
    learning = Learning(pipeline("regression", online=[RateSpec()]))
    rng = np.random.default_rng(1)
    for number in range(10):
        codes = rng.normal(50.0, 3.0, 100)
        parts = {"lightgbm": codes + 1.0, "rate": codes + 1e4}
        learning.step(matured(codes, codes, parts=parts, first=number * 100))
    assert row(learning)["frozen"].startswith("its loss is ")


def test_the_reason_holds_no_address_so_equal_runs_stay_equal(caplog):
    caplog.set_level(logging.CRITICAL)
    declared = pipeline(online=[RateSpec(raises=True, breaks_at=100)])
    states = [fed(Learning(declared), 3, says=0.3).state() for _ in range(2)]
    assert states[0] == states[1]


# ---- commands


def test_a_frozen_learner_learns_nothing_until_it_is_reset(caplog):
    caplog.set_level(logging.CRITICAL)
    learning = fed(Learning(pipeline(online=[RateSpec()], blend=AT_ONCE)), 5)
    learning.freeze("rate")
    fed(learning, 2, seed=2)
    assert row(learning)["frozen"] == "by command" and row(learning)["learnt"] == 500
    learning.reset("rate")
    assert row(learning)["frozen"] is None and row(learning)["learnt"] == 0 and rate_of(learning).count == 0
    fed(learning, 1, seed=3)
    assert row(learning)["learnt"] == 100


def test_what_the_old_learner_served_says_nothing_of_the_one_that_began_anew():
    learning = fed(Learning(pipeline(online=[RateSpec()], horizon="1d")), 5)  # held: no cohort is mature
    learning.reset("rate")
    late = matured([1.0], [0.5], first=10_000_000)
    learning.step(late)
    assert learning.figures()["calibrator"]["rows"] >= 500
    assert learning._weighing._judgements["rate"] == 0


def test_a_learner_is_restored_from_an_older_state_and_earns_its_weight_anew(caplog):
    caplog.set_level(logging.CRITICAL)
    declared = pipeline(online=[RateSpec(), RateSpec("other")], blend=AT_ONCE)
    learning = fed(Learning(declared), 5)
    older = made_here(learning.state())
    fed(learning, 5, seed=2)
    learning.freeze("rate")
    learning.restore_learner("rate", older)
    assert rate_of(learning).count == 500 and rate_of(learning, "other").count == 1_000
    assert row(learning)["frozen"] is None and "rate" not in weights(learning)


def test_commands_that_cannot_be_obeyed_say_why():
    learning = Learning(pipeline(online=[RateSpec()]))
    for command in (learning.freeze, learning.reset):
        with pytest.raises(DeveloperError, match="there is no learner 'tree'; pipeline served has: rate"):
            command("tree")
    other = made_here(Learning(pipeline(online=[RateSpec("rate", breaks_at=5)])).state())
    with pytest.raises(SnapshotError, match="holds no learner rate of the same declaration"):
        learning.restore_learner("rate", other)
    with pytest.raises(SnapshotError, match="a learning state of format 9"):
        Learning.restore(pipeline(), pack_state({"format": 9}))
    with pytest.raises(SnapshotError, match="cannot be read"):
        Learning.restore(pipeline(), b"\x00\x01")


# ---- another pipeline file


def test_a_learner_that_is_new_or_declared_otherwise_begins_anew_and_the_rest_goes_on():
    before = pipeline(online=[RateSpec(), RateSpec("gone"), RateSpec("changed")], blend=AT_ONCE)
    state = fed(Learning(before), 5).state()
    after = pipeline(online=[RateSpec(), RateSpec("changed", breaks_at=1e9), RateSpec("new")], blend=AT_ONCE)
    learning = Learning.restore(after, made_here(state))
    counts = {name: rate_of(learning, name).count for name in ("rate", "changed", "new")}
    assert counts == {"rate": 500, "changed": 0, "new": 0}
    assert set(weights(learning)) == {CHAMPION, "rate"}
    assert learning.figures()["matured"] == 500


def test_a_pipeline_without_learners_is_measured_and_calibrated():
    learning = fed(Learning(pipeline(blend=AT_ONCE)), 5)
    assert learning.figures()["models"]["lightgbm"]["total"]["rows"] == 500
    assert learning.figures()["calibrator"]["rows"] > 400


def test_the_parts_of_a_learner_that_was_taken_out_are_measured_and_weigh_nothing():
    learning = fed(Learning(pipeline(blend=AT_ONCE)), 5, name="taken_out")
    assert row(learning, "taken_out")["total"]["rows"] == 500
    assert row(learning, "taken_out")["weight"] == 0.0 and weights(learning) == {CHAMPION: 1.0}


def test_without_calibration_none_is_handed_on():
    learning = fed(Learning(pipeline(blend=Blend(calibrate=False, mature_after="1s"))), 5)
    assert unpack_state(learning.scoring())["calibrator"] is None
