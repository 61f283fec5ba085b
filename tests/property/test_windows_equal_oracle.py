"""Every feature of every event equals what brute force finds, on random plans and awkward events."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from features.oracle import LARGEST, Answer, Oracle, Row
from features.plan import Aggregate, EntityPlan, Floats
from features.state import EntityState
from tests.random_plans import Events, events, plans, run

TOLERANCE = 1e-9


def by_brute_force(plan: EntityPlan, rows: Events) -> list[Answer]:
    oracle = Oracle(plan)
    every = zip(rows.keys, rows.times_us.tolist(), rows.inputs.tolist(), rows.hashes.tolist(), strict=True)
    return [oracle.answer(key, Row(*row)) for key, *row in every]


def assert_equal_within(seen: Floats, expected: Floats, scale: Floats) -> None:
    """Equal within the tolerance, relative to `scale` or absolute; NaN where NaN is."""
    assert np.array_equal(np.isnan(seen), np.isnan(expected))
    apart = np.abs(seen - expected) / np.maximum(1.0, scale)
    assert not (apart > TOLERANCE).any(), (seen, expected)


@given(plans(), events())
def test_features_age_and_dropped_equal_brute_force(plan, rows):
    expected = by_brute_force(plan, rows)
    batch = run(EntityState(plan, capacity=10), rows, {})
    features = np.array([answer.features for answer in expected]).reshape(batch.features.shape)
    scale = np.abs(features)
    # A weighted mean of great values that cancel out is right relative to them, as any sum of rounded products is.
    weighted = [i for i, output in enumerate(plan.outputs) if output.aggregate == Aggregate.EWM]
    greatest = max((abs(x) for x in rows.inputs.ravel().tolist() if abs(x) <= LARGEST), default=0.0)
    scale[:, weighted] = np.maximum(scale[:, weighted], greatest)
    assert_equal_within(batch.features, features, scale)
    ages = np.array([answer.age_s for answer in expected])
    assert np.array_equal(batch.age_s, ages, equal_nan=True)
    assert np.array_equal(batch.late, ages < 0)
    assert batch.dropped.tolist() == [answer.dropped for answer in expected]
