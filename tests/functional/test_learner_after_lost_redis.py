"""Redis was lost, and the learners with it: they go on from a copy, from the first outcome, or afresh, and say which."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.errors import SnapshotError, UnreachableError
from features.snapshot_store import MemorySnapshots
from models.model_store import ModelStore
from models.snapshot import unseal
from streams.learner import COPY_EVERY_S
from streams.learner_states import Sealing
from streams.snapshot_copies import SnapshotCopies
from tests.chained_learner import KEY, PLACE, ChainedMaker, learnt, outcome, stage

RECORDS = [outcome(at, [(at, 0), (at, 1)]) for at in range(12)]
SEALING = Sealing("f00d", KEY)


@pytest.fixture
def copies(tmp_path: Path) -> SnapshotCopies:
    return SnapshotCopies(ModelStore(tmp_path), SEALING)


async def worked(store: MemorySnapshots, maker: ChainedMaker, upto: int, **more: Any) -> bytes:
    """Learn records one by one, each published; the state of the newest snapshot, or of the learners in memory."""
    made = stage(store, maker, **more)
    memory = await made.open(PLACE)
    for record in RECORDS[memory.applied + 1 : upto]:
        await made.process(memory, [record])
        await made.published(memory)
    return memory.batches.learner.state()


def undisturbed() -> bytes:
    return asyncio.run(learnt(stage(), RECORDS))


def test_learners_go_on_from_the_copy_and_come_to_what_an_undisturbed_run_comes_to(copies, caplog):
    now = [0.0]
    seen: list[list[str]] = []

    async def body() -> tuple[bytes, MemorySnapshots]:
        for upto in (4, 8):
            now[0] += COPY_EVERY_S
            await worked(
                before := MemorySnapshots(), ChainedMaker(), upto, copies=copies, clock=lambda: now[0]
            )
            assert await before.latest(PLACE.pipeline) == upto - 1
        # Of each run its first snapshot was copied, the later ones came within the hour.
        after, maker = MemorySnapshots(), ChainedMaker(on_step=lambda batch: seen.append([*batch.event_ids]))
        return await worked(after, maker, 12, copies=copies), after

    state, after = asyncio.run(body())
    assert state == undisturbed()
    assert "they go on from the copy of" in caplog.text
    assert seen[0][0] != "e0-0"  # nothing before the copy was learnt again
    assert asyncio.run(after.latest(PLACE.pipeline)) == 11


def test_a_copy_is_kept_once_an_hour_and_says_what_the_snapshot_said(copies):
    now = [0.0]

    async def body() -> list[int]:
        kept = []
        store = MemorySnapshots()
        made = stage(store, copies=copies, clock=lambda: now[0])
        memory = await made.open(PLACE)
        for record in RECORDS[:6]:
            await made.process(memory, [record])
            await made.published(memory)
            found = copies.read(PLACE)
            assert found is not None
            kept.append(found.version)
            assert found.state == await store.state(PLACE.pipeline, found.version)
            assert found.seen.keys() == memory.batches.seen.keys()
            now[0] += COPY_EVERY_S / 2
        return kept

    assert asyncio.run(body()) == [0, 0, 2, 2, 4, 4]


def test_without_a_copy_they_learn_again_from_the_first_outcome(copies):
    assert asyncio.run(worked(MemorySnapshots(), ChainedMaker(), 12, copies=copies)) == undisturbed()


def test_without_a_copy_and_with_outcomes_deleted_they_begin_afresh_behind_these_and_say_so(copies, caplog):
    async def body() -> tuple[int | None, Any]:
        store = MemorySnapshots()
        made = stage(store, ChainedMaker(taught="by training"), copies=copies, oldest=lambda place: 7)
        memory = await made.open(PLACE)
        return await store.latest(PLACE.pipeline), memory

    version, memory = asyncio.run(body())
    assert (version, memory.applied, memory.batches.taken) == (6, 6, 6)
    assert memory.batches.learner.chain == "by training"
    assert (
        "there is no copy of a snapshot, and outcomes up to 6 are deleted: they begin afresh" in caplog.text
    )


def test_from_a_copy_behind_which_outcomes_are_deleted_they_go_on_behind_these_and_say_so(copies, caplog):
    async def body() -> tuple[bytes, bytes, Any]:
        learnt_before = await worked(MemorySnapshots(), ChainedMaker(), 1, copies=copies)
        store = MemorySnapshots()
        memory = await stage(store, copies=copies, oldest=lambda place: 7).open(PLACE)
        again = await stage(store, copies=copies, oldest=lambda place: 7).open(PLACE)
        assert again.applied == memory.applied and again.batches.seen == memory.batches.seen
        return learnt_before, again.batches.learner.state(), memory

    before, state, memory = asyncio.run(body())
    assert (memory.applied, memory.batches.taken) == (6, 6)  # the next is the oldest that there is
    assert state == before
    assert "they go on from the copy of snapshot 0, behind outcome 6" in caplog.text


def test_a_copy_of_another_topic_is_left(copies, caplog):
    async def body() -> int:
        await worked(MemorySnapshots(), ChainedMaker(), 4, copies=copies)
        made = stage(MemorySnapshots(), copies=copies)
        memory = await made.open(replace(PLACE, identity="cluster/made anew"))
        return memory.applied

    assert asyncio.run(body()) == -1 and "learnt from another topic" in caplog.text


def test_a_copy_that_is_not_ours_is_refused_and_left_when_asked(copies, caplog):
    copies.models.save_snapshot(PLACE.pipeline, b"DRIFTSNP" + b"a pickle, perhaps" * 10)
    with pytest.raises(SnapshotError, match="copy of them beside the models: put that right, or run"):
        asyncio.run(worked(MemorySnapshots(), ChainedMaker(), 12, copies=copies))
    done = asyncio.run(worked(MemorySnapshots(), ChainedMaker(), 12, copies=copies, afresh=True))
    assert done == undisturbed() and "the copy of the learners is left, as asked" in caplog.text


def test_learners_that_only_training_has_taught_are_known_and_nothing_is_said_of_a_loss(copies, caplog):
    async def body() -> list[bytes]:
        store, states = MemorySnapshots(), []
        for training in ("by training", "by another one"):
            memory = await stage(store, ChainedMaker(taught=training), copies=copies).open(PLACE)
            while memory.publishing is not None:
                await memory.publishing
            states.append(memory.batches.learner.state())
        return states

    assert asyncio.run(body()) == [b'["by training", 1]'] * 2
    assert "the store knows nothing" not in caplog.text


def test_a_copy_is_not_looked_at_while_redis_knows_the_learners(copies):
    async def body() -> bytes:
        store = MemorySnapshots()
        await worked(store, ChainedMaker(), 9, copies=copies)
        copies.models.save_snapshot(PLACE.pipeline, b"damaged")
        return await worked(store, ChainedMaker(), 12, copies=copies)

    assert asyncio.run(body()) == undisturbed()


def test_a_disk_that_is_full_costs_the_copy_and_no_snapshot(copies, caplog, monkeypatch):
    def full(pipeline: str, data: bytes) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(copies.models, "save_snapshot", full)
    caplog.set_level(logging.WARNING)
    store = MemorySnapshots()
    asyncio.run(worked(store, ChainedMaker(), 12, copies=copies))
    assert asyncio.run(store.latest(PLACE.pipeline)) == 11
    assert caplog.text.count("no copy of snapshot") == 1


def test_a_redis_that_goes_while_they_recover_is_an_error_and_nothing_is_lost(copies):
    class Away(MemorySnapshots):
        async def publish(self, snapshot: Any) -> Any:
            raise UnreachableError("Redis", "redis_url", "redis://x", "gone")

    async def body() -> bytes:
        await worked(MemorySnapshots(), ChainedMaker(), 8, copies=copies)
        with pytest.raises(UnreachableError):
            await stage(Away(), copies=copies).open(PLACE)
        return await worked(MemorySnapshots(), ChainedMaker(), 12, copies=copies)

    assert asyncio.run(body()) == undisturbed()
    assert unseal(copies.models.snapshot(PLACE.pipeline) or b"", "copy", "f00d", KEY)
