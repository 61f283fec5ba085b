"""What was served, on its way to the join stage: every bit comes back, for every kind of label, however it is cut."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from driftwood import Label, categorical
from features.decode import Decoder
from models.pipeline import Pipeline
from streams import frames
from streams.flags import HOLDOUT, LATE
from streams.frames import Frame
from streams.producer import partition_of
from streams.served import JoinHop, Served, ServedCodec
from streams.topics import Topic
from streams.versions import versions_text
from tests.shop_events import customer, orders, shop

LABELS = {
    "binary": Label("returned"),
    "regression": Label("refund", kind="regression"),
    "multiclass": Label("outcome", kind="multiclass", classes=("a", "b", "c")),
}
FEATURES = ["amount", categorical("country"), customer.count("1h", "7d"), shop.mean("amount", "1d")]


def served_of(pipeline: Pipeline, n: int, threshold: float = 0.5, parts: int = 3) -> Served:
    """n answered orders with awkward numbers."""
    source = np.random.default_rng(n)
    events = [
        {"order_id": f"o{at}", "placed_at": f"2024-05-01T10:{at % 60:02d}:00Z", "customer": None, "shop": at}
        for at in range(n)
    ]
    values = [(json.dumps({**event, "amount": None}).encode(), 0) for event in events]
    rows = Decoder(pipeline.feature_set).decode(values).rows
    records: Any = [SimpleNamespace(offset=at, timestamp=at) for at in range(n)]
    frame = Frame.of_events(rows, "orders.events@c/t", 1, records)
    for plan in pipeline.feature_set.entities:
        windows = source.normal(size=(n, len(plan.outputs)))
        frame = frame.with_entity(windows, np.full(n, np.nan), np.full(n, LATE | HOLDOUT))
    classes = len(pipeline.label.classes) if pipeline.label.kind == "multiclass" else 0
    shape = (n, classes) if classes else (n,)
    scores = {f"part {number}": source.normal(size=shape) for number in range(parts)}
    scores["part 0"][: n // 2] = np.nan
    weights = {name: float(source.random()) for name in scores}
    versions = versions_text("7", pipeline.version, "blend", 41)
    return Served(frame, source.normal(size=shape), scores, versions, threshold, weights)


def assert_equal(found: Served, expected: Served) -> None:
    assert found.frame.rows.event_ids.to_pylist() == expected.frame.rows.event_ids.to_pylist()
    for name in (*frames.INTEGERS, "windows", "ages_s"):
        assert_array_equal(getattr(found.frame, name), getattr(expected.frame, name))
    assert_array_equal(found.frame.rows.numbers, expected.frame.rows.numbers)
    assert_array_equal(found.frame.rows.times_us, expected.frame.rows.times_us)
    assert_array_equal(found.score, expected.score)
    assert list(found.parts) == list(expected.parts)
    for name, scores in expected.parts.items():
        assert_array_equal(found.parts[name], scores)
    assert (found.versions, found.weights) == (expected.versions, expected.weights)
    assert_array_equal(found.threshold, expected.threshold)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("parts", [1, 4])
def test_every_bit_comes_back_for_every_kind_of_label(kind, parts):
    pipeline = orders(FEATURES, label=LABELS[kind])
    served = served_of(pipeline, 7, threshold=0.5 if kind == "binary" else np.nan, parts=parts)
    codec = ServedCodec(pipeline)
    [(partition, value)] = codec.encode(served, np.full(7, 3))
    assert partition == 3
    assert_equal(codec.decode(value), served)


def test_rows_go_to_the_partition_of_their_event_id_in_their_order_however_they_are_cut(monkeypatch):
    pipeline = orders(FEATURES)
    served = served_of(pipeline, 40)
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 2_000)
    codec = ServedCodec(pipeline)
    hop = JoinHop(Topic("orders.hop-join", 4), codec, pipeline.version)
    messages = hop.messages(served, "orders.hop-shop@c/t/2")
    assert len(messages) > 4  # some partition has several
    found: dict[int, list[str]] = {}
    for message in messages:
        assert (message.topic, message.key) == ("orders.hop-join", None)
        assert dict(message.headers) == {
            "upstream": b"orders.hop-shop@c/t/2",
            "frame": codec.version,
            "pipeline_version": pipeline.version.encode(),
        }
        piece = codec.decode(message.value)
        assert piece.versions == served.versions
        found.setdefault(message.partition, []).extend(piece.frame.rows.event_ids.to_pylist())
        rows = piece.frame.upstream_offsets
        assert_array_equal(piece.score, served.score[rows])
    ids = served.frame.rows.event_ids.to_pylist()
    expected = {
        number: [one for one in ids if partition_of(one.encode(), 4) == number] for number in range(4)
    }
    assert found == expected


def test_a_pipeline_without_entities_and_a_batch_without_rows(tmp_path):
    pipeline = orders(["amount"])
    served = served_of(pipeline, 3)
    codec = ServedCodec(pipeline)
    [(_, value)] = codec.encode(served, np.zeros(3, np.int64))
    assert_equal(codec.decode(value), served)
    nothing = served_of(pipeline, 0)
    assert list(codec.encode(nothing, np.zeros(0, np.int64))) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: b"",
        lambda value: value[:3],
        lambda value: value[:40],
        lambda value: value[: len(value) // 2],
        lambda value: b"\xff\xff\xff\xff" + value[4:],
        lambda value: b"\x02\x00\x00\x00{}" + value[6:],
        lambda value: value[4:],
    ],
)
def test_what_is_no_served_frame_is_refused_as_a_value_error(damage):
    pipeline = orders(FEATURES)
    codec = ServedCodec(pipeline)
    [(_, value)] = codec.encode(served_of(pipeline, 5), np.zeros(5, np.int64))
    with pytest.raises(ValueError, match=r"\w"):
        codec.decode(damage(value))


def test_other_features_have_another_version():
    versions = {ServedCodec(orders(FEATURES[:most])).version for most in (2, 3, 4)}
    assert len(versions) == 3
