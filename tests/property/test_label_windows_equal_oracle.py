"""Windows over labels equal what brute force finds, with label rows, corrections and late ones among the events."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.label_rows import NO_TIME, LabelRows
from features.oracle import LARGEST, Answer, Label, Oracle, Row
from features.plan import EntityPlan, Floats, GroupKind, Ints
from features.state import EntityState
from tests import stored_fields
from tests.random_plans import Events, events, known_labels, plans_over_labels, run, run_with_labels
from tests.stored_fields import Fields

TOLERANCE = 1e-9

cases = st.tuples(plans_over_labels(), events()).flatmap(
    lambda case: known_labels(case[1]).map(lambda known: (*case, *known))
)
Case = tuple[EntityPlan, Events, LabelRows, Ints]


def by_brute_force(
    plan: EntityPlan, rows: Events, labels: LabelRows, before: Ints
) -> tuple[list[Answer], int]:
    """The answers, and how often a label came too late."""
    oracle, dropped, label = Oracle(plan), 0, 0
    answers = []
    for row, key in enumerate([*rows.keys, None]):
        while label < len(labels) and before[label] <= row:
            dropped += oracle.know(labels.keys[label], _label(labels, label))
            label += 1
        if row < len(rows.keys):
            columns = (int(rows.times_us[row]), rows.inputs[row].tolist(), rows.hashes[row].tolist())
            answers.append(oracle.answer(key, Row(*columns)))
    return answers, dropped


def _label(labels: LabelRows, row: int) -> Label:
    replaced_us = int(labels.replaced_known_us[row])
    return Label(
        int(labels.known_us[row]),
        labels.values[row].tolist(),
        None if replaced_us == NO_TIME else replaced_us,
        labels.replaced[row].tolist(),
    )


def over_labels(plan: EntityPlan, features: Floats) -> Any:
    columns = [
        at
        for at, output in enumerate(plan.outputs)
        if output.name.startswith("l") and plan.groups[output.source].kind == GroupKind.SUMS
    ]
    return features[:, columns]


@given(cases)
def test_windows_over_labels_equal_brute_force(case: Case):
    plan, rows, labels, before = case
    answers, dropped = by_brute_force(*case)
    batch = run_with_labels(EntityState(plan, capacity=10), rows, labels, before, {})
    expected = over_labels(plan, np.array([answer.features for answer in answers]))
    seen = over_labels(plan, batch.features)
    assert np.array_equal(np.isnan(seen), np.isnan(expected))
    # What is left of great values that were taken out again is right relative to them.
    greatest = max((abs(x) for x in labels.values.ravel().tolist() if abs(x) <= LARGEST), default=0.0)
    assert not (np.abs(seen - expected) / max(1.0, greatest) > TOLERANCE).any(), (seen, expected)
    assert batch.labels_dropped == dropped


@given(cases)
def test_labels_change_nothing_but_windows_over_labels(case: Case):
    plan, rows, labels, before = case
    with_labels = run_with_labels(EntityState(plan, capacity=10), rows, labels, before, {})
    without = run(EntityState(plan, capacity=10), rows, {})
    others = [
        at for at, output in enumerate(plan.outputs) if not output.name.startswith("l")
    ]  # windows over events
    assert with_labels.features[:, others].tobytes() == without.features[:, others].tobytes()
    for name in ("age_s", "late", "dropped"):
        assert getattr(with_labels, name).tobytes() == getattr(without, name).tobytes()
    newest = dict(zip((key for key, _ in without.changes), without.newest_rows.tolist(), strict=True))
    changed = zip((key for key, _ in with_labels.changes), with_labels.newest_rows.tolist(), strict=True)
    assert {key: row for key, row in changed if row >= 0} == {
        key: row for key, row in newest.items() if row >= 0
    }


def in_pieces(case: Case, ends: list[int], *, forget: bool) -> tuple[bytes, dict[str, Fields]]:
    """The features and what the store has in the end, when the events are cut there, and labels stand at any cut."""
    plan, rows, labels, before = case
    state, store, features = EntityState(plan, 10), dict[str, Fields](), b""
    bounds = sorted({0, *(end for end in ends if end < len(rows.keys)), len(rows.keys)})
    for begin, end in pairwise(bounds):
        last = end == len(rows.keys)
        chosen = np.flatnonzero((before >= begin) & ((before < end) | last))
        piece = (rows.cut(begin, end), labels.take(chosen), before[chosen] - begin)
        batch = run_with_labels(state, *piece, stored_fields.packed_all(store))
        features += batch.features.tobytes()
        stored_fields.write(store, batch.changes)
        state.committed(batch.number)
        if forget:
            state.forget()
    return features, store


@given(cases, st.lists(st.integers(1, 60), max_size=8), st.booleans())
def test_neither_cutting_batches_nor_a_trip_through_the_store_changes_a_bit(case: Case, ends, forget):
    assert in_pieces(case, ends, forget=forget) == in_pieces(case, [], forget=False)
