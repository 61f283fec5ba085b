"""A learner killed, replaced and woken at any point comes to what an undisturbed one over the same outcomes comes to."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from features.snapshot_store import MemorySnapshots
from features.store import Refused
from models.snapshot import unseal
from streams.learner import LearnStage
from streams.topic_log import StoredRecord
from tests.chained_learner import KEY, PLACE, command, learnt, outcome, stage


@st.composite
def outcomes(draw: st.DrawFn) -> list[StoredRecord]:
    """A log as a join stage that crashes now and then leaves it: rows again, in other cuts, commands between them."""
    rows = [(at, row) for at in range(draw(st.integers(1, 8))) for row in range(draw(st.integers(1, 3)))]
    log: list[StoredRecord] = []
    at = 0
    while at < len(rows):
        if draw(st.booleans()):
            action = draw(st.sampled_from(["freeze", "reset"]))
            log.append(command(len(log), draw(st.integers(0, 5)), action, "tree"))
        end = draw(st.integers(at + 1, len(rows)))
        log.append(outcome(len(log), rows[at:end]))
        back = draw(st.integers(0, 2)) if len(log) < 20 else 0
        at = max(end - back, 0)
    return log


STEPS = st.lists(
    st.tuples(st.sampled_from(["work", "publish", "kill", "replace", "wake"]), st.integers(1, 4)), max_size=30
)


@given(log=outcomes(), steps=STEPS)
def test_killed_replaced_and_woken_at_any_point_it_equals_the_undisturbed_run_bit_for_bit(log, steps):
    async def body() -> tuple[bytes, bytes]:
        store = MemorySnapshots()
        made = stage(store, publish_every_s=1e9)
        owner, asleep = await made.open(PLACE), None
        for what, count in steps:
            if what == "work":
                owner = await advanced(made, owner, count)
            elif what == "publish":
                await made.published(owner)
            elif what == "kill":
                owner = await made.open(PLACE)
            elif what == "replace":
                asleep, owner = owner, await made.open(PLACE)
            elif asleep is not None:
                await advanced(made, asleep, count, reopen=False)
                await made.published(asleep)
        while owner.batches.taken < log[-1].offset:
            owner = await advanced(made, owner, 3)
        await made.published(owner)
        return unseal(await sealed(store), "state", "f00d", KEY), await learnt(stage(), log)

    async def advanced(made: LearnStage, memory: Any, count: int, *, reopen: bool = True) -> Any:
        waiting = [record for record in log if record.offset > memory.batches.taken][:count]
        if waiting and isinstance(await made.process(memory, waiting), Refused) and reopen:
            return await made.open(PLACE)
        return memory

    async def sealed(store: MemorySnapshots) -> bytes:
        version = await store.latest("shop")
        assert version is not None and version == log[-1].offset
        data = await store.state("shop", version)
        assert data is not None
        return data

    disturbed, undisturbed = asyncio.run(body())
    assert disturbed == undisturbed
