"""Windows over labels as a pipeline declares them: what they become, and the mistakes that depend on the label."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import pytest

from driftwood import Entity, Label, Pipeline, PipelineError, known_later
from features.durations import HOUR_US, MINUTE_US
from features.label_rows import LabelRows
from features.layout import stored_bytes_per_entity
from features.plan import Aggregate, EntityPlan, GroupKind
from features.state import EntityState


class Landing(msgspec.Struct):
    flight_id: str
    at: int
    origin: str
    aircraft: str
    taxi_minutes: float = 0.0
    late: Annotated[bool | None, known_later] = None
    delay_minutes: Annotated[float | None, known_later] = None


origin, aircraft = Entity("origin"), Entity("aircraft")
LATE = Label("late", horizon="3d", values=("delay_minutes", "gate_minutes"))
WAYS = Label("way", kind="multiclass", classes=("on time", "late", "cancelled"), values=("delay_minutes",))


def declare(*features: Any, label: Label = LATE) -> Pipeline:
    return Pipeline(
        "landings", event=Landing, id="flight_id", time="at", time_unit="s", features=features, label=label
    )


def plan_of(*features: Any, label: Label = LATE) -> EntityPlan:
    return declare(*features, label=label).feature_set.entities[0]


def test_windows_over_one_input_with_tiles_of_one_size_share_a_group_whatever_they_read():
    plan = plan_of(
        origin.rate("late", "1h", "3h", "12h"),
        origin.count("late", "3h"),
        origin.std("delay_minutes", "3h"),
        origin.mean("taxi_minutes", "3h"),
    )
    over_labels = [group for group in plan.groups if group.kind is GroupKind.SUMS]
    assert [(group.column, group.tile_us, group.ring) for group in over_labels] == [
        (0, 5 * MINUTE_US, 37 + 72),
        (0, HOUR_US, 13 + 6),
        (1, 5 * MINUTE_US, 37 + 72),
    ]
    names = ["origin_late_rate_1h", "origin_late_rate_3h", "origin_late_rate_12h", "origin_late_count_3h"]
    assert [output.name for output in plan.outputs[:4]] == names
    assert [output.aggregate for output in plan.outputs[:4]] == [Aggregate.MEAN] * 3 + [Aggregate.COUNT]
    assert len(plan.inputs) == 1  # what is known of labels is no column of events


def test_the_label_comes_first_then_those_of_its_values_that_a_window_is_over():
    assert plan_of(origin.mean("gate_minutes", "1d"), origin.rate("late", "1d")).label_inputs == (
        "late",
        "gate_minutes",
    )
    assert plan_of(origin.mean("gate_minutes", "1d")).label_inputs == ("gate_minutes",)
    assert plan_of(origin.count("1d")).label_inputs == ()


def test_only_an_entity_with_windows_over_labels_has_label_inputs():
    first, second = declare(origin.rate("late", "1h"), aircraft.count("7d")).feature_set.entities
    assert (first.label_inputs, second.label_inputs) == (("late",), ())
    assert stored_bytes_per_entity(first) > stored_bytes_per_entity(plan_of(origin.count("1h")))


def test_units_ranges_and_defaults_follow_from_the_aggregate():
    made = declare(
        origin.rate("late", "1h"), origin.count("late", "1h"), origin.mean("delay_minutes", "1h", unit="min")
    )
    rate, count, mean = made.feature_set.features
    assert np.isnan(rate.default) and (rate.unit, rate.low, rate.high) == ("share", 0.0, 1.0)
    assert (count.default, count.unit, count.low, count.high) == (0.0, "labels", 0.0, None)
    assert np.isnan(mean.default) and (mean.unit, mean.low, mean.high) == ("min", None, None)
    assert rate.declared == "origin.rate('late', '1h')" and count.declared == "origin.count('late', '1h')"


def test_the_hash_changes_with_the_label_where_a_window_is_over_it_and_only_there():
    def hashed(label: Label, *features: Any) -> str:
        return declare(*features, label=label).feature_set.hash

    slow, counted = Label("late", horizon="9d"), Label("late", horizon="3d", when_silent=0)
    assert hashed(LATE, origin.count("1d")) == hashed(slow, origin.count("1d"))
    assert len({hashed(label, origin.rate("late", "1d")) for label in (LATE, slow, counted)}) == 3


MISTAKES: list[tuple[Any, Label, str, str]] = [
    (origin.rate("delay_minutes", "1d"), LATE, "a number beside the label", "mean('delay_minutes', …)"),
    (
        origin.rate("late", "1d"),
        Label("late", kind="regression"),
        "rate of a regression label",
        "mean('late'",
    ),
    (origin.rate("way", "1d"), WAYS, "rate of a multiclass label", "count, or a window over a number"),
    (origin.sum("way", "1d"), WAYS, "sum of classes", "count, or a window over a number"),
    (origin.ewm("delay_minutes", half_life="1h"), LATE, "ewm over labels", "no ewm can take back"),
    (origin.distinct("late", "1d"), LATE, "distinct over labels", "no distinct can take back"),
    (origin.mean("delay_minutes", "1d"), Label("late"), "delay_minutes (float) is known_later", "known at"),
]


@pytest.mark.parametrize(("feature", "label", "seen", "expected"), MISTAKES)
def test_a_mistake_names_what_the_label_allows(feature, label, seen, expected):
    with pytest.raises(PipelineError) as caught:
        declare(feature, label=label)
    assert seen in caught.value.seen and expected in caught.value.expected, str(caught.value)


def test_a_field_of_the_event_must_not_be_what_comes_with_the_label():
    class Open(Landing):
        gate_minutes: float = 0.0

    with pytest.raises(PipelineError, match="gate_minutes: it comes with the label, which nobody knows"):
        Pipeline(
            "landings",
            event=Open,
            id="flight_id",
            time="at",
            time_unit="s",
            features=["taxi_minutes"],
            label=LATE,
        )


def test_classes_can_be_counted():
    assert plan_of(origin.count("way", "1d"), label=WAYS).label_inputs == ("way",)


@pytest.mark.parametrize(("ahead_h", "counted"), [(0, 1.0), (5, 1.0), (8, 0.0)])
def test_labels_that_run_ahead_of_the_events_take_nothing_from_their_windows_for_six_hours(ahead_h, counted):
    plan = plan_of(origin.count("late", "1h"))
    state = EntityState(plan, 10)
    state.load({"JFK": None})
    labels = LabelRows.of(["JFK", "JFK"], [0, ahead_h * HOUR_US], [[1.0], [1.0]])
    at = np.array([59 * MINUTE_US])  # within the hour of the first label
    nothing = np.zeros((1, 0))
    batch = state.update_batch(
        ["JFK"], at, nothing, nothing.astype(np.uint64), labels=labels, labels_before=np.zeros(2, np.int64)
    )
    assert batch.features[0, 0] == counted + (ahead_h == 0)
