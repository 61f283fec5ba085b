"""The speed benchmarks, on few events: they run to the end, and print what they promise. How fast is nobody's test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import growth, latency, paced_sender, predict_road
from benchmarks.card_payments import payments, records, table
from benchmarks.card_pipeline import CARDS
from features.decode import Decoder

ROOT = Path(__file__).parent.parent.parent
SMALL_MODEL = ("--training-events", "2000")


def printed(module: str, *options: str) -> dict[str, Any]:
    """The one JSON document of a benchmark."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *options, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500.0, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    assert {"processor", "cores", "python", "versions"} <= figures["machine"].keys()
    return figures


def test_the_predict_road_prints_its_cpu_and_the_time_of_every_step():
    figures = printed("predict_road", "--events", "2000", "--broker", "embedded", *SMALL_MODEL)
    assert figures["events"] == 1_800
    assert figures["cpu_us_per_event"] > 0 and figures["events_per_second"] > 0
    steps = {stage: set(row) for stage, row in figures["stages_us"].items()}
    assert steps.keys() == {"ingest", "card", "terminal"}
    assert steps["ingest"] == {"decode", "deliver"}
    assert steps["card"] == steps["terminal"] == {"decode", "claim", "compute", "score", "deliver", "commit"}
    assert figures["cpu_us_per_event_beside"].keys() == {"broker", "redis"}
    assert figures["windows"] == 24 and figures["entities"] == 2


def test_the_latency_is_that_of_every_event_after_the_warm_up():
    few = ("--rate", "200", "--seconds", "1", "--warm-up", "0.5")
    figures = printed("latency", *few, "--broker", "embedded", *SMALL_MODEL)
    assert figures["events"] == 200
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert figures["cores"].keys() == {"worker", "broker", "redis", "sender"}


def test_the_growth_prints_a_point_for_each_number_of_entities_and_each_window_and_misses_apart():
    few = ("--entities", "500,1000", "--windows", "1h,90d", "--window-entities", "500", "--measured", "2000")
    figures = printed("growth", "--parts", "entities,windows,misses", *few, "--missing-entities", "10000")
    assert [point["entities"] for point in figures["entities"]["points"]] == [500, 1_000]
    assert [point["tiles"] for point in figures["windows"]["points"]] == [13, 91]
    for curve in (figures["entities"], figures["windows"]):
        assert [point["misses"] for point in curve["points"]] == [0.0, 0.0]
        assert curve["flat_within"] >= 1.0
    assert figures["misses"]["misses"] > 0.9


@pytest.mark.parametrize("command", [predict_road, latency, growth, paced_sender])
def test_every_command_shows_examples_of_its_use(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--help"])
    with pytest.raises(SystemExit):
        command.main()
    assert f"python -m {command.__name__} --" in capsys.readouterr().out


def test_equal_arguments_give_equal_payments_and_every_one_of_them_can_be_decoded():
    made = records(payments(2_000, cards=50, terminals=5, skew=1.0, seed=3))
    assert made == records(payments(2_000, cards=50, terminals=5, skew=1.0, seed=3))
    assert made != records(payments(2_000, cards=50, terminals=5, skew=1.0, seed=4))
    decoded = Decoder(CARDS.feature_set).decode([(value, 1_900_000_000_000) for _, value in made])
    assert not decoded.dead
    assert [key.decode() for key, _ in made] == decoded.rows.text("card").to_pylist()
    assert len(set(decoded.rows.event_ids.to_pylist())) == 2_000


def test_the_busiest_card_pays_more_often_the_more_the_payments_are_skewed():
    evenly, skewed = (payments(5_000, cards=100, skew=skew).cards for skew in (0.0, 1.0))
    assert (skewed == 0).sum() > 3 * (evenly == 0).sum()


def test_the_labels_of_payments_are_of_both_kinds_and_the_table_has_their_fields():
    made = table(payments(2_000, cards=50))
    assert 0 < sum(made.column("fraud").to_pylist()) < 1_000
    assert set(made.schema.names) == {*CARDS.event.__struct_fields__, "fraud"}
