"""What Redis really keeps of an entity stays below what is stated."""

from __future__ import annotations

import struct

import pytest
import redis

from features.layout import layout_of, stored_bytes_per_entity
from features.plan import Aggregate, EntityPlan, GroupKind, Input, Output, WindowGroup


@pytest.mark.parametrize("ring", [1, 3, 15, 60, 300, 520, 2_100])
@pytest.mark.parametrize(
    ("kind", "bound"), [(GroupKind.COUNT, 0), (GroupKind.MOMENTS, 0), (GroupKind.DISTINCT, 20)]
)
def test_a_full_entity_is_not_larger_than_stated(redis_url, ring, kind, bound):
    group = WindowGroup(kind, 0, 1, ring, bound, 4_000_000_000)
    aggregate = {GroupKind.COUNT: Aggregate.COUNT, GroupKind.MOMENTS: Aggregate.SUM}.get(
        kind, Aggregate.DISTINCT
    )
    output = Output("n", aggregate, 0, ring - 1, 0.0)
    plan = EntityPlan("card", ("card",), (Input("x"),), (Input("y"),), (group,), (), (output,))
    key = "driftwood:pipeline:state:card:" + "k" * 40
    fields: dict[bytes, bytes] = {}
    for cell in layout_of(plan).cells:
        words = int(cell["width"]) or int(cell["bound"]) + 1
        fields[struct.pack("<Iq", cell["identity"], 20_000 + len(fields))] = bytes(8 * words)
    with redis.Redis.from_url(redis_url) as client:
        client.hset(key, mapping=fields)
        used = client.memory_usage(key, samples=0)
    stated = stored_bytes_per_entity(plan)
    assert used is not None
    assert used <= stated < 4 * used  # hashes of few and short fields are packed by Redis, to a quarter
