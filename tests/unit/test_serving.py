"""Which model answers: the champion or the fallback, and the one that a batch is pinned to for as long as it takes."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from pathlib import Path

import pytest

from features.errors import ModelError, OperatorError
from models.model_store import ModelStore
from models.scoring import Scorer
from streams.serving import KEPT_SCORERS, Serving
from streams.versions import versions_text
from tests.shop_events import orders
from tests.small_models import save_model

PIPELINE = orders()


@pytest.fixture
def models(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path)


@pytest.fixture(autouse=True)
def always_time_for_a_look(monkeypatch):
    """The watch looks once a second of this clock."""
    seconds = iter(range(10**9))
    monkeypatch.setattr("streams.serving.time.monotonic", lambda: 100.0 * next(seconds))


def scorer(serving: Serving, versions: str) -> Scorer:
    """The model of pinned versions, as the road asks for it."""
    asyncio.run(serving.ready(versions))
    return serving.pinned(versions).champion


def test_the_fallback_answers_until_a_model_is_promoted(models):
    serving = Serving(PIPELINE, models)
    before = serving.versions()
    assert serving.in_service.startswith("fallback-")
    version = save_model(models, PIPELINE)
    asyncio.run(serving.look())
    assert serving.versions() == before  # saved is not promoted
    models.promote("orders", version)
    asyncio.run(serving.look())
    assert json.loads(serving.versions()) == {
        "mode": "champion",
        "model": version,
        "pipeline": PIPELINE.version,
        "snapshot": -1,
    }
    assert serving.pinned(serving.versions()).champion.version == version


def test_versions_are_canonical_so_that_equal_ones_are_equal_bytes(models):
    text = Serving(PIPELINE, models).versions()
    assert text == Serving(PIPELINE, models).versions() == json.dumps(json.loads(text), sort_keys=True)


def test_a_pinned_batch_gets_its_version_from_memory_or_from_the_files(models):
    first, second = save_model(models, PIPELINE, 1), save_model(models, PIPELINE, 2)
    models.promote("orders", first)
    old = Serving(PIPELINE, models)
    pinned = old.versions()
    models.promote("orders", second)
    asyncio.run(old.look())
    assert old.in_service == second
    assert scorer(old, pinned).version == first
    assert scorer(Serving(PIPELINE, models), pinned).version == first  # after a restart


def test_a_batch_pinned_to_the_fallback_gets_it_after_a_promotion_and_a_restart(models):
    pinned = Serving(PIPELINE, models).versions()
    models.promote("orders", save_model(models, PIPELINE))
    assert scorer(Serving(PIPELINE, models), pinned).name == "fallback"


def test_a_batch_pinned_to_another_pipeline_version_is_refused_with_both_names(models):
    pinned = json.dumps({"model": "x", "pipeline": "0000"})
    with pytest.raises(
        OperatorError, match=rf"pipeline version 0000, this worker runs {PIPELINE.version}: start"
    ):
        scorer(Serving(PIPELINE, models), pinned)


def test_a_pinned_version_that_is_gone_is_an_error_with_its_name(models):
    version = save_model(models, PIPELINE)
    shutil.rmtree(models.folder / "orders" / version)
    with pytest.raises(ModelError, match=version):
        scorer(Serving(PIPELINE, models), versions_text(version, PIPELINE.version))


def test_a_champion_that_cannot_be_used_is_reported_once_and_the_old_one_stays(models, caplog):
    first, second = save_model(models, PIPELINE, 1), save_model(models, PIPELINE, 2)
    models.promote("orders", first)
    serving = Serving(PIPELINE, models)
    models.promote("orders", second)
    (models.folder / "orders" / second / "model.txt").write_text("tree")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            asyncio.run(serving.look())
    assert serving.in_service == first
    assert caplog.text.count("stays in service") == 1


def test_a_worker_does_not_start_with_a_champion_that_it_cannot_use(models):
    version = save_model(models, PIPELINE)
    models.promote("orders", version)
    (models.folder / "orders" / version / "card.json").write_text("{}")
    with pytest.raises(ModelError, match=r"card\.json"):
        Serving(PIPELINE, models)


def test_few_scorers_are_kept_and_a_forgotten_one_is_loaded_again(models):
    versions = [save_model(models, PIPELINE, seed) for seed in range(1, KEPT_SCORERS + 3)]
    serving = Serving(PIPELINE, models)
    for version in [*versions, versions[0]]:
        assert scorer(serving, versions_text(version, PIPELINE.version)).version == version
        assert len(serving._models) <= KEPT_SCORERS
        assert len(serving._kept) <= KEPT_SCORERS
