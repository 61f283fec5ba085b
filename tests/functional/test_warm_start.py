"""Learners that begin with the labels that the batch model was trained on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from driftwood import Label, bounded_tree, scaled_logistic
from features.errors import SnapshotError
from models.learning import Learning
from models.model_store import ModelStore
from models.online_model import taken
from models.pipeline import Pipeline
from models.snapshot import signing_key
from offline.train import labelled_features, train
from offline.training_problem import Problem, pose, split
from offline.warm_start import in_order_of_knowing
from streams.learn_run import PipelineLearners
from streams.learner import Sealing
from tests.shop_events import orders

START = datetime(2024, 5, 1, tzinfo=UTC)
COUNT = 6_000


def shop(**label: object) -> Pipeline:
    return orders(
        ["amount"],
        label=Label("returned", horizon="2d", **label),  # type: ignore[arg-type]
        online=[scaled_logistic(), bounded_tree()],
    )


def history(seed: int = 1) -> tuple[pa.Table, pa.Table]:
    """Orders a minute apart: dear ones are returned; labels come within a day, one in ten never, some are corrected."""
    random = np.random.default_rng(seed)
    amounts = random.uniform(1, 100, COUNT)
    events = pa.table(
        {
            "order_id": [f"o{number}" for number in range(COUNT)],
            "placed_at": [START + timedelta(minutes=number) for number in range(COUNT)],
            "customer": ["c"] * COUNT,
            "shop": [1] * COUNT,
            "amount": amounts,
        }
    )
    told = [number for number in range(COUNT) if random.random() < 0.9]
    told += random.choice(told, 30).tolist()
    delays = random.uniform(1, 1_440, len(told))
    labels = pa.table(
        {
            "order_id": [f"o{number}" for number in told],
            "returned": [int(amounts[number] > 60) for number in told],
            "known_at": [
                START + timedelta(minutes=number + delay) for number, delay in zip(told, delays, strict=True)
            ],
        }
    )
    return events, labels


def trained(pipeline: Pipeline, folder: Path) -> tuple[ModelStore, str, bytes]:
    store, key = ModelStore(folder), signing_key(folder)
    report = train(pipeline, *history(), store=store, signing_key=key)
    store.promote(pipeline.name, report.version)
    return store, report.version, key


def learners(pipeline: Pipeline, store: ModelStore, key: bytes) -> Learning:
    return PipelineLearners(pipeline, store, Sealing(pipeline.feature_set.hash, key)).new()


def test_learning_begins_with_what_was_taught_beside_the_champion(tmp_path: Path) -> None:
    pipeline = shop()
    store, _, key = trained(pipeline, tmp_path)
    begun = learners(pipeline, store, key)
    taught = {name: row["learnt"] for name, row in begun.figures()["models"].items()}
    rows, codes = in_order_of_knowing(_problem(pipeline))
    assert taught == {"scaled_logistic": len(rows), "bounded_tree": len(rows)}
    again = Learning(pipeline)
    past = _problem(pipeline).past.matrix
    for start in range(0, len(rows), 256):
        chosen = rows[start : start + 256]
        again.teach(taken(past, chosen), codes[start : start + 256])
    assert again.scoring() == begun.scoring()


def test_without_a_champion_learning_begins_with_nothing(tmp_path: Path) -> None:
    pipeline = shop()
    begun = learners(pipeline, ModelStore(tmp_path), signing_key(tmp_path))
    assert {row["learnt"] for row in begun.figures()["models"].values()} == {0}


def test_bytes_that_were_altered_teach_nobody(tmp_path: Path) -> None:
    pipeline = shop()
    store, version, key = trained(pipeline, tmp_path)
    data = store.learners(pipeline.name, version)
    assert data is not None
    store.save_learners(pipeline.name, version, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SnapshotError, match="altered"):
        learners(pipeline, store, key)
    sealing = Sealing(pipeline.feature_set.hash, key)
    begun = PipelineLearners(pipeline, store, sealing, afresh=True).new()
    assert {row["learnt"] for row in begun.figures()["models"].values()} == {0}


@pytest.mark.parametrize("when_silent", ["no label", 0])
def test_labels_are_taught_in_the_order_in_which_they_became_known(when_silent: object) -> None:
    pipeline = shop(when_silent=when_silent)
    problem = _problem(pipeline)
    rows, codes = in_order_of_knowing(problem)
    events, labels = history()
    amounts = dict(zip(events["order_id"].to_pylist(), events["amount"].to_pylist(), strict=True))
    expected = [
        (known, name, float(amounts[name] > 60))
        for known, name in zip(labels["known_at"].to_pylist(), labels["order_id"].to_pylist(), strict=True)
    ]
    if when_silent == 0:
        silent = set(events["order_id"].to_pylist()) - set(labels["order_id"].to_pylist())
        end = max(known for known, _, _ in expected)
        expected += [
            (placed + timedelta(days=2), name, 0.0)
            for placed, name in zip(
                events["placed_at"].to_pylist(), events["order_id"].to_pylist(), strict=True
            )
            if name in silent and placed + timedelta(days=2) <= end
        ]
    ids = problem.past.event_ids.to_pylist()
    found = [(ids[row], code) for row, code in zip(rows.tolist(), codes.tolist(), strict=True)]
    assert found == [(name, code) for _, name, code in sorted(expected, key=lambda one: one[0])]


def _problem(pipeline: Pipeline) -> Problem:
    past, matched, _ = labelled_features(pipeline, *history())
    return split(pose(pipeline, past, matched, None, None, None))
