"""Learners that begin with the labels that the batch model was trained on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from driftwood import Label, bounded_tree, scaled_logistic
from features.errors import SnapshotError
from features.snapshot_store import FIRST, MemorySnapshots
from features.store import PartitionId
from models.learning import Learning
from models.model_store import ModelStore
from models.online_model import LearnerSpec, taken
from models.pipeline import Pipeline
from models.snapshot import signing_key
from offline.train import labelled_features, train
from offline.training_problem import Problem, pose, split
from offline.warm_start import in_order_of_knowing
from streams.learn_run import PipelineLearners
from streams.learner_states import Sealing
from streams.serving import Serving
from streams.snapshot_watch import SnapshotFeed
from tests.chained_learner import stage
from tests.shop_events import orders
from tests.small_models import random_rows

START = datetime(2024, 5, 1, tzinfo=UTC)
COUNT = 6_000


def shop(online: Sequence[LearnerSpec] = (scaled_logistic(), bounded_tree()), **label: object) -> Pipeline:
    made = Label("returned", horizon="2d", **label)  # type: ignore[arg-type]
    return orders(["amount"], label=made, online=online)


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


async def _first_snapshot(pipeline: Pipeline, models: ModelStore, snapshots: MemorySnapshots) -> Serving:
    """What answers when a learner has begun, and has read nothing."""
    key = signing_key(models.folder)
    sealing = Sealing(pipeline.feature_set.hash, key)
    learner = replace(stage(snapshots), maker=PipelineLearners(pipeline, models, sealing), sealing=sealing)
    memory = await learner.open(PartitionId(pipeline.name, "orders.outcomes", 0, "cluster/topic"))
    while memory.publishing is not None:
        await memory.publishing
    serving = Serving(pipeline, models, SnapshotFeed(snapshots, key, lambda: "blend"))
    await serving.refresh()
    return serving


def test_taught_learners_are_scored_beside_the_champion_before_any_label_has_come(tmp_path: Path) -> None:
    pipeline = shop(online=[scaled_logistic(), scaled_logistic("residual", over_champion=True)])
    models, _, _ = trained(pipeline, tmp_path)
    serving = asyncio.run(_first_snapshot(pipeline, models, MemorySnapshots()))
    answered = serving.pinned(serving.versions()).scored(random_rows(pipeline, 5))
    assert serving.snapshot == FIRST
    assert answered.weights == {"lightgbm": 1.0, "scaled_logistic": 0.0, "residual": 0.0}
    assert np.isfinite(answered.parts["scaled_logistic"]).all()
    np.testing.assert_allclose(answered.parts["residual"], answered.parts["lightgbm"], rtol=1e-6)
    np.testing.assert_allclose(answered.score, answered.parts["lightgbm"], rtol=1e-12)


def test_a_promotion_before_the_first_label_changes_nothing_of_what_was_taught(tmp_path: Path) -> None:
    pipeline, snapshots = shop(), MemorySnapshots()
    models, first, key = trained(pipeline, tmp_path)
    asyncio.run(_first_snapshot(pipeline, models, snapshots))
    before = asyncio.run(snapshots.state(pipeline.name, FIRST))
    report = train(pipeline, *history(seed=2), store=models, signing_key=key)
    models.promote(pipeline.name, report.version)
    serving = asyncio.run(_first_snapshot(pipeline, models, snapshots))
    assert report.version != first and serving.in_service == report.version
    assert asyncio.run(snapshots.state(pipeline.name, FIRST)) == before
    assert asyncio.run(snapshots.versions(pipeline.name)) == [FIRST]
