"""The hot set by small examples: what a reader can work out in the head, and every way in which it can be misused."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from features import kernel
from features.errors import DeveloperError, OperatorError
from features.layout import MOST_DISTINCT
from features.packing import STORED_HEADER
from features.plan import Aggregate, EntityPlan, GroupKind, Input, Output, Point, PointKind, WindowGroup
from features.state import EntityBatch, EntityState, bytes_per_entity
from tests import stored_fields
from tests.stored_fields import Fields

MINUTE = 60_000_000


def a_plan(*parts: WindowGroup | Point, outputs: list[tuple[Aggregate, int, int]]) -> EntityPlan:
    """`outputs`: aggregate, source, window; every default is NaN."""
    groups = tuple(part for part in parts if isinstance(part, WindowGroup))
    points = tuple(part for part in parts if isinstance(part, Point))
    named = tuple(Output(f"f{i}", *output, default=math.nan) for i, output in enumerate(outputs))
    return EntityPlan("card", ("card",), (Input("amount"),), (Input("shop"),), groups, points, named)


def of_group(
    kind: GroupKind, *aggregates: Aggregate, window: int = 10 * MINUTE, bound: int = 0
) -> EntityPlan:
    group = WindowGroup(kind, 0, MINUTE, window // MINUTE + 1, bound, 1)
    return a_plan(group, outputs=[(aggregate, 0, window) for aggregate in aggregates])


def of_point(kind: PointKind, *aggregates: Aggregate, within: int = 10 * MINUTE) -> EntityPlan:
    point = Point(kind, 0, within, MINUTE if kind == PointKind.DECAYED else 0, 1)
    return a_plan(point, outputs=[(aggregate, 0, within) for aggregate in aggregates])


def feed(
    state: EntityState,
    minutes: list[float],
    amounts: list[float] | None = None,
    keys: Sequence[str | None] | None = None,
    shops: list[int] | None = None,
    stored: dict[str, bytes] | None = None,
) -> EntityBatch:
    keys = keys or ["a"] * len(minutes)
    state.load({key: (stored or {}).get(key) for key in state.missing(keys)})
    times_us = (np.array(minutes) * MINUTE).astype(np.int64)
    inputs = np.array(amounts or [1.0] * len(minutes))[:, np.newaxis]
    return state.update_batch(
        keys, times_us, inputs, np.array(shops or [0] * len(minutes), np.uint64)[:, np.newaxis]
    )


def test_a_late_event_goes_into_its_own_tile():
    batch = feed(EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), 9), [0, 12, 5, 14, 16])
    # At 14 the window reaches back to 4 and holds 5 and 12; at 16 it reaches back to 6.
    assert batch.features[:, 0].tolist()[1:] == pytest.approx([math.nan, math.nan, 2.0, 2.0], nan_ok=True)
    assert batch.late.tolist() == [False, False, True, False, False]
    assert batch.age_s.tolist()[1:] == [720.0, -420.0, 120.0, 120.0]
    assert batch.dropped.tolist() == [0, 0, 0, 0, 0]


def test_an_event_older_than_the_ring_is_dropped_and_counted():
    batch = feed(EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), 9), [100, 89.9, 90, 100])
    assert batch.dropped.tolist() == [0, 1, 0, 0]
    assert batch.features[3, 0] == 2.0


def test_a_row_without_a_key_has_defaults_and_changes_nothing():
    state = EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), 9)
    batch = feed(state, [0, 1], keys=[None, None])
    assert np.isnan(batch.features).all() and np.isnan(batch.age_s).all()
    assert batch.changes == [] and len(batch.newest_rows) == 0 and state.entities == 0


@pytest.mark.parametrize("amount", [math.nan, math.inf, -math.inf, 1e200])
def test_what_is_no_number_to_count_with_is_missing(amount):
    plan = of_group(GroupKind.MOMENTS, Aggregate.COUNT, Aggregate.SUM, Aggregate.STD)
    batch = feed(EntityState(plan, 9), [0, 1, 2, 3], [1.0, amount, 3.0, 0.0])
    assert batch.features[3].tolist() == pytest.approx([2.0, 4.0, math.sqrt(2.0)])


def test_a_standard_deviation_needs_two_rows():
    batch = feed(EntityState(of_group(GroupKind.MOMENTS, Aggregate.STD), 9), [0, 1, 2])
    assert math.isnan(batch.features[1, 0]) and batch.features[2, 0] == 0.0


def test_a_tiny_spread_about_a_great_value_keeps_its_digits():
    amounts = [1e9 + i / 1_048_576 for i in (0, 1, 2, 3)] * 25  # exact in binary; one tile and many
    exact = np.std(np.array([0, 1, 2, 3] * 25), ddof=1) / 1_048_576
    for spread in (0.0, 0.09):
        state = EntityState(of_group(GroupKind.MOMENTS, Aggregate.STD, Aggregate.MEAN), 9)
        batch = feed(state, [spread * i for i in range(100)] + [9.9], [*amounts, 0.0])
        assert batch.features[100, 0] == pytest.approx(exact, rel=1e-12)
        assert batch.features[100, 1] == pytest.approx(1e9 + 1.5 / 1_048_576, rel=1e-16)


def test_distinct_is_exact_up_to_its_bound_then_within_its_stated_error():
    bound = 200
    state = EntityState(of_group(GroupKind.DISTINCT, Aggregate.DISTINCT, bound=bound), 9)
    shops = np.random.default_rng(7).integers(1, 2**63, 5_000).astype(np.uint64) * np.uint64(2)
    batch = feed(state, [i / 600 for i in range(5_001)], shops=[*shops.tolist(), 0])
    assert batch.features[1 : bound + 1, 0].tolist() == list(range(1, bound + 1))
    standard_error = 1 / math.sqrt(bound + 1 - 2)
    assert batch.features[5_000, 0] == pytest.approx(5_000, rel=4 * standard_error)


def test_distinct_counts_a_value_once_across_tiles():
    state = EntityState(of_group(GroupKind.DISTINCT, Aggregate.DISTINCT, bound=3), 9)
    batch = feed(state, [0, 1, 2, 3, 4], shops=[5, 9, 5, 5, 0])
    assert batch.features[1:, 0].tolist() == [1.0, 2.0, 2.0, 2.0]


def test_last_is_not_told_to_an_event_that_came_before_it():
    plan = of_point(PointKind.LAST, Aggregate.LAST, Aggregate.SINCE_LAST)
    batch = feed(EntityState(plan, 9), [5, 4, 5, 6, 16.1], [50.0, 40.0, 51.0, math.nan, 1.0])
    expected = [[math.nan, math.nan], [50.0, 0.0], [51.0, 60.0], [math.nan, math.nan]]
    assert np.array_equal(batch.features[1:], expected, equal_nan=True)


def test_a_weighted_mean_halves_with_the_half_life_and_resets_after_the_gap():
    state = EntityState(of_point(PointKind.DECAYED, Aggregate.EWM), 9)
    batch = feed(state, [0, 1, 1, 11, 21.5, 22], [8.0, 2.0, 0.0, 1.0, 7.0, 7.0])
    at_11 = (8.0 / 2 + 2.0) / (1 / 2 + 1 + 1)
    assert batch.features[1:4, 0].tolist() == pytest.approx([8.0, (8 / 2 + 2) / 1.5, at_11])
    assert math.isnan(batch.features[4, 0]) and batch.features[5, 0] == 7.0


def test_a_gap_of_exactly_the_limit_does_not_reset():
    batch = feed(EntityState(of_point(PointKind.DECAYED, Aggregate.EWM), 9), [0, 10, 10], [1024.0, 0.0, 0.0])
    assert batch.features[2, 0] == pytest.approx(1.0 / (1.0 + 2.0**-10))


def test_an_entity_of_an_uncommitted_batch_is_never_evicted():
    state = EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), capacity=2)
    first = feed(state, [0, 0], keys=["a", "b"])
    assert state.fits(["a", "b"]) and not state.fits(["b", "c"])
    with pytest.raises(DeveloperError, match="2 entities are in use"):
        state.load({"c": None})
    state.committed(first.number)
    assert state.fits(["b", "c"]) and not state.fits(["a", "b", "c"])


def test_the_entity_that_was_not_used_for_longest_makes_room_but_none_of_the_batch_itself():
    state = EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), capacity=3)
    for minute, keys in enumerate((["a", "b", "c"], ["a"])):
        state.committed(feed(state, [minute] * len(keys), keys=keys).number)
    assert state.missing(["b", "d", None, "d"]) == ["d"]
    state.load({"d": None})
    assert state.missing(["a", "b", "c", "d"]) == ["c"]
    assert (state.entities, state.evictions) == (3, 1)


def test_many_evictions_forget_nobody_who_was_just_used():
    state = EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), capacity=50)
    store: dict[str, Fields] = {}
    rng = np.random.default_rng(3)
    total = dict.fromkeys(map(str, range(200)), 0.0)
    for _ in range(200):
        keys = [str(key) for key in rng.choice(200, 20, replace=False)]
        batch = feed(state, [0.0] * 20, keys=keys, stored=stored_fields.packed_all(store))
        assert batch.features[:, 0].tolist() == pytest.approx(
            [total[key] or math.nan for key in keys], nan_ok=True
        )
        stored_fields.write(store, batch.changes)
        state.committed(batch.number)
        total.update({key: total[key] + 1 for key in keys})
    assert state.entities == 50 and state.evictions > 2_000


def test_a_key_that_was_not_loaded_is_refused():
    with pytest.raises(DeveloperError, match="entity 'a' is not in memory"):
        EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), 9).update_batch(
            ["a"], np.zeros(1, np.int64), np.zeros((1, 1)), np.zeros((1, 1), np.uint64)
        )


@pytest.mark.parametrize("cut", [1, 14, 21])
def test_damaged_bytes_are_named(cut):
    record = STORED_HEADER.pack(1, 0, 8) + bytes(8)
    state = EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), 9)
    with pytest.raises(OperatorError, match=f"stored state of card 'b' is damaged: {cut} bytes"):
        state.load({"a": record, "b": record[:cut]})


def test_fields_of_an_old_definition_are_deleted_with_the_next_change_also_after_an_eviction():
    plan = of_group(GroupKind.COUNT, Aggregate.COUNT)
    stored = {"a": STORED_HEADER.pack(77, 5, 8) + bytes(8) + STORED_HEADER.pack(1, 3, 16) + bytes(16)}
    state = EntityState(plan, capacity=1)
    state.load(stored)  # evicted before it changes
    state.committed(feed(state, [], keys=[]).number)
    feed(state, [0], keys=["b"])
    state.committed(2)
    assert state.evictions == 1
    store: dict[str, Fields] = {"a": {(77, 5): bytes(8), (1, 3): bytes(16)}}
    batch = feed(state, [0], keys=["a"], stored=stored)
    stored_fields.write(store, batch.changes)
    assert sorted(store["a"]) == [(0, 0), (1, 0)]
    assert len(feed(state, [0], keys=["a"]).changes[0][1]) < len(batch.changes[0][1])


def test_only_changed_tiles_are_packed():
    state = EntityState(of_group(GroupKind.EXTREMES, Aggregate.MIN), 9)
    feed(state, [0, 1, 2], [5.0, 1.0, 5.0])
    assert feed(state, [1, 1], [1.0, 1.0]).changes == []
    ((_, records),) = feed(state, [3], [3.0]).changes
    assert len(records) == (22 + 8) + (22 + 16)  # the newest event time and one tile


def test_columns_of_any_kind_are_taken_without_compiling_again():
    state = EntityState(of_group(GroupKind.MOMENTS, Aggregate.SUM), 9)
    state.load({"a": None})
    times_us = np.zeros(3, np.int64)
    times_us.flags.writeable = False
    inputs = np.ones((3, 2))[:, :1]
    batch = state.update_batch(["a"] * 3, times_us, inputs, np.zeros((1, 3), np.uint64).T)
    assert batch.features[2, 0] == 2.0
    assert len(kernel.update.signatures) == 1  # type: ignore[attr-defined]


def test_without_packing_the_features_are_the_same():
    state, other = (EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), 9) for _ in range(2))
    state.load({"a": None})
    columns = np.arange(4) * MINUTE, np.ones((4, 1)), np.zeros((4, 1), np.uint64)
    batch = state.update_batch(["a"] * 4, *columns, pack=False)
    assert np.array_equal(batch.features, feed(other, [0, 1, 2, 3]).features, equal_nan=True)
    assert batch.changes == []


def test_memory_is_what_is_stated():
    plan = of_group(GroupKind.MOMENTS, Aggregate.SUM)
    state = EntityState(plan, capacity=4_096)
    state.load({str(key): None for key in range(4_096)})
    per_entity = state.nbytes / 4_096
    assert per_entity == 8 * (1 + 11 * 5) + 8 + 4
    assert per_entity < bytes_per_entity(plan) < per_entity + 300


def test_plans_that_contradict_themselves_are_refused():
    hour = 60 * MINUTE
    cases: list[tuple[str, WindowGroup | Point, tuple[Aggregate, int, int]]] = [
        ("ring of 61", WindowGroup(GroupKind.COUNT, 0, MINUTE, 60, 0, 1), (Aggregate.COUNT, 0, hour)),
        ("STD cannot be read", WindowGroup(GroupKind.COUNT, 0, MINUTE, 61, 0, 1), (Aggregate.STD, 0, hour)),
        (
            "source 1, but there are 1",
            WindowGroup(GroupKind.COUNT, 0, MINUTE, 61, 0, 1),
            (Aggregate.COUNT, 1, hour),
        ),
        ("must differ", WindowGroup(GroupKind.COUNT, 0, MINUTE, 61, 0, 0), (Aggregate.COUNT, 0, hour)),
        (
            f"1 .. {MOST_DISTINCT}",
            WindowGroup(GroupKind.DISTINCT, 0, MINUTE, 61, 9_000, 1),
            (Aggregate.DISTINCT, 0, hour),
        ),
        ("EWM cannot be read", Point(PointKind.LAST, 0, hour, 0, 1), (Aggregate.EWM, 0, hour)),
    ]
    for message, part, output in cases:
        with pytest.raises(DeveloperError, match=message):
            EntityState(a_plan(part, outputs=[output]), 9)
    with pytest.raises(DeveloperError, match="capacity 0"):
        EntityState(of_group(GroupKind.COUNT, Aggregate.COUNT), 0)


def test_functions_compile_where_nothing_can_be_written(tmp_path):
    source = tmp_path / "doubling.py"
    source.write_text(
        "from features.compiled import compiled\n\n@compiled\ndef double(x):\n    return 2 * x\n"
    )
    program = "from doubling import double; print(double(21), double.stats.cache_path)"
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(kernel.__file__).parents[1])])}
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": os.devnull}
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **paths, **more},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for more in ({}, nowhere)
    ]
    assert printed == [["42", str(tmp_path / "__pycache__")], ["42", "None"]]
