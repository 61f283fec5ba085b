"""A prediction as consumers read it: its keys, what is null, and what is decided, for every kind of label."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftwood import CostMatrix, DailyCapacity, Entity, Label, Threshold, categorical
from features.memory_store import MemoryStore
from models.model_store import ModelStore
from models.pipeline import Pipeline
from streams.frames import topic_digest
from streams.prediction import utc_texts
from streams.producer import partition_of
from tests.in_process import Road
from tests.shop_events import customer, orders, place, random_orders, shop
from tests.small_models import save_model

PLAIN: dict[str, Any] = {
    "order_id": "o1",
    "placed_at": "2024-05-01T12:00:00.25+02:00",
    "customer": "ann",
    "shop": 7,
    "amount": 12.5,
    "country": "DE",
}
KEYS = [
    *(
        "event_id",
        "event_time",
        "score",
        "decision",
        "threshold",
        "threshold_version",
        "parts",
        "pipeline_version",
        "features",
        "ages_s",
    ),
    *("flags", "arrived_ms", "position"),
]


def answered(
    pipeline: Pipeline, models: Path, *changes: dict[str, Any], partitions: int = 1
) -> list[dict[str, Any]]:
    """The predictions of events like PLAIN, one for each change, in order."""
    road = Road(pipeline, MemoryStore(), models, partitions)
    road.log.clock_ms = lambda: 1_714_557_600_500
    road.send([{**PLAIN, "order_id": f"o{at}", **change} for at, change in enumerate(changes)])
    road.run()
    return [road.predictions()[f"o{at}"] for at in range(len(changes))]


def with_model(pipeline: Pipeline, folder: Path, **more: Any) -> str:
    models = ModelStore(folder)
    version = save_model(models, pipeline, **more)
    models.promote("orders", version)
    return version


def test_a_prediction_says_everything_it_was_made_from(tmp_path):
    pipeline = orders(
        ["amount", categorical("country"), customer.mean("amount", "1h"), shop.count("1d")], fallback=0.25
    )
    later = {"placed_at": "2024-05-01T10:00:10Z", "amount": None, "country": None}
    first, second = answered(pipeline, tmp_path, {}, later)
    assert list(first) == KEYS
    version = first["parts"]["fallback"]["version"]
    assert first == {
        "event_id": "o0",
        "event_time": "2024-05-01T10:00:00.250000Z",
        "score": 0.25,
        "decision": False,
        "threshold": 0.5,
        "threshold_version": version,
        "parts": {"fallback": {"score": 0.25, "weight": 1.0, "version": version}},
        "pipeline_version": pipeline.version,
        "features": {"amount": 12.5, "country": "DE", "customer_amount_mean_1h": None, "shop_count_1d": 0.0},
        "ages_s": {"customer": None, "shop": None},
        "flags": ["fallback", "missing"],  # no earlier order to take a mean of
        "arrived_ms": 1_714_557_600_500,
        "position": f"orders.events@{topic_digest('orders.events@memory'):08x}/0/0",
    }
    assert version.startswith("fallback-")
    assert second["features"] == {
        "amount": None,
        "country": None,
        "customer_amount_mean_1h": 12.5,
        "shop_count_1d": 1.0,
    }
    assert second["ages_s"] == {"customer": 9.75, "shop": 9.75}


def test_the_record_is_keyed_by_event_id_and_its_headers_name_position_and_version(tmp_path):
    road = Road(orders(["amount"]), MemoryStore(), tmp_path, partitions=4)
    road.send([PLAIN], partition=3)
    road.run()
    [record] = road.log.records["orders.predictions", partition_of(b"o1", 4)]
    assert record.key == b"o1"
    position = b"orders.events@%08x/3/0" % topic_digest("orders.events@memory")
    assert dict(record.headers) == {
        "position": position,
        "pipeline_version": road.pipeline.version.encode(),
        "ce_specversion": b"1.0",
        "ce_id": position,
        "ce_type": b"driftwood.prediction.v1",
        "ce_source": b"orders.predictions",
        "ce_time": b"2024-05-01T10:00:00.250000Z",
    }


def test_there_is_no_such_thing_as_nan_in_the_json(tmp_path):
    road = Road(orders(), MemoryStore(), tmp_path, partitions=1)
    road.send(random_orders(random.Random(1), 50))
    road.run()
    for record in road.log.topic("orders.predictions"):
        json.loads(record.value or b"", parse_constant=pytest.fail)


# ---- scores and decisions by kind of label


def test_a_binary_label_is_decided_at_the_threshold(tmp_path):
    pipeline = orders(["amount"], fallback="amount / 100", decide=Threshold(0.125))
    below, at, above = answered(pipeline, tmp_path, {"amount": 12.4}, {"amount": 12.5}, {"amount": 99})
    assert [one["decision"] for one in (below, at, above)] == [False, True, True]
    assert [one["score"] for one in (below, at, above)] == [0.124, 0.125, 0.99]
    assert {one["threshold"] for one in (below, at, above)} == {0.125}


def test_costs_make_the_threshold_and_a_daily_capacity_has_none_before_there_is_a_model(tmp_path):
    costs = orders(["amount"], fallback=0.06, decide=CostMatrix(false_positive=5, false_negative=95))
    [one] = answered(costs, tmp_path, {})
    assert (one["threshold"], one["decision"]) == (0.05, True)
    [one] = answered(orders(["amount"], fallback=1.0, decide=DailyCapacity(3)), tmp_path, {})
    assert one["decision"] is False and one["threshold"] > 1.0


def test_without_a_declared_fallback_nobody_has_an_opinion(tmp_path):
    [one] = answered(orders(["amount"]), tmp_path, {})
    assert (one["score"], one["flags"]) == (0.5, ["fallback"])


def test_a_rule_that_has_no_value_scores_zero_and_is_cut_to_a_probability(tmp_path):
    pipeline = orders(["amount"], fallback="amount - 10")
    missing, high, low = answered(pipeline, tmp_path, {"amount": None}, {"amount": 50}, {"amount": 1})
    assert [one["score"] for one in (missing, high, low)] == [0.0, 1.0, 0.0]


def test_a_regression_has_a_number_and_decides_only_with_a_rule(tmp_path):
    label = Label("refund", kind="regression")
    [one] = answered(orders(["amount"], label=label, fallback="amount * 2"), tmp_path, {})
    assert (one["score"], one["decision"], one["threshold"]) == (25.0, None, None)
    [one] = answered(
        orders(["amount"], label=label, fallback="amount * 2", decide=Threshold(20.0)), tmp_path, {}
    )
    assert (one["decision"], one["threshold"]) == (True, 20.0)


@pytest.mark.parametrize("classes", [("paid", "late", "never"), (10, 20, 30)])
def test_several_classes_have_a_probability_each_and_the_likeliest_is_the_decision(tmp_path, classes):
    label = Label("outcome", kind="multiclass", classes=classes)
    pipeline = orders(["amount"], label=label, fallback=(0.2, 0.5, 0.3))
    [one] = answered(pipeline, tmp_path, {})
    assert one["score"] == {str(name): share for name, share in zip(classes, (0.2, 0.5, 0.3), strict=True)}
    assert (one["decision"], one["threshold"]) == (classes[1], None)
    assert one["parts"]["fallback"]["score"] == one["score"]


@pytest.mark.parametrize(
    "label",
    [
        Label("returned"),
        Label("refund", kind="regression"),
        Label("o", kind="multiclass", classes=("a", "b", "c")),
    ],
)
def test_a_trained_model_answers_for_every_kind_of_label(tmp_path, label):
    pipeline = orders(["amount", categorical("country"), customer.count("1d")], label=label)
    version = with_model(pipeline, tmp_path)
    for one in answered(pipeline, tmp_path, {}, {"amount": 90.0}, {"customer": None}):
        assert one["parts"]["lightgbm"] == {"score": one["score"], "weight": 1.0, "version": version}
        assert one["flags"] == []
        if label.kind == "multiclass":
            assert sum(one["score"].values()) == pytest.approx(1.0)
            assert one["decision"] == max(one["score"], key=one["score"].__getitem__)
        else:
            assert one["decision"] == (None if label.kind == "regression" else one["score"] >= 0.5)


# ---- keys, flags


def test_an_event_without_a_key_has_the_defaults_and_is_remembered_nowhere(tmp_path):
    features = [
        customer.count("1d"),
        customer.mean("amount", "1d", default=-1.0),
        place.count("1d"),
        shop.count("1d"),
    ]
    nobody: dict[str, Any] = {"customer": None, "street": "Main", "city": None}
    _, second = answered(orders(features), tmp_path, nobody, nobody)
    names = ("customer_count_1d", "customer_amount_mean_1d", "place_count_1d", "shop_count_1d")
    assert [second["features"][name] for name in names] == [0.0, -1.0, 0.0, 1.0]
    assert second["ages_s"] == {"customer": None, "place": None, "shop": 0.0}


def test_the_parts_of_a_composite_key_cannot_be_mistaken_for_each_other(tmp_path):
    changes = [
        {"street": street, "city": city}
        for street, city in [("a|b", "c"), ("a", "b|c"), ("a\\", "|c"), ("a|b", "c")]
    ]
    found = answered(orders([place.count("1d")]), tmp_path, *changes)
    assert [one["features"]["place_count_1d"] for one in found] == [0, 0, 0, 1]


def test_a_pipeline_without_entities_answers_and_drops_repeats(tmp_path):
    road = Road(orders(["amount"], fallback=0.1), MemoryStore(), tmp_path, partitions=2)
    road.send([PLAIN, PLAIN, {**PLAIN, "order_id": "o2"}])
    road.run()
    assert sorted(road.predictions()) == ["o1", "o2"]
    assert road.predictions()["o1"]["ages_s"] == {}
    assert road.counted("repeated_ids", stage="event") == 1


def test_whole_numbers_are_keys_and_categories_as_they_are_written(tmp_path):
    found = answered(
        orders([categorical("shop"), shop.count("1d")]), tmp_path, {"shop": 7}, {"shop": -7}, {"shop": 7}
    )
    assert [(one["features"]["shop"], one["features"]["shop_count_1d"]) for one in found] == [
        ("7", 0),
        ("-7", 0),
        ("7", 1),
    ]


def test_a_category_that_the_model_never_saw_is_flagged_and_a_missing_one_is_not(tmp_path):
    pipeline = orders(["amount", categorical("country")])
    with_model(pipeline, tmp_path, categories=("DE", "FR"))
    known, strange, missing = answered(pipeline, tmp_path, {}, {"country": "XX"}, {"country": None})
    assert [one["flags"] for one in (known, strange, missing)] == [[], ["unseen_category"], ["missing"]]
    assert strange["score"] == missing["score"]
    assert strange["features"]["country"] == "XX"


def test_an_event_too_late_for_a_window_is_answered_and_flagged(tmp_path):
    pipeline = orders([customer.count("1h"), customer.count("7d"), shop.count("7d")], fallback=0.1)
    days = [{"placed_at": f"2024-04-{day:02d}T12:00:00Z"} for day in (28, 27, 10)]
    found = answered(pipeline, tmp_path, *days)
    assert [one["flags"] for one in found] == [["fallback"], ["late", "fallback"], ["late", "fallback"]]
    assert [one["ages_s"]["customer"] for one in found] == [None, -86_400.0, -18 * 86_400.0]


def test_keys_with_any_character_and_of_any_length_that_is_allowed_are_entities(tmp_path):
    names = ["", " ", "|", "\\", "zoë 🚕", "\u0000", "x" * 256, "a/b:c", "{}"]
    found = answered(
        orders([Entity("customer").count("1d")]), tmp_path, *[{"customer": name} for name in names * 2]
    )
    assert [one["features"]["customer_count_1d"] for one in found] == [0] * len(names) + [1] * len(names)


def test_times_are_utc_with_microseconds_before_and_after_1970():
    texts = utc_texts(np.array([-1, 0, 4_102_444_800_000_000]))
    assert texts == [
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00.000000Z",
        "2100-01-01T00:00:00.000000Z",
    ]
