# ruff: noqa: PD011  # the values here are a FeatureMatrix's, not pandas'
"""Windows over labels of past events: point in time, whatever the files look like, as brute force has them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from driftwood import Entity, Label, LightGBM, Pipeline, known_later
from features.errors import DeveloperError
from features.oracle import Label as LabelRow
from features.oracle import Oracle, Row
from models.model_store import ModelStore
from offline.backfill import Backfill, compute_features
from offline.train import labelled_features, train


class Landing(msgspec.Struct):
    flight_id: str
    at: int
    origin: str
    aircraft: str | None
    wind: float
    late: Annotated[bool | None, known_later] = None


origin, aircraft = Entity("origin"), Entity("aircraft")
MINUTE = 60
HORIZON = 1_440 * MINUTE


def pipeline(**other: Any) -> Pipeline:
    declared: dict[str, Any] = {
        "label": Label("late", horizon="1d", values=("delay",)),
        "features": [
            "wind",
            origin.rate("late", "1h", "6h"),
            origin.mean("delay", "6h"),
            origin.std("delay", "1h"),
            origin.count("1h"),
            aircraft.count("late", "12h"),
            aircraft.sum("delay", "12h"),
        ],
    }
    return Pipeline("landings", event=Landing, id="flight_id", time="at", time_unit="s", **(declared | other))


def landings(count: int = 300, seed: int = 5) -> pd.DataFrame:
    """Several at one moment, some without an aircraft; in random order."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "flight_id": [f"f{number}" for number in random.permutation(count)],
            "at": 1_700_000_000 + random.integers(0, 2_000, count) * MINUTE,
            "origin": random.choice(["JFK", "EWR"], count),
            "aircraft": np.array([None, "a", "b", "c"], dtype=object)[random.integers(0, 4, count)],
            "wind": random.gamma(2, 9, count),
        }
    )


def lines_of(table: pd.DataFrame) -> list[Any]:
    """Its rows as named tuples."""
    return list(table.itertuples())


def known(events: pd.DataFrame, seed: int = 6) -> pd.DataFrame:
    """Most labels once, in random order; some never, some twice, some corrected, null, too late or too early."""
    random = np.random.default_rng(seed)
    lines: list[Any] = []
    for event in lines_of(events):
        at = event.at
        delay = random.integers(30, 600) * MINUTE
        for _ in range(random.choice([0, 1, 2, 3], p=[0.1, 0.6, 0.2, 0.1])):
            late = None if random.random() < 0.1 else int(random.random() < 0.4)
            minutes = float(random.normal(30 * (late or 0), 10))
            lines.append((event.flight_id, late, minutes, at + delay))
            if random.random() < 0.2:
                lines.append((event.flight_id, late, minutes, at + delay + MINUTE))  # said again
            delay += random.integers(0, 600) * MINUTE
    lines += [(events.flight_id[0], 1, 5.0, int(events["at"][0]) - MINUTE), ("nobody", 1, 5.0, 1_700_009_000)]
    table = pd.DataFrame(lines, columns=["flight_id", "late", "delay", "known_at"])
    return table.sample(frac=1.0, random_state=seed, ignore_index=True)


def features_of(
    events: pd.DataFrame, labels: pd.DataFrame, declared: Pipeline | None = None, **how: Any
) -> Backfill:
    return labelled_features(declared or pipeline(), events, labels, **how)[0]


def by_brute_force(events: pd.DataFrame, labels: pd.DataFrame, when_silent: float | None = None) -> Any:
    """float64[n, windows]: everything that happened, in the order of (time, event before label, id), told one by one."""
    told: list[tuple[int, int, str, Any]] = []
    for event in lines_of(events):
        told.append((event.at, 0, event.flight_id, event))
        own: pd.DataFrame = labels[labels.flight_id == event.flight_id].sort_values("known_at", kind="stable")
        said: tuple[int, list[float]] | None = None
        inside = [(row.known_at, float(row.late), float(row.delay)) for row in lines_of(own)]
        inside = [
            row if row[1] == row[1] else (row[0], np.nan, np.nan) for row in inside
        ]  # null has no values
        inside = [row for row in inside if 0 <= row[0] - event.at <= HORIZON]
        if not inside and when_silent is not None:
            inside = [(event.at + HORIZON, when_silent, np.nan)]
        for known_at, *values in inside:
            if said is not None and np.array_equal(said[1], values, equal_nan=True):
                continue
            told.append((known_at, 1, event.flight_id, (event, values, said)))
            said = (known_at, values)
    answers = []
    oracles = [(plan, Oracle(plan)) for plan in pipeline().feature_set.entities]
    for at, is_label, _, what in sorted(told, key=lambda one: one[:3]):
        if is_label:
            event, values, said = what
            for plan, oracle in oracles:
                columns = [("late", "delay").index(name) for name in plan.label_inputs]
                replaced_us = None if said is None else said[0] * 1_000_000
                gone = [] if said is None else [said[1][column] for column in columns]
                row = LabelRow(at * 1_000_000, [values[column] for column in columns], replaced_us, gone)
                if (key := getattr(event, plan.entity)) is not None:
                    oracle.know(key, row)
        else:
            row_of = [
                oracle.answer(getattr(what, plan.entity), Row(at * 1_000_000, [1.0] * len(plan.inputs), []))
                for plan, oracle in oracles
            ]
            answers.append([value for answer in row_of for value in answer.features])
    return np.array(answers)


def test_windows_over_labels_equal_brute_force_with_corrections_nulls_and_labels_out_of_bounds():
    events = landings()
    labels = known(events)
    filled = features_of(events, labels)
    expected = by_brute_force(events, labels)
    assert np.isnan(expected).mean() < 0.5
    assert filled.matrix.values[:, 1:] == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_where_silence_is_a_label_it_is_known_at_the_end_of_the_horizon():
    events = landings()
    labels = known(events)
    counting = pipeline(label=Label("late", horizon="1d", values=("delay",), when_silent=0))
    filled = features_of(events, labels, counting)
    expected = by_brute_force(events, labels, when_silent=0.0)
    assert filled.matrix.values[:, 1:] == pytest.approx(expected, nan_ok=True, abs=1e-9)
    assert not np.array_equal(expected, by_brute_force(events, labels), equal_nan=True)


@pytest.mark.parametrize("later", [1, 90, 86_400])
def test_a_label_that_becomes_known_later_changes_no_feature_of_an_event_up_to_then(later):
    events = landings(count=120)
    labels = known(events)
    before = features_of(events, labels)
    moved = 0
    for row in range(0, len(labels), 7):
        changed = labels.copy()
        known_at = int(labels.known_at[row])
        changed.loc[row, "known_at"] = known_at + later
        after = features_of(events, changed)
        earlier = before.times_us <= known_at * 1_000_000
        assert after.matrix.values[earlier].tobytes() == before.matrix.values[earlier].tobytes()
        moved += after.matrix.values.tobytes() != before.matrix.values.tobytes()
    assert moved or later == 1, "no window noticed any of the labels"


def test_what_a_label_says_changes_no_feature_of_an_event_up_to_the_time_it_became_known():
    events = landings(count=120)
    labels = known(events)
    before = features_of(events, labels)
    changed_some = 0
    for row in range(0, len(labels), 5):
        other = labels.copy()
        other.loc[row, ["late", "delay"]] = [1 - (labels.late[row] or 0), 77.0]
        after = features_of(events, other)
        earlier = before.times_us <= int(labels.known_at[row]) * 1_000_000
        assert after.matrix.values[earlier].tobytes() == before.matrix.values[earlier].tobytes()
        changed_some += after.matrix.values.tobytes() != before.matrix.values.tobytes()
    assert changed_some > 10


def test_an_event_at_the_very_moment_at_which_a_label_became_known_does_not_see_it():
    events = pd.DataFrame(
        {
            "flight_id": ["f1", "f2", "f3"],
            "at": [1_700_000_000, 1_700_000_600, 1_700_000_601],
            "origin": "JFK",
            "aircraft": "a",
            "wind": 1.0,
        }
    )
    labels = pd.DataFrame({"flight_id": ["f1"], "late": [1], "delay": [9.0], "known_at": [1_700_000_600]})
    rates = features_of(events, labels).matrix.number("origin_late_rate_1h")
    assert np.array_equal(rates, [np.nan, np.nan, 1.0], equal_nan=True)


def test_a_correction_takes_back_what_was_said():
    events = pd.DataFrame(
        {
            "flight_id": ["f1", "f2", "f3"],
            "at": [1_700_000_000, 1_700_001_000, 1_700_002_000],
            "origin": "JFK",
            "aircraft": "a",
            "wind": 1.0,
        }
    )
    labels = pd.DataFrame(
        {
            "flight_id": ["f1", "f1"],
            "late": [1, 0],
            "delay": [40.0, 4.0],
            "known_at": [1_700_000_600, 1_700_001_600],
        }
    )
    filled = features_of(events, labels).matrix
    assert np.array_equal(filled.number("origin_late_rate_1h"), [np.nan, 1.0, 0.0], equal_nan=True)
    assert np.array_equal(filled.number("aircraft_late_count_12h"), [0, 1, 1])
    assert np.array_equal(filled.number("aircraft_delay_sum_12h"), [0, 40, 4])


@pytest.mark.parametrize("chunk_rows", [1, 7, 100])
def test_how_the_history_is_cut_changes_no_bit(chunk_rows):
    events = landings()
    labels = known(events)
    whole, pieces = features_of(events, labels), features_of(events, labels, chunk_rows=chunk_rows)
    assert whole.matrix.values.tobytes() == pieces.matrix.values.tobytes()


def test_the_order_of_the_files_changes_no_bit():
    events = landings()
    labels = known(events).drop_duplicates(["flight_id", "known_at"], ignore_index=True)
    shuffled = labels.sample(frac=1.0, random_state=9, ignore_index=True)
    again = features_of(events.sample(frac=1.0, random_state=9, ignore_index=True), shuffled)
    assert again.matrix.values.tobytes() == features_of(events, labels).matrix.values.tobytes()


def test_training_learns_from_windows_over_labels_and_needs_their_numbers_in_the_file(tmp_path):
    model = LightGBM(rounds=5, num_leaves=4, min_data_in_leaf=5)
    declared = pipeline(batch=model)
    events = landings(count=1_000)
    labels = known(events)
    report = train(declared, events, labels, store=ModelStore(tmp_path))
    assert {entry.name for entry in report.card.features} >= {"origin_late_rate_1h", "aircraft_delay_sum_12h"}
    with pytest.raises(DeveloperError, match="no column 'delay', which a window is over"):
        train(declared, events, labels.drop(columns="delay"), store=ModelStore(tmp_path))
    with pytest.raises(DeveloperError, match=r"label value delay, .*'long'; expected a number"):
        train(declared, events, labels.assign(delay="long"), store=ModelStore(tmp_path))


def test_features_without_the_labels_that_they_need_are_refused():
    with pytest.raises(DeveloperError, match="windows over labels, so its features need the labels"):
        compute_features(pipeline().feature_set, landings())
