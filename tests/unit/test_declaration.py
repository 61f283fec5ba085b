"""What a pipeline compiles to: names, units, defaults, plans, hashes; and how its file is found and loaded."""

import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest
from msgspec import Meta

import driftwood
from driftwood import (
    CostMatrix,
    DailyCapacity,
    Entity,
    Label,
    LightGBM,
    Pipeline,
    PipelineError,
    Threshold,
    categorical,
    day_of_week,
    expression,
    hour_of_day,
    load_pipeline,
    sensitive,
    unit,
)
from features.durations import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from features.errors import DeveloperError
from features.plan import Aggregate, GroupKind, Input, PointKind
from features.schema import MASK


class Order(msgspec.Struct):
    order_id: int
    placed: datetime
    shop: int
    customer: str | None
    country: str
    total: Annotated[float, Meta(ge=0, le=1e6), unit("EUR"), sensitive]
    express: bool = False
    currency: str = msgspec.field(default="EUR", name="Currency Code")


shop, customer = Entity("shop"), Entity("customer")
pair = Entity("pair", keys=("shop", "customer"))


def orders(features: list[Any], **changed: Any) -> Pipeline:
    declared: dict[str, Any] = {
        "event": Order,
        "id": "order_id",
        "time": "placed",
        "label": Label("returned", horizon="180d"),
        **changed,
    }
    return Pipeline("orders", features=features, **declared)


def test_features_are_named_after_entity_field_aggregate_and_window_as_written():
    pipeline = orders(
        [
            "total",
            categorical("currency"),
            hour_of_day("Europe/Paris"),
            shop.count("60m", "1h"),
            shop.sum("total", "7d"),
            customer.last("total"),
            customer.since_last(),
            pair.ewm("total", half_life="2h"),
            shop.distinct("customer", "30d"),
            shop.count("1d", where="express", name="express_orders"),
            expression("share", "express_orders_1d / shop_count_1h"),
        ]
    )
    assert pipeline.feature_set.names == (
        "total",
        "currency",
        "hour_of_day",
        "shop_count_60m",
        "shop_count_1h",
        "shop_total_sum_7d",
        "customer_total_last",
        "customer_since_last",
        "pair_total_ewm_2h",
        "shop_customer_distinct_30d",
        "express_orders_1d",
        "share",
    )


def test_windows_over_one_input_and_tile_share_a_group_and_entities_stand_in_order_of_appearance():
    feature_set = orders(
        [
            customer.mean("total", "1h", "3h"),
            shop.std("total", "2d"),
            customer.sum("total", "11h"),
            customer.mean("total", "1h", where="express", name="express_mean"),
        ]
    ).feature_set
    assert [plan.entity for plan in feature_set.entities] == ["customer", "shop"]
    plan = feature_set.entities[0]
    assert plan.inputs == (Input("total"), Input("total", "express"))
    assert [(group.kind, group.tile_us, group.ring) for group in plan.groups] == [
        (GroupKind.MOMENTS, 5 * MINUTE_US, 133),  # 11 h of 5 minutes, and the tile that the beginning cuts
        (GroupKind.MOMENTS, 5 * MINUTE_US, 13),
    ]
    assert [output.source for output in plan.outputs] == [0, 0, 0, 1]
    assert feature_set.windows == (*[output.name for output in plan.outputs], "shop_total_std_2d")
    assert feature_set.window_slice("shop") == slice(4, 5)


@pytest.mark.parametrize(
    ("window", "tile_us", "ring"),
    [
        ("1m", 15 * SECOND_US, 5),
        ("11m", 15 * SECOND_US, 45),
        ("12m", MINUTE_US, 13),
        ("1h", 5 * MINUTE_US, 13),
        ("12h", HOUR_US, 13),
        ("287h", HOUR_US, 288),
        ("12d", DAY_US, 13),
        ("90d", DAY_US, 91),
    ],
)
def test_a_window_has_the_tile_of_its_width(window, tile_us, ring):
    group = orders([shop.count(window)]).feature_set.entities[0].groups[0]
    assert (group.tile_us, group.ring) == (tile_us, ring)


def test_points_keep_their_reach_and_half_life():
    plan = orders([shop.last("total", within="2d"), shop.since_last(), shop.ewm("total", half_life="30s")])
    points = plan.feature_set.entities[0].points
    assert [(point.kind, point.within_us, point.half_life_us) for point in points] == [
        (PointKind.LAST, 2 * DAY_US, 0),
        (PointKind.SEEN, 90 * DAY_US, 0),
        (PointKind.DECAYED, 90 * DAY_US, 30 * SECOND_US),
    ]


def test_defaults_units_and_ranges_follow_from_the_aggregate_and_its_field():
    made = orders([shop.count("1d"), shop.mean("total", "1d"), shop.sum("total", "1d", default=-1, unit="€")])
    count, mean, total = made.feature_set.features
    assert (count.default, count.unit, count.low, count.high) == (0.0, "events", 0.0, None)
    assert np.isnan(mean.default) and (mean.unit, mean.low, mean.high) == ("EUR", 0, 1e6)
    assert (total.default, total.unit, total.privacy) == (-1.0, "€", "sensitive")
    assert made.feature_set.entities[0].outputs[2].aggregate is Aggregate.SUM


def test_only_fields_that_something_needs_travel_and_a_whole_number_key_travels_as_text():
    layout = orders(["total", shop.count("1d"), pair.count("1d", where="country == 'FR'")]).feature_set.layout
    assert layout.numbers == ("total",) and layout.texts == ("shop", "customer", "country")


def test_what_is_made_of_a_sensitive_field_is_hidden_in_views_with_what_is_made_of_that():
    feature_set = orders(
        [
            "total",
            "express",
            shop.mean("total", "1d"),
            shop.count("1d"),
            shop.count("1d", where="total > 100", name="large"),
            expression("share", "large_1d / shop_count_1d"),
            expression("b", "a + 1"),
            expression("a", "total + 1"),
        ]
    ).feature_set
    served: dict[str, object] = dict.fromkeys(feature_set.names, 1.0)
    hidden = {name for name, value in feature_set.masked(served).items() if value == MASK}
    assert hidden == {"total", "shop_total_mean_1d", "large_1d", "share", "a", "b"}
    assert feature_set.masked({"total": None, "other": 1}) == {"total": None, "other": 1}


def test_the_hash_changes_with_what_changes_a_value_and_with_nothing_else():
    def hashed(*features: Any, **changed: Any) -> str:
        return orders(list(features), **changed).feature_set.hash

    base = hashed("total", shop.count("1d"))
    assert base == hashed("total", Entity("shop").count("1d"), decide=Threshold(0.9), earliest="2020-01-01")
    assert base == hashed("total", shop.count("1d"), label=Label("other"))
    others = [
        hashed(shop.count("1d"), "total"),
        hashed("total", shop.count("2d")),
        hashed("total", shop.count("1d", default=5)),
        hashed("total", shop.count("1d", where="express")),
        hashed("total", Entity("shop", keys="country").count("1d")),
        hashed("total", shop.count("1d"), time_zone="Europe/Paris"),
    ]
    assert len({base, *others}) == len(others) + 1


def test_the_version_changes_with_everything_that_changes_an_answer():
    base = orders(["total"])
    assert base.version == orders(["total"], decided="when the order is placed").version
    changes: list[dict[str, Any]] = [
        {"decide": Threshold(0.4)},
        {"batch": LightGBM(rounds=10)},
        {"fallback": 0.1},
        {"fallback": "total / 1000000"},
        {"label": Label("returned", horizon="90d")},
        {"earliest": "2010-01-01"},
    ]
    assert (
        len({base.version, *(orders(["total"], **change).version for change in changes)}) == len(changes) + 1
    )


def test_a_changed_window_has_another_identity_and_a_kept_one_keeps_its_state():
    before = orders([shop.count("1d"), shop.mean("total", "7d")]).feature_set.entities[0].groups
    after = orders([shop.mean("total", "7d"), shop.mean("total", "30d")]).feature_set.entities[0].groups
    assert before[1].identity == after[0].identity
    assert len({group.identity for group in (*before, after[1])}) == 3


def test_without_entities_a_pipeline_has_no_stage():
    feature_set = orders(["total", day_of_week("Asia/Tokyo")]).feature_set
    assert feature_set.entities == () and feature_set.windows == ()


def test_the_rule_of_decision_defaults_to_one_half_for_yes_or_no_and_to_none_otherwise():
    assert orders(["total"]).decide == Threshold(0.5)
    assert orders(["total"], label=Label("cost", kind="regression")).decide is None


def test_without_a_fallback_a_pipeline_has_no_opinion():
    assert orders(["total"]).fallback == 0.5
    assert orders(["total"], label=Label("cost", kind="regression")).fallback == 0.0
    classes = Label("fate", kind="multiclass", classes=("kept", "returned", "lost", "sold"))
    assert orders(["total"], label=classes).fallback == (0.25,) * 4


# ---- labels and decisions


def test_labels_become_codes_and_null_stays_missing():
    assert Label("late").codes([0, True, 1.0, np.int64(0), None]).tolist()[:4] == [0, 1, 1, 0]
    words = Label("fate", classes=("paid", "default"))
    assert words.codes(["default", "paid"]).tolist() == [1, 0]
    assert Label("way", kind="multiclass", classes=(10, 20, 30)).codes([30.0, 10]).tolist() == [2, 0]
    assert Label("delay", kind="regression").codes([-3, 2.5]).tolist() == [-3, 2.5]


@pytest.mark.parametrize("value", ["yes", 2, float("inf"), "1"])
def test_a_value_that_the_label_cannot_have_is_named_with_its_row(value):
    with pytest.raises(DeveloperError, match=r"label late, row 1: .*expected one of 0, 1"):
        Label("late").codes([0, value])


def test_silence_means_what_the_label_says():
    assert np.isnan(Label("late").silent_code)
    assert Label("fraud", when_silent=0).silent_code == 0
    assert Label("fate", classes=("paid", "default"), when_silent="paid").silent_code == 0


def test_the_threshold_of_costs_is_where_both_mistakes_cost_the_same():
    threshold = CostMatrix(false_positive=2, false_negative=8).threshold(np.zeros(1), 1.0)
    assert (1 - threshold) * 2 == pytest.approx(threshold * 8)


@pytest.mark.parametrize("capacity", [0.5, 1, 3, 7, 1_000])
def test_a_daily_capacity_is_never_exceeded_on_the_period_and_used_up_to_ties(capacity):
    scores = np.random.default_rng(3).integers(0, 50, 1_000) / 50  # 10 days of 100 events, many equal scores
    threshold = DailyCapacity(capacity).threshold(scores, 100.0)
    room = capacity * 10
    assert (scores >= threshold).sum() <= room
    lower = scores[scores < threshold]
    assert len(lower) == 0 or (scores >= lower.max()).sum() > room


# ---- files

PIPELINE = """
from msgspec import Struct
from driftwood import Label, Pipeline
{imports}

class Visit(Struct):
    id: str
    at: int
    pages: int

visits = Pipeline("visits", event=Visit, id="id", time="at", time_unit="s", features={features},
                  label=Label("bought"))
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "pipeline.py"
    path.write_text(text)
    return str(path)


def test_a_pipeline_file_may_import_from_its_own_folder_and_from_the_future(tmp_path):
    (tmp_path / "own_names_of_visits.py").write_text("FEATURES = ['pages']\n")
    text = "from __future__ import annotations" + PIPELINE
    path = written(
        tmp_path, text.format(imports="from own_names_of_visits import FEATURES", features="FEATURES")
    )
    before = list(sys.path)
    assert load_pipeline(path).feature_set.names == ("pages",)
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            PIPELINE.format(imports="", features="['sides']"),
            "pipeline.py, line 11: pipeline visits, features[0]",
        ),
        (PIPELINE.format(imports="import nothing_such", features="[]"), "line 4: ModuleNotFoundError"),
        (PIPELINE.format(imports="1 / 0", features="[]"), "line 4: ZeroDivisionError"),
        (PIPELINE.format(imports="raise SystemExit(3)", features="[]"), "line 4: SystemExit"),
        ("import driftwood\nif True\n", "pipeline.py, line 2: SyntaxError"),
        (
            PIPELINE.format(
                imports="from driftwood import LightGBM; LightGBM(n_estimators=9)", features="[]"
            ),
            "argument 'n_estimators'; expected 'rounds' (there are: rounds, num_leaves, learning_rate, min_data_in_leaf, ",
        ),
        (
            PIPELINE.format(imports="from driftwood import LightGBM; LightGBM(lambda_l2=9)", features="[]"),
            "LightGBM's other parameters go into parameters={'lambda_l2': …}",
        ),
        (
            PIPELINE.format(imports="from driftwood import LightGBM; LightGBM(device='gpu')", features="[]"),
            "expected it not here: driftwood (equal runs, equal models) decides it (there are: rounds, ",
        ),
        (
            PIPELINE.format(imports="from driftwood import Entity; Entity('e').ewm('a')", features="[]"),
            "'half_life'; expected ewm(field, half_life, within, where, name, default, unit)",
        ),
        (
            PIPELINE.format(
                imports="from driftwood import hour_of_day; hour_of_day(zon='UTC')", features="[]"
            ),
            "'zon'; expected 'zone' (there are: zone, of, name)",
        ),
        (
            PIPELINE.format(imports="int('a', 1, 2)", features="[]"),
            "TypeError: int() takes at most 2 arguments (3 given); expected a file that Python can import",
        ),
        ("a = 1\n", "pipeline.py: pipelines in it: none; expected exactly one"),
        (
            PIPELINE.format(imports="", features="['pages']")
            + PIPELINE.replace("visits", "others").format(imports="", features="['pages']"),
            "pipelines in it: visits, others; expected exactly one",
        ),
    ],
)
def test_what_is_wrong_with_a_pipeline_file_is_one_error_with_its_line(tmp_path, text, message):
    with pytest.raises(PipelineError) as caught:
        load_pipeline(written(tmp_path, text))
    assert message in str(caught.value)


def test_an_unknown_pipeline_names_the_nearest_example(tmp_path):
    with pytest.raises(PipelineError, match="'flights'"):
        load_pipeline("flight")
    with pytest.raises(PipelineError, match="it is no Python file"):
        load_pipeline(str(tmp_path))


def test_the_shipped_example_is_found_by_its_name():
    assert load_pipeline("flights").name == "flights"


# ---- the public names


def test_every_public_name_can_be_imported_and_no_other():
    for name in driftwood.__all__:
        assert getattr(driftwood, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Piepline'"):
        _ = driftwood.Piepline
    source = Path(driftwood.__file__).read_text()
    typed = {
        line.split()[-1] for line in source.splitlines() if line.startswith("    from ") and " as " in line
    }
    assert typed == set(driftwood.__all__)


def test_importing_driftwood_and_declaring_a_pipeline_loads_none_of_the_heavy_libraries():
    program = (
        "import sys, driftwood; first = set(sys.modules);"
        "from driftwood import *; load_pipeline('flights');"
        "print('numpy' in first, *({'feast', 'faust', 'lightgbm', 'numba', 'redis', 'confluent_kafka'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_specs_are_plain_values():
    feature = orders(["total"]).feature_set.features[0]
    assert replace(feature, unit="USD").unit == "USD"
