"""Learning state of River's trees: equal learners are equal bytes, also when one was read back in between."""

from __future__ import annotations

import numpy as np

from driftwood import bounded_tree
from models.learning import Learning
from models.snapshot import made_here
from tests.served_outcomes import matured, pipeline


def test_two_trees_that_learnt_the_same_are_the_same_bytes_also_when_one_was_read_back():
    declared = pipeline(online=[bounded_tree()])
    lived, read_back = Learning(declared), Learning(declared)
    random = np.random.default_rng(5)
    for number in range(8):
        values, labels = random.random((40, 2)), random.integers(0, 2, 40)
        batch = matured(
            labels.astype(float),
            values[:, 0],
            first=number * 40,
            values=values,
            parts={"fallback": values[:, 0]},
        )
        lived.step(batch)
        read_back = Learning.restore(declared, made_here(read_back.state()))
        read_back.step(batch)
        assert lived.state() == read_back.state()
