"""`driftwood models`: what the newest snapshot says of its models."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from driftwood.cli import main
from features.redis_snapshots import RedisSnapshots
from features.snapshot_store import Snapshot
from features.store import PartitionId
from models.learning import Learning
from models.loading import load_pipeline
from models.outcomes import MATCHED, UNKNOWN
from streams.figures import learner_figures
from streams.learner import LearnMemory
from tests.served_outcomes import HOUR_US, NAN, matured

FILE = """
import msgspec
from driftwood import Label, Pipeline, scaled_logistic

class Event(msgspec.Struct):
    id: str
    at: int
    x: float
    y: float

served = Pipeline("served", event=Event, id="id", time="at", time_unit="s", features=["x", "y"],
                  label=Label("came", horizon="1d"), online=[scaled_logistic()])
"""

Call = Callable[..., tuple[object, str, str]]


@pytest.fixture
def called(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Call:
    path = tmp_path / "served.py"
    path.write_text(FILE)
    monkeypatch.chdir(tmp_path)

    def call(*more: str) -> tuple[object, str, str]:
        arguments = ["driftwood", "models", str(path), f"--set=redis_url={redis_url}", *more]
        monkeypatch.setattr(sys, "argv", arguments)
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        return (code, *capsys.readouterr())

    return call


def learnt(path: Path) -> Learning:
    """Two labels, one said well and one badly."""
    learning = Learning(load_pipeline(str(path / "served.py")))
    learning.step(matured([1, 0], [0.8, 0.4], parts={"lightgbm": [0.8, 0.4], "scaled_logistic": [0.6, 0.5]}))
    return learning


def publish(url: str, figures: bytes) -> None:
    async def run() -> None:
        store = RedisSnapshots.connect(url)
        place = PartitionId("served", "served.outcomes", 0, "cluster/topic")
        loaded = await store.load(place)
        await store.publish(Snapshot(place, loaded.epoch, loaded.applied, 7, b"s", b"t", figures=figures))
        await store.aclose()

    asyncio.run(run())


def told_to_prometheus(figures: Mapping[str, Any]) -> dict[str, dict[tuple[str, ...], float]]:
    """The gauges of what a snapshot says of itself."""
    memory = LearnMemory(None, 0, 0, None, figures=json.dumps(figures).encode())  # type: ignore[arg-type]
    gauges = {now.name: now for now in learner_figures(lambda: [memory], lambda: 0.0)}
    names = ("driftwood_model", "driftwood_label", "driftwood_learn")
    return {name: dict(now.read()) for name, now in gauges.items() if name.startswith(names)}


def test_before_anything_was_learnt_it_says_what_is_missing(called: Call) -> None:
    code, out, err = called()
    assert (code, out) == (3, "")
    assert "driftwood learn" in err


def test_it_shows_each_model_with_its_weight_and_figures(
    called: Call, redis_url: str, tmp_path: Path
) -> None:
    figures = learnt(tmp_path).figures()
    publish(redis_url, json.dumps({**figures, "published_ms": 0}).encode())
    code, out, _ = called()
    assert code in (0, None)
    assert "snapshot 7" in out and "2 matched" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert {"blend", "lightgbm", "scaled_logistic"} <= lines.keys()
    assert lines["lightgbm"][1:4] == ["1.000", "2", "1.0000"]  # weight, labels, AUC
    assert lines["scaled_logistic"][1:3] == ["0.000", "2"]


@pytest.mark.parametrize(("age_s", "warned"), [(60.0, False), (7_200.0, True)])
def test_a_snapshot_that_is_older_than_labels_may_be_silent_is_pointed_at(
    called: Call, redis_url: str, tmp_path: Path, age_s: float, warned: bool
) -> None:
    published_ms = (time.time() - age_s) * 1e3
    publish(redis_url, json.dumps({**learnt(tmp_path).figures(), "published_ms": published_ms}).encode())
    assert ("driftwood doctor" in called()[1]) is warned


def test_programs_read_the_same_as_json(called: Call, redis_url: str, tmp_path: Path) -> None:
    figures = learnt(tmp_path).figures()
    publish(redis_url, json.dumps(figures).encode())
    _, out, _ = called("--json")
    said = json.loads(out)
    assert (said["pipeline"], said["snapshot"]) == ("served", 7)
    assert said["models"] == json.loads(json.dumps(figures["models"]))


def test_prometheus_is_told_the_same(tmp_path: Path, called: Call) -> None:
    learning = learnt(tmp_path)
    figures = learning.figures()
    told = told_to_prometheus(figures)
    rolling = figures["models"]["lightgbm"]["rolling"]
    assert told["driftwood_model_figure"][("lightgbm", "rolling", "auc")] == rolling["auc"] == 1.0
    assert told["driftwood_model_weight"] == {("lightgbm",): 1.0, ("scaled_logistic",): 0.0}
    assert told["driftwood_label_delay_seconds"][("p50",)] == 3_600.0
    assert told["driftwood_learner_frozen"] == {("scaled_logistic",): 0.0}
    learning.freeze("scaled_logistic")
    assert told_to_prometheus(learning.figures())["driftwood_learner_frozen"] == {("scaled_logistic",): 1.0}


def hours_of_labels(path: Path) -> Learning:
    """Three labels of one hour and one of an unknown id, one of the next hour; then no more."""
    learning = learnt(path)
    kinds = [MATCHED, MATCHED, UNKNOWN, MATCHED]
    delays_us = [HOUR_US, HOUR_US, HOUR_US, 2 * HOUR_US]
    learning.step(matured([1, 0, NAN, 0], [0.5] * 4, first=5, kinds=kinds, delays_us=delays_us))
    learning.label_feed("0", 1_700_000_000_000)
    return learning


def test_it_shows_how_the_label_feed_does_and_that_learning_is_frozen(
    called: Call, redis_url: str, tmp_path: Path
) -> None:
    publish(redis_url, json.dumps(hours_of_labels(tmp_path).figures()).encode())
    _, out, _ = called()
    lines = {line.split(":")[0]: line for line in out.splitlines()}
    assert "5 in the newest full hour of their times (usually 5.0); p50 1.0 h" in lines["Labels"]
    assert "came 50.0 % (usually 50.0 %); unknown ids 20.0 % (usually 20.0 %)" in lines["Labels"]
    assert "label feed stalled since 2023-11-14T22:13:20Z" in lines["Learning is frozen"]
    _, out, _ = called("--json")
    said = json.loads(out)
    assert said["frozen"] == "label feed stalled since 2023-11-14T22:13:20Z"
    assert said["label_feed"] == {
        "labels_per_hour": {"now": 5.0, "usual": 5.0},
        "class_share": {"came": {"now": 0.5, "usual": 0.5}},
        "unknown_share": {"now": 0.2, "usual": 0.2},
        "stalled_since_ms": 1_700_000_000_000,
    }


def test_prometheus_is_told_how_the_label_feed_does(tmp_path: Path, called: Call) -> None:
    told = told_to_prometheus(hours_of_labels(tmp_path).figures())
    assert told["driftwood_labels_an_hour"] == {("now",): 5.0, ("usual",): 5.0}
    assert told["driftwood_label_class_share"][("came", "now")] == 0.5
    assert told["driftwood_label_unknown_share"][("usual",)] == 0.2
    assert told["driftwood_learning_frozen"] == {(): 1.0}
    assert told_to_prometheus(learnt(tmp_path).figures())["driftwood_learning_frozen"] == {(): 0.0}
