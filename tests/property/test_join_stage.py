"""The join stage in any order, cut anyhow, crashed anywhere: the records of hop-join alone decide what comes out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.memory_store import MemoryStore
from features.store import Position, Refused, StateStore
from streams import settling
from streams.ledger import Horizons
from streams.predict_road import Publishing
from streams.served_rows import Archive, unpacked
from tests.in_process import CrashedError, CrashingLog, CrashingStore
from tests.join_oracle import Oracle
from tests.join_world import (
    HORIZON,
    MINUTE,
    JoinTopic,
    label_rows_in,
    notices_in,
    outcomes_in,
    partition_of_join,
    random_topic,
    returns,
    stage_of,
    state_of,
)

PIPELINES = {silent: returns(when_silent=silent) for silent in (0, "no label")}
PASS_ROWS = 3

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 60)
silences = st.sampled_from([0, "no label"])
bounds = st.sampled_from([2, 4, 1_000])


@pytest.fixture(autouse=True, scope="module")
def small_passes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settling, "PASS_ROWS", PASS_ROWS)
        yield


class ArchiveInMemory:
    """Keeps the rows in a dictionary, and none a moment longer than it must."""

    def __init__(self) -> None:
        self.rows: dict[Position, bytes] = {}

    def write(self, partition: int, rows: Sequence[tuple[Position, bytes]], open_us: int) -> None:
        """Keep them; what was written twice is the same."""
        for position, row in rows:
            assert self.rows.setdefault(position, row) == row
        self.rows = {at: row for at, row in self.rows.items() if unpacked(row).time_us >= open_us}

    def read(self, partition: int, positions: Sequence[Position]) -> dict[Position, bytes]:
        """Those that are there."""
        return {at: self.rows[at] for at in positions if at in self.rows}


def expected_of(topic: JoinTopic, horizons: Horizons, archived: bool, waits: frozenset[str]) -> Oracle:
    oracle = Oracle(topic.pipeline.label, horizons, waits, archived=archived, pass_rows=PASS_ROWS)
    for offset, written in enumerate(topic.written):
        oracle.take(offset, written)
    return oracle


async def run(
    topic: JoinTopic,
    horizons: Horizons,
    archive: Archive | None,
    waits: frozenset[str],
    source: random.Random,
    store: StateStore,
    publisher: Publishing,
    arm: object = None,
) -> None:
    """Batches of any size, two of them in flight now and then, until all is read; a crash begins anew from the store."""
    stage = stage_of(topic.pipeline, store, publisher, horizons, archive, waits)
    partition = partition_of_join(topic.pipeline)
    memory = await stage.open(partition)
    while memory.applied + 1 < len(topic.records):
        if callable(arm):
            arm()
        try:
            begun = await _begin(stage, memory, topic, source)
            overlapping = source.random() < 0.5 and memory.taken + 1 < len(topic.records)
            then = await _begin(stage, memory, topic, source) if overlapping else None
            for batch in (begun, then):
                if batch is not None:
                    done = await stage.finish(memory, batch)
                    assert not isinstance(done, Refused)
        except CrashedError:
            memory = await stage.open(partition)
    fresh = await stage.open(partition)
    assert state_of(fresh) == state_of(memory)


async def _begin(stage, memory, topic, source):
    start = memory.taken + 1
    begun = await stage.begin(memory, topic.records[start : start + source.randint(1, 8)])
    assert not isinstance(begun, Refused)
    return begun


def assert_as_expected(topic: JoinTopic, oracle: Oracle) -> None:
    assert outcomes_in(topic.pipeline, topic.log) == oracle.outcomes
    assert notices_in(topic.pipeline, topic.log) == oracle.notices
    assert label_rows_in(topic.pipeline, topic.log) == oracle.label_rows


@given(seeds, sizes, silences, bounds, st.booleans(), st.booleans())
def test_any_records_cut_anyhow_lead_to_the_outcomes_of_brute_force(
    seed, records, silent, most_rows, archived, waits
):
    source = random.Random(seed)
    topic = random_topic(PIPELINES[silent], source, records)
    horizons = Horizons(HORIZON, 10 * MINUTE, most_rows)
    wanted = frozenset({"hop/0", "labels/0"} if waits else ())
    oracle = expected_of(topic, horizons, archived, wanted)
    archive = ArchiveInMemory() if archived else None
    asyncio.run(run(topic, horizons, archive, wanted, source, MemoryStore(), topic.log))
    assert_as_expected(topic, oracle)


@given(seeds, sizes, silences, bounds, st.booleans())
def test_crashes_before_and_after_every_step_settle_everything_once_and_at_the_same_position(
    seed, records, silent, most_rows, archived
):
    source = random.Random(seed)
    topic = random_topic(PIPELINES[silent], source, records)
    horizons = Horizons(HORIZON, 10 * MINUTE, most_rows)
    oracle = expected_of(topic, horizons, archived, frozenset())
    store, publisher = CrashingStore(MemoryStore()), CrashingLog(topic.log)

    def arm() -> None:
        publisher.armed, publisher.keep = source.random() < 0.2, source.randint(0, 3)
        store.armed = source.choice(["claimed", "before", "after"]) if source.random() < 0.2 else ""

    archive = ArchiveInMemory() if archived else None
    asyncio.run(run(topic, horizons, archive, frozenset(), source, store, publisher, arm))
    assert_as_expected(topic, oracle)
