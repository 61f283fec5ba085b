"""A judge that is cut off anywhere and restored says what the undisturbed one says, and its state is the same bytes."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.drift.data_judge import DataJudge
from models.drift.reference import Reference
from models.drift.spec import Drift
from tests.drift_slices import COLUMNS, Payments

DRIFT = Drift(segments=["producer"])
TRAILING = Drift(reference="3d")


def scaled(numbers, texts, random):
    numbers[:, 0] *= 2
    numbers[np.array(texts[2]) == "app", 1] = np.nan


@cache
def run(trailing):
    """The reference, the slices, and what an undisturbed judge says of them."""
    reference = Reference.of(COLUMNS, Payments(1, 400).slices(24 * 8), DRIFT)
    payments = Payments(2, 400)
    payments.hour = 24 * 8
    slices = payments.slices(110) + payments.slices(40, scaled)
    judge = made(trailing, reference)
    said = [judge.judge(one, dead(number)) for number, one in enumerate(slices)]
    return reference, slices, said, judge.state()


def dead(number):
    return {"json": number % 3}


def made(trailing, reference):
    return DataJudge(COLUMNS, TRAILING, None) if trailing else DataJudge(COLUMNS, DRIFT, reference)


@pytest.mark.parametrize("trailing", [False, True])
def test_something_is_said_at_all(trailing):
    said = [signal for signals in run(trailing)[2] for signal in signals]
    assert any(signal.strength > 1 and signal.subject == "amount" for signal in said)


@settings(max_examples=12)
@given(st.booleans(), st.lists(st.integers(0, 150), max_size=4))
def test_a_judge_restored_anywhere_goes_on_exactly(trailing, cuts):
    reference, slices, said, state = run(trailing)
    judge = made(trailing, reference)
    for number, one in enumerate(slices):
        if number in cuts:
            kept = judge.state()
            judge = made(trailing, reference)
            judge.restore(kept)
            assert judge.state() == kept
        assert judge.judge(one, dead(number)) == said[number]
    assert judge.state() == state


@settings(max_examples=10)
@given(st.integers(0, 149))
def test_a_reference_read_back_says_the_same(number):
    reference, slices, said, _ = run(False)
    back = Reference.decoded(reference.encoded(), COLUMNS)
    assert back.encoded() == reference.encoded()
    judge = DataJudge(COLUMNS, DRIFT, back)
    for place, one in enumerate(slices[: number + 1]):
        found = judge.judge(one, dead(place))
    assert found == said[number]


def test_the_state_is_bounded():
    reference = run(False)[0]
    judge = DataJudge(COLUMNS, DRIFT, reference)
    sizes = []
    payments = Payments(3, 400)
    payments.hour = 24 * 8
    for _ in range(24 * 14):
        judge.judge(payments.slice(), {})
        sizes.append(len(judge.state()))
    assert max(sizes[24 * 9 :]) < 1.1 * max(sizes[: 24 * 8])
