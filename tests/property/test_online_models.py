"""Learners on random rows: how rows are cut matters to no score, and when a learner is stopped to no model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwood import bounded_tree, scaled_linear, scaled_logistic
from features.feature_set import FeatureMatrix
from models.champion_input import is_over_champion, with_champion
from models.online_model import taken
from models.snapshot import made_here
from tests.learner_rows import champion, codes_of, matrix, pipeline

OVER: dict[str, Any] = {"rows_per_step": 5, "over_champion": True}
SPECS: dict[str, list[Any]] = {
    "binary": [
        scaled_logistic(rows_per_step=5),
        bounded_tree(grace_period=20, tau=0.5),
        scaled_logistic("residual", soften=True, **OVER),
        scaled_logistic("residual_input", champion_input=True, **OVER),
    ],
    "multiclass": [
        scaled_logistic(rows_per_step=5),
        bounded_tree(grace_period=20, tau=0.5),
        scaled_logistic("residual", **OVER),
    ],
    "regression": [
        scaled_linear(rows_per_step=5),
        bounded_tree(grace_period=20, tau=0.5),
        scaled_linear("residual", champion_input=True, **OVER),
    ],
}
EVERY = [
    pytest.param(kind, spec, id=f"{kind}-{spec.name}") for kind, specs in SPECS.items() for spec in specs
]

any_number = st.one_of(st.floats(-1e3, 1e3), st.floats(allow_nan=True, allow_infinity=True), st.none())
some_rows = st.lists(
    st.tuples(any_number, any_number, st.sampled_from([None, "a", "b", "ä", ""]), st.floats(-2, 2)),
    min_size=1,
    max_size=60,
)


def made(kind: str, spec: Any, drawn: list[tuple[Any, Any, Any, float]]) -> tuple[FeatureMatrix, np.ndarray]:
    amount, wind, shops, behind = zip(*drawn, strict=True)
    numbers = [[np.nan if value is None else value for value in column] for column in (amount, wind)]
    found = matrix(numbers[0], numbers[1], shops)
    if is_over_champion(spec):
        found = with_champion(kind, found, champion(kind, np.array(behind)))
    return found, np.array(behind)


def cuts(count: int, at: list[int]) -> list[np.ndarray]:
    return np.split(np.arange(count), sorted({place % (count + 1) for place in at}))


@pytest.mark.parametrize(("kind", "spec"), EVERY)
@settings(max_examples=25, deadline=None)
@given(learnt=st.lists(some_rows, max_size=4), asked=some_rows, at=st.lists(st.integers(0, 60), max_size=8))
def test_a_rows_score_does_not_depend_on_the_rows_beside_it(kind, spec, learnt, asked, at):
    model = spec.make(pipeline(kind, [spec]))
    for drawn in learnt:
        rows, behind = made(kind, spec, drawn)
        model.learn(rows, codes_of(kind, behind))
    rows, _ = made(kind, spec, asked)
    whole = model.score(rows)
    assert np.isfinite(whole).all()
    cut = [model.score(taken(rows, part)) for part in cuts(len(rows), at)]
    assert np.concatenate(cut).tobytes() == whole.tobytes()
    order = np.random.default_rng(len(asked)).permutation(len(rows))
    assert model.score(taken(rows, order)).tobytes() == np.ascontiguousarray(whole[order]).tobytes()


@pytest.mark.parametrize(("kind", "spec"), EVERY)
@settings(max_examples=20, deadline=None)
@given(learnt=st.lists(some_rows, min_size=2, max_size=6), stopped=st.integers(0, 5))
def test_a_learner_that_is_stopped_anywhere_ends_as_one_that_was_not(kind, spec, learnt, stopped):
    declared = pipeline(kind, [spec])
    undisturbed, killed = spec.make(declared), spec.make(declared)
    for batch, drawn in enumerate(learnt):
        rows, behind = made(kind, spec, drawn)
        if batch == stopped % len(learnt):
            killed = spec.restore(declared, made_here(killed.state_bytes()))
        for model in (undisturbed, killed):
            model.learn(rows, codes_of(kind, behind))
        assert killed.scoring_bytes() == undisturbed.scoring_bytes()
        assert killed.state_bytes() == undisturbed.state_bytes()
