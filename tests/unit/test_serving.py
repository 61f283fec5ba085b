"""Which model answers: the champion or the fallback, and the one that a batch is pinned to for as long as it takes."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest

from driftwood import bounded_tree, categorical, scaled_logistic
from features.errors import ModelError, OperatorError, UnreachableError
from models.model_store import ModelStore
from models.scoring import Scorer
from models.snapshot import seal
from models.state_bytes import pack_state
from streams.serving import KEPT_SCORERS, Serving
from streams.versions import Versions, read_versions, versions_text
from tests.learnt_snapshots import KEY, Shelf
from tests.shop_events import orders
from tests.small_models import random_rows, save_model

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
        "snapshot": -2,
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


# ---- what was learnt online

LEARNS = orders(["amount", categorical("country")], fallback=0.1, online=[scaled_logistic(), bounded_tree()])


def serving_of(shelf: Shelf, models: ModelStore) -> Serving:
    return Serving(shelf.pipeline, models, shelf.feed)


def pinned(serving: Serving) -> Versions:
    return read_versions(serving.versions())


def scores(serving: Serving, versions: str) -> bytes:
    """What is answered under pinned versions, bit for bit."""
    asyncio.run(serving.ready(versions))
    return serving.pinned(versions).scored(random_rows(LEARNS, 5)).score.tobytes()


def test_the_champion_answers_alone_until_there_is_a_snapshot(models):
    shelf = Shelf(LEARNS)
    serving = serving_of(shelf, models)
    asyncio.run(serving.refresh())
    assert (pinned(serving).mode, pinned(serving).snapshot) == ("blend", -2)
    alone = serving.pinned(serving.versions()).scored(random_rows(LEARNS, 5))
    assert (list(alone.parts), alone.weights, alone.low) == (["fallback"], {"fallback": 1.0}, None)
    shelf.publish(41)
    assert pinned(serving).snapshot == -2  # nobody has looked yet
    asyncio.run(serving.refresh())
    assert pinned(serving).snapshot == serving.snapshot == 41
    scored = serving.pinned(serving.versions()).scored(random_rows(LEARNS, 5))
    assert list(scored.parts) == ["fallback", "scaled_logistic", "bounded_tree"]
    assert sum(scored.weights.values()) == pytest.approx(1.0)


def test_a_pinned_older_snapshot_is_fetched_again_and_answers_with_the_same_bits(models):
    shelf = Shelf(LEARNS)
    shelf.publish(1)
    serving = serving_of(shelf, models)
    asyncio.run(serving.refresh())
    versions = serving.versions()
    expected = scores(serving, versions)
    shelf.publish(2)
    asyncio.run(serving.refresh())
    assert scores(serving, serving.versions()) != expected
    assert scores(serving, versions) == expected  # from memory
    asked = shelf.asked
    again = serving_of(shelf, models)  # after a restart, which begins with the newest
    asyncio.run(again.refresh())
    assert pinned(again).snapshot == 2
    assert scores(again, versions) == expected
    assert shelf.asked == asked + 2


def test_what_a_batch_is_pinned_to_does_not_change_while_snapshots_model_and_mode_do(models):
    shelf = Shelf(LEARNS)
    serving = serving_of(shelf, models)
    expected: dict[str, bytes] = {}
    for number in range(1, KEPT_SCORERS + 3):
        shelf.publish(number)
        shelf.mode = ("blend", "champion", "fallback")[number % 3]
        models.promote("orders", save_model(models, LEARNS, number))
        asyncio.run(serving.look())
        versions = serving.versions()
        assert pinned(serving).snapshot == number and pinned(serving).mode == shelf.mode
        expected[versions] = scores(serving, versions)
    assert len(set(expected.values())) > 4  # the fallback's are the same each time
    for answering in (serving, serving_of(shelf, models)):
        assert {versions: scores(answering, versions) for versions in expected} == expected
        assert len(answering._kept) <= KEPT_SCORERS


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: b"{}" + data, "unsigned"),
        (lambda data: data[:-40] + b"?" + data[-39:], "altered"),
        (lambda data: data[:20], "cut short"),
        (lambda data: data[:8] + b"\x09\x00" + data[10:], "format 9"),
        (lambda data: seal("state", 2, LEARNS.feature_set.hash, b"", KEY), "a state snapshot stands"),
        (lambda data: seal("scoring", 2, "another", b"", KEY), "learnt on other features"),
        (lambda data: seal("scoring", 1, LEARNS.feature_set.hash, b"", KEY), "says that it is 1"),
        (
            lambda data: seal("scoring", 2, LEARNS.feature_set.hash, b"", KEY),
            "snapshot 2 of orders was refused",
        ),
        (lambda data: seal("scoring", 2, LEARNS.feature_set.hash, b"", b"z" * 32), "another key"),
    ],
)
def test_a_snapshot_that_cannot_be_used_is_said_and_counted_once_and_the_old_one_stays(
    models, caplog, damage, said
):
    shelf = Shelf(LEARNS)
    shelf.publish(1)
    serving = serving_of(shelf, models)
    asyncio.run(serving.refresh())
    before = scores(serving, serving.versions())
    whole = shelf.publish(2)
    shelf.sealed[2] = damage(whole)
    for _ in range(3):
        asyncio.run(serving.refresh())
    assert said in caplog.text and caplog.text.count("1 stays in service") == 1
    assert serving.snapshots is not None and serving.snapshots.refused == 1
    assert scores(serving, serving.versions()) == before
    shelf.sealed[2] = whole
    asyncio.run(serving.refresh())
    assert serving.snapshot == 2


def test_a_refused_snapshot_holds_up_neither_a_champion_nor_the_mode(models):
    shelf = Shelf(LEARNS)
    shelf.publish(1)
    serving = serving_of(shelf, models)
    asyncio.run(serving.refresh())
    shelf.sealed[2] = b"junk"
    version = save_model(models, LEARNS)
    models.promote("orders", version)
    asyncio.run(serving.look())
    assert pinned(serving) == Versions(version, LEARNS.version, "blend", 1)
    shelf.mode = "champion"
    asyncio.run(serving.refresh())
    assert pinned(serving).mode == "champion"


def test_nothing_of_a_snapshot_is_unpickled_before_its_signature_was_checked(models, caplog):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    shelf = Shelf(LEARNS)
    shelf.sealed[7] = pickle.dumps(Bomb())
    serving = serving_of(shelf, models)
    asyncio.run(serving.refresh())
    payload = pack_state({"format": 2, "learners": {"scaled_logistic": pickle.dumps(Bomb())}})
    shelf.sealed[8] = seal("scoring", 8, LEARNS.feature_set.hash, payload, b"not our key" * 3)
    asyncio.run(serving.refresh())
    assert serving.snapshot == -2 and caplog.text.count("was refused") == 2


@pytest.mark.parametrize("why", ["gone", "altered"])
def test_a_batch_whose_snapshot_is_lost_is_answered_by_the_champion_alone_and_says_so(models, caplog, why):
    shelf = Shelf(LEARNS)
    shelf.publish(1)
    serving = serving_of(shelf, models)
    asyncio.run(serving.refresh())
    versions = serving.versions()
    if why == "gone":
        shelf.sealed.clear()
    else:
        shelf.sealed[1] = b"DRIFTSNP" + bytes(80)
    again = serving_of(shelf, models)
    asyncio.run(again.ready(versions))
    answering = again.pinned(versions)
    assert answering.lost and answering.blend is None
    assert read_versions(answering.versions) == Versions(again.in_service, LEARNS.version, "champion", -2)
    assert "is answered by model fallback" in caplog.text


def test_while_the_store_is_away_a_batch_waits_for_its_snapshot_and_others_are_answered(models, caplog):
    shelf = Shelf(LEARNS)
    shelf.publish(1)
    serving = serving_of(shelf, models)
    asyncio.run(serving.refresh())
    shelf.away = True
    for _ in range(3):
        asyncio.run(serving.refresh())
    assert serving.snapshot == 1
    assert caplog.text.count("no newer snapshots for now") == 1
    with pytest.raises(UnreachableError):
        asyncio.run(serving_of(shelf, models).ready(serving.versions()))


def test_the_operators_switch_is_in_the_versions_and_in_what_answers(models):
    shelf = Shelf(LEARNS)
    shelf.publish(1)
    version = save_model(models, LEARNS)
    models.promote("orders", version)
    serving = serving_of(shelf, models)
    found = {}
    for mode in ("blend", "champion", "fallback"):
        shelf.mode = mode
        asyncio.run(serving.refresh())
        assert pinned(serving).mode == mode
        found[mode] = serving.pinned(serving.versions()).scored(random_rows(LEARNS, 5))
    assert found["champion"].score.tolist() == found["blend"].parts["lightgbm"].tolist()
    assert found["champion"].weights == {"lightgbm": 1.0, "scaled_logistic": 0.0, "bounded_tree": 0.0}
    assert found["blend"].score.tolist() != found["champion"].score.tolist()
    assert set(found["fallback"].score.tolist()) == {0.1}
    assert list(found["fallback"].parts) == ["fallback"]


def test_a_worker_hears_of_a_snapshot_while_it_watches(models):
    async def watched() -> list[int]:
        shelf = Shelf(LEARNS)
        serving = serving_of(shelf, models)
        task = asyncio.create_task(serving.watch(0.01))
        seen: list[int] = []
        for version in (3, 9):
            shelf.publish(version)
            while serving.snapshot != version:  # noqa: ASYNC110  the watch is asked, not changed
                await asyncio.sleep(0)
            seen.append(version)
        task.cancel()
        return seen

    assert asyncio.run(watched()) == [3, 9]
