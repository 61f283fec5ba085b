"""Frames: what travels between stages comes out as it went in, in pieces that the broker takes."""

from __future__ import annotations

import math
import random

import numpy as np
import pyarrow as pa
import pytest

from features.rows import Rows
from features.store import Position
from streams.frames import MAX_FRAME_BYTES, Frame, FrameCodec, positions_after
from tests.in_process import LogRecord
from tests.shop_events import orders

FEATURES = orders().feature_set
LAYOUT = FEATURES.layout
CODEC = FrameCodec(FEATURES, 1)


def frame(n: int, street: str | None = None, codec: FrameCodec = CODEC) -> Frame:
    """n rows with every kind of value in them."""
    plans = FEATURES.entities[: len(codec.empty().ages_s.T)]
    numbers = np.arange(n * len(LAYOUT.numbers), dtype=np.float64).reshape(n, len(LAYOUT.numbers))
    numbers[::3, 0] = math.nan
    texts = tuple(
        pa.array([street if at % 2 else f"é{at}" for at in range(n)], pa.string()) for _ in LAYOUT.texts
    )
    rows = Rows(LAYOUT, pa.array([f"e{at}" for at in range(n)]), np.arange(n) * 1_000, numbers, texts)
    records = [LogRecord(offset, 1_000 + offset, None, b"") for offset in range(n)]
    windows = sum(len(plan.outputs) for plan in plans)
    made = Frame.of_events(rows, "shop.events@c/t", 3, records)
    if plans:
        made = made.with_entity(np.full((n, windows), -0.0), np.full(n, math.nan), np.arange(n) % 2)
    return made


def assert_same(got: Frame, wanted: Frame) -> None:
    for name in (
        "upstream_offsets",
        "upstream_rows",
        "origin_topics",
        "origin_partitions",
        "origin_offsets",
        "arrived_ms",
        "flags",
    ):
        assert getattr(got, name).tolist() == getattr(wanted, name).tolist()
    for one, other in (
        (got.windows, wanted.windows),
        (got.ages_s, wanted.ages_s),
        (got.rows.numbers, wanted.rows.numbers),
    ):
        assert one.shape == other.shape and one.tobytes() == other.tobytes()
    assert got.rows.times_us.tolist() == wanted.rows.times_us.tolist()
    texts = zip(
        (got.rows.event_ids, *got.rows.texts), (wanted.rows.event_ids, *wanted.rows.texts), strict=True
    )
    assert all(one.to_pylist() == other.to_pylist() for one, other in texts)


def pieces(whole: Frame, partitions: list[int], codec: FrameCodec = CODEC) -> list[tuple[int, bytes]]:
    return list(codec.split(whole, np.array(partitions, np.int64)))


@pytest.mark.parametrize("stage", [0, 1])
def test_a_frame_comes_out_as_it_went_in(stage):
    codec = FrameCodec(FEATURES, stage)
    whole = frame(7, codec=codec)
    [(partition, value)] = pieces(whole, [4] * 7, codec)
    assert partition == 4
    assert_same(codec.decode(value), whole)


def test_rows_of_one_partition_keep_their_order():
    whole = frame(9)
    cut = pieces(whole, [2, 0, 2, 0, 1, 2, 0, 0, 2])
    assert [partition for partition, _ in cut] == [0, 1, 2]
    ids = [CODEC.decode(value).rows.event_ids.to_pylist() for _, value in cut]
    assert ids == [["e1", "e3", "e6", "e7"], ["e4"], ["e0", "e2", "e5", "e8"]]


def test_no_rows_make_no_frames():
    assert pieces(CODEC.empty(), []) == []


def test_large_frames_are_cut_between_rows_and_only_a_single_row_may_be_larger():
    whole = frame(40, street="x" * 60_000)
    values = [value for _, value in pieces(whole, [0] * 40)]
    assert len(values) > 2 and all(len(value) <= MAX_FRAME_BYTES for value in values)
    assert_same(CODEC.join([CODEC.decode(value) for value in values]), whole)
    huge = frame(2, street="x" * (MAX_FRAME_BYTES + 1))
    assert [len(CODEC.decode(value)) for _, value in pieces(huge, [0, 0])] == [1, 1]


def test_frames_joined_are_their_rows_in_order():
    one, two = frame(3), frame(2)
    joined = CODEC.join([one, CODEC.empty(), two])
    assert_same(joined.take(np.arange(3)), one)
    assert_same(joined.take(np.arange(3, 5)), two)


def test_an_empty_frame_has_the_columns_of_its_stage():
    for stage, windows in ((0, 0), (1, 4), (2, 7), (3, 9)):
        empty = FrameCodec(FEATURES, stage).empty()
        assert len(empty) == 0 and empty.windows.shape == (0, windows) and empty.ages_s.shape == (0, stage)


def test_every_stage_and_every_set_of_features_has_its_own_version():
    other = orders(["amount"]).feature_set
    versions = {FrameCodec(features, stage).version for features in (FEATURES, other) for stage in (0, 1)}
    assert len(versions) == 4


@pytest.mark.parametrize(
    "value", [b"", b"x", b"\x00" * 100, b'{"order_id": "o1"}', b"\xff\xff\xff\xff\x10\x00\x00\x00"]
)
def test_what_is_no_frame_is_a_value_error(value):
    with pytest.raises(ValueError, match=r".+"):
        CODEC.decode(value)


def test_damaged_frames_are_value_errors_or_whole_frames_and_never_anything_else():
    source = random.Random(5)
    [(_, value)] = pieces(frame(6), [0] * 6)
    refused = 0
    for _ in range(3_000):
        damaged = bytearray(value[: source.randrange(len(value)) if source.random() < 0.2 else len(value)])
        for _ in range(source.choice([1, 1, 4]) if damaged else 0):
            damaged[source.randrange(len(damaged))] = source.choice([0, 1, 255, source.randrange(256)])
        try:
            got = CODEC.decode(bytes(damaged))
        except ValueError:
            refused += 1
        else:
            assert None not in got.rows.event_ids.to_pylist()
            CODEC.join([got, got])
    assert refused > 1_000


def test_a_frame_with_an_event_that_has_no_id_is_refused():
    batch = CODEC.encode(frame(2))
    nameless = batch.set_column(0, "event_id", pa.array(["e0", None]))
    with pytest.raises(ValueError, match="without an id"):
        CODEC.decode(nameless.serialize().to_pybytes())


@pytest.mark.parametrize(
    ("seen", "start"),
    [(Position(-1, -1), 0), (Position(4, 9), 0), (Position(5, 0), 1), (Position(5, 2), 1), (Position(5, 3), 2),
     (Position(6, 0), 3), (Position(7, 0), 3)],
)  # fmt: skip
def test_rows_after_a_position_are_those_of_later_records_and_later_rows(seen, start):
    whole = frame(3)
    placed = Frame(
        **{**vars(whole), "upstream_offsets": np.array([5, 5, 6]), "upstream_rows": np.array([0, 3, 0])}
    )
    assert positions_after(placed, seen) == start
