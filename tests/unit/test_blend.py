"""The blend's weights: the theorem they rest on, the floor, sleepers, and pooling row by row."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwood import Blend, PipelineError
from models.blend import CHAMPION, ENTRY, FixedShare, pooled

NAN = float("nan")


def weights_of(*names, **settings):
    weights = FixedShare(Blend(**settings))
    for name in names:
        weights.admit(name)
    return weights


@given(
    losses=st.lists(st.tuples(*[st.floats(0.0, 9.0)] * 3), min_size=1, max_size=60),
    share=st.floats(0.001, 0.3),
    data=st.data(),
)
def test_the_loss_is_within_the_bound_of_herbster_and_warmuth_of_every_sequence_of_models(
    losses, share, data
):
    weights = weights_of("a", "b", rate=1.0, share=share, floor=0.0)
    names, start, mixed = list(weights.weights), dict(weights.weights), 0.0
    for row in losses:
        mixed -= math.log(
            sum(w * math.exp(-loss) for w, loss in zip(weights.weights.values(), row, strict=True))
        )
        weights.update({name: np.array([loss]) for name, loss in zip(names, row, strict=True)}, np.ones(1))
    followed = data.draw(
        st.lists(st.integers(0, 2), min_size=len(losses), max_size=len(losses)), label="best models"
    )
    changes = sum(one != other for one, other in pairwise(followed))
    bound = (
        -math.log(start[names[followed[0]]])
        - changes * math.log(share / 3)
        - (len(losses) - 1 - changes) * math.log(1 - share + share / 3)
    )
    assert mixed <= sum(row[best] for row, best in zip(losses, followed, strict=True)) + bound + 1e-9


def test_it_follows_whoever_is_best_now_and_comes_back():
    weights = weights_of("logistic", rate=0.5, share=0.001, floor=0.1)
    good, bad = np.full(300, 0.3), np.full(300, 0.6)
    weights.update({CHAMPION: bad, "logistic": good}, np.ones(300))
    assert weights.weights["logistic"] > 0.85
    weights.update({CHAMPION: good, "logistic": bad}, np.ones(300))
    assert weights.weights[CHAMPION] > 0.85


@given(
    st.lists(st.tuples(st.floats(0.0, 9.2), st.floats(0.0, 9.2) | st.just(NAN)), max_size=80),
    st.floats(0.0, 1.0),
)
def test_weights_add_up_to_one_and_the_champion_never_falls_below_the_floor(losses, floor):
    weights = weights_of("logistic", rate=2.0, share=0.01, floor=floor)
    for champion, logistic in losses:
        weights.update({CHAMPION: np.array([champion]), "logistic": np.array([logistic])}, np.ones(1))
        assert sum(weights.weights.values()) == pytest.approx(1.0)
        assert weights.weights[CHAMPION] >= floor * (1 - 1e-12)


def test_a_model_that_sleeps_keeps_its_weight_and_the_others_share_theirs():
    weights = weights_of("a", "b", rate=1.0, share=0.0, floor=0.0)
    asleep = weights.weights["b"]
    weights.update({CHAMPION: np.full(20, 1.0), "a": np.full(20, 0.1), "b": np.full(20, NAN)}, np.ones(20))
    assert weights.weights["b"] == asleep and weights.weights["a"] > 0.9


def test_a_model_joins_with_a_small_weight_once_and_leaves_without_a_trace():
    weights = weights_of("a", "b", floor=0.0)
    assert weights.weights["b"] == ENTRY
    before = weights.weights["a"] / weights.weights[CHAMPION]
    weights.admit("a")
    weights.drop("b")
    assert weights.weights["a"] / weights.weights[CHAMPION] == pytest.approx(before)
    assert sum(weights.weights.values()) == pytest.approx(1.0)
    weights.drop(CHAMPION)
    assert CHAMPION in weights.weights


def test_losses_beyond_all_measure_leave_numbers():
    weights = weights_of("a", rate=50.0, share=0.0, floor=0.0)
    weights.update({CHAMPION: np.full(500, 9.0), "a": np.zeros(500)}, np.full(500, 10.0))
    weights.update({CHAMPION: np.zeros(500), "a": np.full(500, 9.0)}, np.full(500, 10.0))
    assert all(math.isfinite(weight) for weight in weights.weights.values())


def test_a_row_without_one_part_is_pooled_from_the_others_and_without_any_is_nothing():
    scores = {"a": np.array([0.2, NAN, NAN]), "b": np.array([0.2, 0.6, NAN])}
    for pool in ("logit", "linear"):
        mixed = pooled("binary", pool, scores, {"a": 0.7, "b": 0.3})
        assert mixed[:2] == pytest.approx([0.2, 0.6]) and np.isnan(mixed[2])


def test_pools_of_each_kind_by_hand():
    weights = {"a": 0.75, "b": 0.25}
    scores = {"a": np.array([0.2]), "b": np.array([0.6])}
    assert pooled("binary", "linear", scores, weights) == pytest.approx([0.3])
    odds = 0.25**0.75 * 1.5**0.25
    assert pooled("binary", "logit", scores, weights) == pytest.approx([odds / (1 + odds)])
    assert pooled("regression", "logit", scores, weights) == pytest.approx([0.3])
    classes = {"a": np.array([[0.5, 0.3, 0.2]]), "b": np.array([[0.1, 0.3, 0.6]])}
    product = classes["a"] ** 0.75 * classes["b"] ** 0.25
    assert pooled("multiclass", "logit", classes, weights) == pytest.approx(product / product.sum())
    assert pooled("multiclass", "linear", classes, weights) == pytest.approx(np.array([[0.4, 0.3, 0.3]]))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rate": -1}, "Blend(rate): -1; expected a number from 0 up"),
        ({"share": 1.5}, "Blend(share): 1.5; expected a number from 0 to 1"),
        ({"floor": True}, "Blend(floor): True; expected a number from 0 to 1"),
        ({"pool": "median"}, "Blend(pool): 'median'; expected 'logit' or 'linear'"),
        ({"mature_after": "soon"}, "Blend(mature_after)"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(settings, text):
    with pytest.raises(PipelineError) as error:
        Blend(**settings)
    assert text in str(error.value)
