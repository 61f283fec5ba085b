"""Rows for Feast, against Feast's and protobuf's own encoders."""

from __future__ import annotations

import math
import subprocess
import sys

import mmh3
import msgspec
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]  # its stubs are a package more
from hypothesis import given
from hypothesis import strategies as st

from features.feast_rows import FeastRows
from features.plan import Aggregate, EntityPlan, Output

VIEW = "flights_origin"
INTEGERS = [0, 1, 127, 128, 300, 16_383, 16_384, 2**31, 2**53, 2**62, -1, -(2**40)]


def plan_of(*aggregates: Aggregate) -> EntityPlan:
    outputs = tuple(Output(f"f{n}", aggregate, 0, 1, math.nan) for n, aggregate in enumerate(aggregates))
    return EntityPlan("origin", ("origin",), (), (), (), (), outputs)


def cells(row: bytes) -> dict[bytes, bytes]:
    """Field -> value of a packed row: a MessagePack array of texts."""
    count, at = int.from_bytes(row[1:3], "big"), 3
    found = []
    while at < len(row):
        short = row[at] != 0xD9
        length = row[at] - 0xA0 if short else row[at + 1]
        at += 1 if short else 2
        found.append(row[at : at + length])
        at += length
    assert row[0] == 0xDC and len(found) == count
    return dict(zip(found[::2], found[1::2], strict=True))


def field(name: str, view: str = VIEW) -> bytes:
    return mmh3.hash(f"{view}:{name}", signed=False).to_bytes(4, "little")


def one_row(
    values: list[float], *aggregates: Aggregate, time_us: int = 0, view: str = VIEW
) -> dict[bytes, bytes]:
    maker = FeastRows("flights", view, plan_of(*aggregates))
    [(_, row)] = maker.rows(["JFK"], np.array([values]), np.array([time_us]))
    return cells(row)


def timestamp(time_us: int) -> bytes:
    expected = Timestamp()
    expected.FromMicroseconds(time_us)
    return bytes(expected.SerializeToString())


@pytest.fixture(scope="module")
def value_proto():
    from feast.protos.feast.types.Value_pb2 import Value

    return Value


@pytest.mark.parametrize("value", INTEGERS)
def test_a_count_is_the_int64_that_protobuf_writes(value_proto, value: int) -> None:
    assert (
        one_row([float(value)], Aggregate.COUNT)[field("f0")]
        == value_proto(int64_val=value).SerializeToString()
    )


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -1e300, 5e-324, math.inf, -math.inf, float(2**60)])
def test_a_number_is_the_double_that_protobuf_writes(value_proto, value: float) -> None:
    assert one_row([value], Aggregate.MEAN)[field("f0")] == value_proto(double_val=value).SerializeToString()


def test_a_missing_value_is_the_empty_message(value_proto) -> None:
    row = one_row([math.nan, math.nan], Aggregate.COUNT, Aggregate.MEAN)
    assert row[field("f0")] == row[field("f1")] == value_proto().SerializeToString() == b""


def test_an_estimate_of_distinct_values_is_rounded_and_a_huge_one_kept_within_int64(value_proto) -> None:
    values = [127.4, 127.6, 1e300, -math.inf]
    row = one_row(values, *[Aggregate.DISTINCT] * 4)
    read = [value_proto.FromString(row[field(f"f{n}")]).int64_val for n in range(4)]
    assert read == [127, 128, 2**63 - 1024, -(2**63) + 1024]


@pytest.mark.parametrize(
    "time_us",
    [0, 1, 999_999, 1_000_000, 1_364_811_300_000_001, 253_402_300_799_999_999, -1, -62_135_596_800_000_000],
)
def test_the_event_time_is_the_timestamp_that_protobuf_writes(time_us: int) -> None:
    row = one_row([1.0], Aggregate.MEAN, time_us=time_us)
    assert row[b"_ts:flights_origin"] == timestamp(time_us)


@pytest.mark.parametrize("length", [1, 27, 28, 200])
def test_view_names_of_any_length_are_packed(length: int) -> None:
    view = "v" * length
    assert one_row([1.0], Aggregate.COUNT, view=view).keys() == {field("f0", view), b"_ts:" + view.encode()}


@given(
    rows=st.lists(
        st.tuples(
            st.text(max_size=40),
            st.lists(st.floats(allow_nan=True), min_size=2, max_size=2),
            st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=2, max_size=2),
            st.integers(-(2**55), 2**57),
        ),
        max_size=30,
    )
)
def test_rows_of_a_batch_are_those_of_feast_one_by_one(value_proto, rows) -> None:
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    aggregates = (Aggregate.COUNT, Aggregate.MEAN, Aggregate.DISTINCT, Aggregate.EWM)
    maker = FeastRows("flights", VIEW, plan_of(*aggregates))
    counts = [[math.nan if count is None else float(count) for count in row[2]] for row in rows]
    values = [[count[0], row[1][0], count[1], row[1][1]] for row, count in zip(rows, counts, strict=True)]
    made = maker.rows(
        [row[0] for row in rows],
        np.array(values, np.float64).reshape(len(rows), 4),
        np.array([row[3] for row in rows], np.int64),
    )
    assert len(made) == len(rows)
    for (key, packed), (name, doubles, integers, time_us) in zip(made, rows, strict=True):
        entity = EntityKey(join_keys=["origin"], entity_values=[value_proto(string_val=name)])
        expected = [value_proto() if count is None else value_proto(int64_val=count) for count in integers]
        expected += [value_proto() if math.isnan(x) else value_proto(double_val=x) for x in doubles]
        fields = [field("f0"), field("f2"), field("f1"), field("f3")]
        assert key == _redis_key("flights", entity)
        assert cells(packed) == {
            **{name: proto.SerializeToString() for name, proto in zip(fields, expected, strict=True)},
            b"_ts:flights_origin": timestamp(time_us),
        }


def test_an_empty_batch_and_a_view_of_one_type_are_ordinary() -> None:
    assert (
        FeastRows("p", VIEW, plan_of(Aggregate.COUNT)).rows([], np.zeros((0, 1)), np.zeros(0, np.int64)) == []
    )
    assert len(one_row([1.0], Aggregate.COUNT)) == len(one_row([1.0], Aggregate.MEAN)) == 2


def test_a_row_is_the_messagepack_that_another_reader_understands() -> None:
    [(_, row)] = FeastRows("p", "v", EntityPlan("e", (), (), (), (), (), ())).rows(
        ["k"], np.zeros((1, 0)), np.array([0])
    )
    assert msgspec.msgpack.decode(row) == ["_ts:v", ""]


def test_a_worker_that_makes_rows_does_not_import_feast() -> None:
    program = "import sys, features.feast_rows, features.redis_store; print('feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
