"""Up to which record all outputs are proven to stand, and with which versions the rest is repeated."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.store import Position
from offline.proven_outputs import TailRecord, last_proven, pins, reach_of_predictions


def record(offset: int, *targets: int) -> TailRecord:
    return TailRecord(offset, np.array(targets, np.int64), [f"{offset}/{row}" for row in range(len(targets))])


JUNK = TailRecord(7, None)


@pytest.mark.parametrize(
    ("tail", "reach", "last"),
    [
        ([], {}, 5),
        ([record(6, 0)], {}, 5),
        ([record(6, 0)], {0: Position(6, 0)}, 6),
        ([record(6, 0, 0)], {0: Position(6, 0)}, 5),  # its second row is not out
        ([record(6, 0, 1), record(7, 0)], {0: Position(7, 0)}, 5),  # the row for partition 1 is not out
        ([record(6, 0), record(7, 1), record(8, 0)], {0: Position(8, 0)}, 6),
        ([record(6, 0), record(7, 1), record(8, 0)], {0: Position(6, 0), 1: Position(7, 0)}, 7),
        ([record(6), record(7)], {}, 7),  # without rows there is nothing to prove
        ([record(6, 0), JUNK, record(8, 0)], {0: Position(8, 0)}, 6),  # its dead letter may not be out
        ([record(6, 0)], {0: Position(40, 3)}, 6),
    ],
)
def test_a_record_is_proven_when_each_row_lies_within_the_reach_of_its_target(tail, reach, last):
    assert last_proven(tail, reach, before=5) == last


def published(source: random.Random, tail: Sequence[TailRecord], stands: int) -> dict[str, str]:
    """Predictions of the first `stands` rows of each partition, of records before a first one in each."""
    found: dict[str, str] = {}
    for partition in (0, 1, 2):
        rows = [
            event
            for one in tail
            for event, target in zip(
                one.events, (one.targets if one.targets is not None else []), strict=True
            )
            if target == partition
        ]
        found |= dict.fromkeys(rows[: source.randint(0, stands)], "v1")
    return found


@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(0, 12))
def test_up_to_what_is_proven_every_output_stands_and_the_next_record_lacks_one(seed, records, stands):
    source = random.Random(seed)
    tail = [
        record(offset, *(source.randint(0, 2) for _ in range(source.randint(0, 4))))
        for offset in range(6, 6 + records)
    ]
    standing = published(source, tail, stands)
    last = last_proven(tail, reach_of_predictions(tail, standing), before=5)
    assert all(event in standing for one in tail if one.offset <= last for event in one.events)
    after = [one for one in tail if one.offset == last + 1]
    assert all(any(event not in standing for event in one.events) for one in after)
    assert bool(after) == (last < 5 + records)


def test_predictions_that_were_deleted_since_are_proven_by_later_ones_in_their_partition():
    tail = [record(6, 0, 1), record(7, 0, 1)]
    standing = {"7/0": "v", "7/1": "v"}
    assert last_proven(tail, reach_of_predictions(tail, standing), before=5) == 7


def test_pins_lie_end_to_end_and_end_at_the_last_record_that_began_to_be_answered():
    tail = [record(offset, 0, 1) for offset in range(6, 12)]
    standing = {"6/0": "v1", "7/1": "v2", "9/0": "v2", "10/1": "v3"}
    assert pins(tail, standing, after=5) == [(6, "v1"), (9, "v2"), (10, "v3")]
    assert pins(tail, standing, after=7) == [(9, "v2"), (10, "v3")]
    assert pins(tail, {}, after=5) == []
