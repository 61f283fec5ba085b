"""The state does not depend on how rows were cut into batches, on evictions, or on a trip through the store."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.plan import EntityPlan
from features.state import EntityState
from tests import stored_fields
from tests.random_plans import Events, events, plans, run
from tests.stored_fields import Fields

cuts = st.lists(st.integers(1, 60), max_size=8)


def all_at_once(plan: EntityPlan, rows: Events) -> tuple[bytes, dict[str, Fields]]:
    store: dict[str, Fields] = {}
    batch = run(EntityState(plan, capacity=10), rows, {})
    stored_fields.write(store, batch.changes)
    return batch.features.tobytes(), store


def in_pieces(
    plan: EntityPlan, rows: Events, ends: list[int], capacity: int, forget: bool
) -> tuple[bytes, dict[str, Fields], EntityState]:
    state, features = EntityState(plan, capacity), b""
    store: dict[str, Fields] = {}
    bounds = sorted({0, *(end for end in ends if end < len(rows.keys)), len(rows.keys)})
    for begin, end in pairwise(bounds):
        batch = run(state, rows.cut(begin, end), stored_fields.packed_all(store))
        features += batch.features.tobytes()
        stored_fields.write(store, batch.changes)
        state.committed(batch.number)
        if forget:
            state.forget()
    return features, store, state


@given(plans(), events(), cuts)
def test_cutting_batches_changes_no_bit(plan, rows, ends):
    features, store, _ = in_pieces(plan, rows, ends, capacity=10, forget=False)
    assert (features, store) == all_at_once(plan, rows)


@given(plans(), events(), cuts)
def test_a_trip_through_the_store_changes_no_bit(plan, rows, ends):
    features, store, _ = in_pieces(plan, rows, ends, capacity=10, forget=True)
    assert (features, store) == all_at_once(plan, rows)


@given(plans(), events())
def test_eviction_after_every_event_changes_no_bit(plan, rows):
    ends = list(range(len(rows.keys)))
    features, store, state = in_pieces(plan, rows, ends, capacity=1, forget=False)
    assert (features, store) == all_at_once(plan, rows)
    keys = [key for key in rows.keys if key is not None]
    assert state.evictions == sum(a != b for a, b in pairwise(keys))


@given(plans(), events(), events())
def test_a_changed_identity_starts_empty_and_clears_the_old_fields(plan, before, after):
    _, store, _ = in_pieces(plan, before, [], capacity=10, forget=False)
    groups = tuple(replace(group, identity=group.identity + 1_000) for group in plan.groups)
    points = tuple(replace(point, identity=point.identity + 1_000) for point in plan.points)
    changed = replace(plan, groups=groups, points=points)
    # Only the newest event time is known by both definitions.
    known = {key: {(0, 0): fields[0, 0]} for key, fields in store.items()}
    expected = run(EntityState(changed, 10), after, stored_fields.packed_all(known))
    seen = run(EntityState(changed, 10), after, stored_fields.packed_all(store))
    assert np.array_equal(seen.features, expected.features, equal_nan=True)
    stored_fields.write(store, seen.changes)
    stored_fields.write(known, expected.changes)
    for key, _ in seen.changes:
        assert store[key] == known[key]


@given(plans(), events(), events(), st.integers(1, 40))
def test_a_ring_may_shrink_and_grow(plan, before, after, more):
    """Rings follow the widest window while identities stay: what stands in narrower windows is there all the same."""
    longer = replace(plan, groups=tuple(replace(group, ring=group.ring + more) for group in plan.groups))
    _, store, _ = in_pieces(longer, before, [], capacity=10, forget=False)
    shrunk = run(EntityState(plan, 10), after, stored_fields.packed_all(store))
    _, always_short, _ = in_pieces(plan, before, [], capacity=10, forget=False)
    expected = run(EntityState(plan, 10), after, stored_fields.packed_all(always_short))
    assert np.array_equal(shrunk.features, expected.features, equal_nan=True)
    stored_fields.write(store, shrunk.changes)
    for key, _ in shrunk.changes:
        for group in plan.groups:
            places = [tile % group.ring for identity, tile in store[key] if identity == group.identity]
            assert len(set(places)) == len(places), "fields that find no place must be deleted"


@given(plans(), events(), cuts)
def test_newest_rows_are_what_feast_should_show(plan, rows, ends):
    """The row of an entity's greatest event time, the later one of equals, unless something newer was known before."""
    state = EntityState(plan, 10)
    newest: dict[str, int] = {}
    for begin, end in pairwise(sorted({0, *(end for end in ends if end < len(rows.keys)), len(rows.keys)})):
        piece = rows.cut(begin, end)
        expected: dict[str, int] = {}
        for row, (key, time_us) in enumerate(zip(piece.keys, piece.times_us.tolist(), strict=True)):
            if key is not None and time_us >= newest.get(key, time_us):
                newest[key], expected[key] = time_us, row
        batch = run(state, piece, {})
        seen = {key: row for (key, _), row in zip(batch.changes, batch.newest_rows.tolist(), strict=True)}
        assert {key: row for key, row in seen.items() if row >= 0} == expected
