"""A prediction as consumers read it: its keys, what is null, and what is decided, for every kind of label."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftwood import (
    CostMatrix,
    DailyCapacity,
    Entity,
    Label,
    Threshold,
    bounded_tree,
    categorical,
    scaled_linear,
    scaled_logistic,
)
from features.memory_store import MemoryStore
from models.model_store import ModelStore
from models.pipeline import Pipeline
from streams import flags
from streams.frames import topic_digest
from streams.join_frames import IDLE_FRAME, read_idle
from streams.prediction import utc_texts
from streams.producer import partition_of
from streams.served import Served, ServedCodec
from streams.stage import TickingStage
from streams.versions import Versions, read_versions
from tests.in_process import CrashedError, CrashingStore, Road
from tests.learnt_snapshots import Shelf
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


# ---- of a pipeline that learns

ONLINE = [scaled_logistic(), bounded_tree()]


class Learns:
    """A pipeline that learns, its worker, and the snapshots that it finds."""

    def __init__(self, folder: Path, pipeline: Pipeline, partitions: int = 1) -> None:
        self.pipeline, self.shelf = pipeline, Shelf(pipeline)
        self.road = Road(pipeline, MemoryStore(), folder, partitions, feed=self.shelf.feed)

    def answer(self, *changes: dict[str, Any]) -> list[dict[str, Any]]:
        """Send events like PLAIN, one for each change, and give their predictions."""
        at = len(self.road.log.topic("orders.events"))
        names = [f"o{number}" for number in range(at, at + len(changes))]
        self.road.send([{**PLAIN, "order_id": n, **change} for n, change in zip(names, changes, strict=True)])
        asyncio.run(self.road.serving.look())
        self.road.run()
        return [self.road.predictions()[name] for name in names]

    def served(self) -> dict[str, tuple[Served, int]]:
        """By event id what stands on hop-join, and in which row of it."""
        codec = ServedCodec(self.pipeline)
        found = [codec.decode(record.value or b"") for record in self.road.log.topic("orders.hop-join")]
        return {
            event_id: (served, row)
            for served in found
            for row, event_id in enumerate(served.frame.rows.event_ids.to_pylist())
        }


def test_a_pipeline_that_does_not_learn_says_nothing_of_snapshots(tmp_path):
    road = Road(orders(["amount"]), MemoryStore(), tmp_path, partitions=1)
    assert not any("hop-join" in topic for topic in road.log.partitions)
    [one] = answered(orders(["amount"]), tmp_path, {})
    assert {"mode", "snapshot", "uncertainty", "uncertainty_of"}.isdisjoint(one)


def test_the_parts_of_a_blend_have_scores_weights_and_versions_and_their_spread_is_said(tmp_path):
    pipeline = orders(["amount", categorical("country")], online=ONLINE)
    model = with_model(pipeline, tmp_path)
    learns = Learns(tmp_path, pipeline)
    [before] = learns.answer({})
    assert list(before) == [*KEYS, "mode", "snapshot", "uncertainty", "uncertainty_of"]
    assert (before["mode"], before["snapshot"], before["uncertainty"]) == ("blend", None, None)
    assert before["parts"] == {"lightgbm": {"score": before["score"], "weight": 1.0, "version": model}}
    learns.shelf.publish(18, weights={"champion": 0.5, "scaled_logistic": 0.3, "bounded_tree": 0.2})
    for one in learns.answer({}, {"amount": 90.0}, {"amount": None}):
        parts = one["parts"]
        assert [(name, part["weight"], part["version"]) for name, part in parts.items()] == [
            ("lightgbm", 0.5, model),
            ("scaled_logistic", 0.3, "18"),
            ("bounded_tree", 0.2, "18"),
        ]
        assert (one["mode"], one["snapshot"], one["threshold_version"]) == ("blend", 18, model)
        low, high = one["uncertainty"]
        assert one["uncertainty_of"] == "spread of the parts"
        assert low == min(part["score"] for part in parts.values()) < one["score"] < high
        assert one["decision"] == (one["score"] >= one["threshold"])


@pytest.mark.parametrize(
    "label",
    [
        Label("returned"),
        Label("refund", kind="regression"),
        Label("o", kind="multiclass", classes=("a", "b", "c")),
    ],
)
def test_what_is_served_goes_to_the_join_stage_as_it_stands_in_the_prediction(tmp_path, label):
    features = ["amount", categorical("country"), customer.count("1h"), shop.mean("amount", "1d")]
    learner = scaled_linear() if label.kind == "regression" else scaled_logistic()
    pipeline = orders(features, label=label, online=[learner])
    with_model(pipeline, tmp_path)
    learns = Learns(tmp_path, pipeline, partitions=2)
    learns.answer({}, {"amount": None})
    learns.shelf.publish(7)
    learns.road.send(random_orders(random.Random(1), 60, first=2))
    asyncio.run(learns.road.serving.look())
    learns.road.run(batch=5)
    predictions, served = learns.road.predictions(), learns.served()
    assert predictions.keys() == served.keys() and len(served) == 62
    classes = [str(name) for name in label.classes]

    def number(score: Any) -> Any:
        return score if not classes else [score[name] for name in classes]

    for event_id, one in predictions.items():
        frame, row = served[event_id][0], served[event_id][1]
        assert frame.score[row].tolist() == number(one["score"])
        assert {name: part[row].tolist() for name, part in frame.parts.items()} == {
            name: number(part["score"]) for name, part in one["parts"].items()
        }
        assert frame.weights == {name: part["weight"] for name, part in one["parts"].items()}
        versions = read_versions(frame.versions)
        champion = next(iter(one["parts"].values()))["version"]
        snapshot = -2 if one["snapshot"] is None else one["snapshot"]
        assert versions == Versions(champion, pipeline.version, one["mode"], snapshot)
        assert flags.flag_names(int(frame.frame.flags[row])) == one["flags"]
        assert frame.frame.origin_offsets[row] == int(one["position"].rpartition("/")[2])
        matrix = pipeline.feature_set.assemble(frame.frame.rows, frame.frame.windows)
        assert one["features"]["customer_count_1h"] == matrix.number("customer_count_1h")[row]
    assert {one["snapshot"] for one in predictions.values()} == {None, 7}


def test_the_threshold_of_a_regression_without_a_rule_is_null_and_so_is_its_version(tmp_path):
    pipeline = orders(["amount"], label=Label("refund", kind="regression"), online=[scaled_linear()])
    learns = Learns(tmp_path, pipeline)
    [one] = learns.answer({})
    assert (one["threshold"], one["threshold_version"], one["decision"]) == (None, None, None)
    [(served, _)] = learns.served().values()
    assert np.isnan(served.threshold)


def test_a_part_that_can_say_nothing_is_null(tmp_path, monkeypatch):
    pipeline = orders(["amount"], fallback=0.25, online=[scaled_logistic()])
    learns = Learns(tmp_path, pipeline)
    learns.shelf.publish(3)
    asyncio.run(learns.road.serving.look())
    blend = learns.road.serving.pinned(learns.road.serving.versions()).blend
    assert blend is not None
    monkeypatch.setattr(
        blend._learners["scaled_logistic"].__class__, "score", lambda _, matrix: np.full(len(matrix), np.nan)
    )
    [one] = learns.answer({})
    assert one["parts"]["scaled_logistic"]["score"] is None
    assert one["score"] == pytest.approx(0.25)


@pytest.mark.parametrize(("mode", "parts"), [("champion", 3), ("fallback", 1)])
def test_the_operators_switch_is_said_on_predictions(tmp_path, mode, parts):
    pipeline = orders(["amount"], fallback=0.25, online=ONLINE)
    with_model(pipeline, tmp_path)
    learns = Learns(tmp_path, pipeline)
    learns.shelf.publish(3)
    learns.shelf.mode = mode
    [one] = learns.answer({})
    assert (one["mode"], len(one["parts"]), one["uncertainty"]) == (mode, parts, None)
    first = next(iter(one["parts"].values()))
    assert (first["weight"], first["score"]) == (1.0, one["score"])
    assert ("fallback" in one["flags"]) == (mode == "fallback")


def test_what_is_pinned_to_a_snapshot_that_is_lost_is_answered_by_the_champion_and_flagged(tmp_path):
    pipeline = orders(["amount"], fallback=0.25, online=ONLINE)
    shelf, store = Shelf(pipeline), CrashingStore(MemoryStore())
    shelf.publish(3)
    road = Road(pipeline, store, tmp_path, 1, feed=shelf.feed)
    road.send([PLAIN])
    asyncio.run(road.serving.look())
    store.armed = "claimed"
    with pytest.raises(CrashedError):
        road.run()
    shelf.sealed.clear()
    again = Road(pipeline, store, tmp_path, 1, log=road.log, feed=shelf.feed)
    again.read["orders.events", 0] = 1
    again.run()
    [one] = again.predictions().values()
    assert one["flags"] == ["fallback", "snapshot_lost"]
    assert (one["mode"], one["snapshot"], list(one["parts"])) == ("champion", None, ["fallback"])


def test_the_last_stage_says_how_far_it_is_to_every_partition_of_hop_join(tmp_path):
    pipeline = orders([customer.count("1h"), shop.count("1h")], online=ONLINE)
    learns = Learns(tmp_path, pipeline, partitions=2)
    learns.answer({"placed_at": "2024-05-01T10:00:00Z", "shop": 1})
    road = learns.road
    [place] = [place for place in road.memories if place[0] == "orders.hop-shop" and road.read[place]]
    stage, memory = road.stages.entities["orders.hop-shop"], road.memories[place]
    assert isinstance(stage, TickingStage)
    assert not isinstance(road.stages.entities["orders.hop-customer"], TickingStage)
    asyncio.run(stage.tick(memory, idle=True))
    for number in (0, 1):
        said = road.log.records["orders.hop-join", number][-1]
        assert (said.header("frame"), said.header("upstream")) == (IDLE_FRAME, memory.upstream.encode())
        idle = read_idle(said.value or b"")
        assert (idle.feed, idle.mark_us, idle.idle) == ("served", 1_714_557_600_000_000, True)
    written = len(road.log.topic("orders.hop-join"))
    memory.in_flight = (memory.applied + 1,)  # its rows are not there yet: a mark would come before them
    asyncio.run(stage.tick(memory, idle=False))
    assert len(road.log.topic("orders.hop-join")) == written


# ---- hold-out, staleness


def test_the_share_that_is_held_out_is_flagged_whoever_answers_and_however_often(tmp_path):
    label = Label("returned", holdout=0.25)
    changes: list[dict[str, Any]] = [{"amount": float(number)} for number in range(400)]
    found = answered(orders(["amount"], label=label), tmp_path, *changes)
    held = [one["event_id"] for one in found if "holdout" in one["flags"]]
    assert 60 < len(held) < 140
    again = answered(orders(["amount", "express"], label=label), tmp_path, *changes[::-1], partitions=3)
    assert sorted(one["event_id"] for one in again if "holdout" in one["flags"]) == sorted(held)
    assert not any("holdout" in one["flags"] for one in answered(orders(["amount"]), tmp_path, {}))


def test_an_entity_that_was_silent_for_longer_than_its_longest_window_is_stale(tmp_path):
    pipeline = orders([customer.count("1h", "2h"), shop.count("30d")], fallback=0.1)
    days = [{"placed_at": f"2024-05-01T{hour:02d}:00:00Z"} for hour in (1, 3, 6)]
    found = answered(pipeline, tmp_path, *days, {"placed_at": "2024-05-01T06:00:00Z", "customer": "new"})
    assert ["stale" in one["flags"] for one in found] == [False, False, True, False]
    assert found[2]["features"]["customer_count_2h"] == 0.0
