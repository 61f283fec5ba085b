"""Redis is lost at any moment of the learn road: the ledger that is rebuilt is what was lost, and nobody can tell later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from features.memory_store import MemoryStore
from features.store import Refused
from offline.rebuilt_ledger import LedgerRebuild, LedgerRebuilt
from streams import settling
from streams.batch import Partition, Record
from streams.join_frames import LABELS
from streams.learn_road import JoinStage
from streams.ledger import Horizons
from streams.metrics import Metrics
from streams.mute import Mute
from streams.settings import Settings
from streams.topics import pipeline_topics
from tests.in_process import CrashedError, CrashingLog, CrashingStore, Log
from tests.join_oracle import Oracle
from tests.join_world import (
    HORIZON,
    MINUTE,
    SILENCE_MS,
    START_US,
    Event,
    JoinTopic,
    Report,
    label_rows_in,
    log_of,
    outcomes_in,
    partition_of_join,
    random_topic,
    returns,
    stage_of,
    state_of,
)

PIPELINE = returns()
HORIZONS = Horizons(HORIZON, 10 * MINUTE, 20)
PASS_ROWS = 3


@pytest.fixture(autouse=True, scope="module")
def small_passes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settling, "PASS_ROWS", PASS_ROWS)
        yield


class Rows:
    """An archive, which survives; `written` counts."""

    def __init__(self) -> None:
        self.rows: dict[Any, bytes] = {}
        self.written = 0

    def write(self, partition: int, rows: Sequence[tuple[Any, bytes]], open_us: int) -> None:
        self.written += len(rows)
        self.rows.update(rows)

    def read(self, partition: int, positions: Sequence[Any]) -> dict[Any, bytes]:
        return {at: self.rows[at] for at in positions if at in self.rows}


@dataclass(frozen=True)
class Logs:
    """As a rebuild reads it; what stands before `begins` in hop-join was deleted."""

    log: Log
    begins: int = 0

    def bounds(self, place: Partition) -> tuple[int, int]:
        return (self.begins if place[0].endswith("hop-join") else 0), len(self.log.records[place])

    def read(self, place: Partition, first: int, end: int) -> Iterator[Sequence[Record]]:
        for start in range(first, end, 7):
            yield self.log.records[place][start : min(start + 7, end)]


def rebuilt(
    topic: JoinTopic, store: MemoryStore, committed: int | None, archive: Rows, begins: int = 0
) -> LedgerRebuilt:
    """Rebuild, open, and see that nothing was published."""
    before = sum(map(len, topic.log.records.values()))
    settings = Settings(partitions=1)
    entities = [plan.entity for plan in PIPELINE.feature_set.entities]
    topics = pipeline_topics(PIPELINE.name, entities, settings, learns=True)
    offsets: Mapping[Partition, int] = {} if committed is None else {(topic.name, 0): committed}
    work = LedgerRebuild(
        *(PIPELINE, settings, topics, dict.fromkeys((one.name for one in topics), "memory"), store),
        *(Logs(topic.log, begins), offsets, archive),
        Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0),
        lambda what, records: None,
    )
    work._stage = as_in_the_run(work._stage)

    async def run() -> None:
        for part in await work.marked():
            await work.replay(part)
            await part.open()

    asyncio.run(run())
    assert sum(map(len, topic.log.records.values())) == before
    return work.report()


def as_in_the_run(stage: JoinStage) -> JoinStage:
    small = replace(
        stage.batches, horizons=HORIZONS, silence_ms=SILENCE_MS, expected=frozenset(), most_rows=40
    )
    return replace(stage, batches=small)


async def worked(stage: JoinStage, topic: JoinTopic, source: random.Random, until: int, most: int = 8) -> int:
    """Batches of any size up to a record; the last that was applied. A crash ends it."""
    memory = await stage.open(partition_of_join(PIPELINE))
    try:
        while memory.applied + 1 < until:
            start = memory.applied + 1
            records = topic.records[start : min(start + source.randint(1, most), until)]
            assert not isinstance(await stage.process(memory, records), Refused)
    except CrashedError:
        pass
    return memory.applied


async def state_at(topic: JoinTopic, applied: int, archive: Rows) -> dict[str, Any]:
    """What an undisturbed run has behind this record."""
    stage = stage_of(PIPELINE, MemoryStore(), Mute(), HORIZONS, archive)
    memory = await stage.open(partition_of_join(PIPELINE))
    for record in topic.records[: applied + 1]:
        await stage.process(memory, [record])
    return state_of(await stage.open(partition_of_join(PIPELINE)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_a_ledger_lost_at_any_moment_is_rebuilt_and_everything_is_settled_once(seed, records):
    source = random.Random(seed)
    topic, archive = random_topic(PIPELINE, source, records), Rows()
    oracle = Oracle(PIPELINE.label, HORIZONS, frozenset(), archived=True, pass_rows=PASS_ROWS)
    for offset, written in enumerate(topic.written):
        oracle.take(offset, written)
    lost, publisher = CrashingStore(MemoryStore()), CrashingLog(topic.log)
    until = source.randint(0, len(topic.records))
    stage = stage_of(PIPELINE, lost, publisher, HORIZONS, archive)
    applied = asyncio.run(worked(stage, topic, source, until))
    publisher.armed, publisher.keep = source.random() < 0.3, source.randint(0, 4)
    lost.armed = source.choice(["before", "after"]) if source.random() < 0.3 else ""
    applied = max(applied, asyncio.run(worked(stage, topic, source, len(topic.records))))
    committed = source.choice([None, source.randint(0, applied + 1), applied + 1])

    store = MemoryStore()
    done = rebuilt(topic, store, committed, archive)
    then = stage_of(PIPELINE, store, topic.log, HORIZONS, archive)
    memory = asyncio.run(then.open(partition_of_join(PIPELINE)))
    assert memory.applied >= (committed or 0) - 1
    assert done.to_settle == len(topic.records) - 1 - memory.applied
    assert state_of(memory) == asyncio.run(state_at(topic, memory.applied, archive))
    asyncio.run(worked(then, topic, source, len(topic.records)))
    assert outcomes_in(PIPELINE, topic.log) == oracle.outcomes
    assert label_rows_in(PIPELINE, topic.log) == oracle.label_rows


def plain_topic() -> JoinTopic:
    """Six events, and the label of each."""
    topic = JoinTopic(PIPELINE, log_of(PIPELINE))
    for number in range(6):
        topic.served("hop/0", [Event(f"o{number}", START_US + number * MINUTE)])
    for number in range(6):
        topic.reports(LABELS, "labels/0", [Report(f"o{number}", START_US + 7 * MINUTE)], 1_000)
    return topic


def test_without_committed_offsets_what_stands_downstream_tells_how_far_it_was():
    topic, archive = plain_topic(), Rows()
    stage = stage_of(PIPELINE, MemoryStore(), topic.log, HORIZONS, archive)
    asyncio.run(worked(stage, topic, random.Random(1), 10, most=1))
    standing = len(topic.log.records["orders.outcomes", 0])
    done = rebuilt(topic, MemoryStore(), None, archive)
    assert (standing, done.records, done.to_settle, done.rows) == (4, 10, 2, 6)


def test_a_row_of_which_only_a_label_row_is_missing_is_left_to_the_learn_process():
    topic, archive = plain_topic(), Rows()
    stage = stage_of(PIPELINE, MemoryStore(), topic.log, HORIZONS, archive)
    asyncio.run(worked(stage, topic, random.Random(1), 12, most=1))
    del topic.log.records["orders.hop-shop", 0][-1]
    assert rebuilt(topic, MemoryStore(), None, archive).to_settle == 1


def test_what_was_deleted_from_the_log_is_named_and_its_labels_wait():
    topic, archive, store = plain_topic(), Rows(), MemoryStore()
    stage = stage_of(PIPELINE, MemoryStore(), topic.log, HORIZONS, archive)
    asyncio.run(worked(stage, topic, random.Random(1), 12, most=1))
    done = rebuilt(topic, store, 12, archive, begins=3)
    assert (done.whole, done.reaches_back_to) == (False, "2024-05-01T00:03:00.000000Z")
    assert (done.records, done.rows, done.deleted_unread) == (
        9,
        6,
        0,
    )  # three rows, and three labels that wait
    assert rebuilt(topic, MemoryStore(), 1, archive, begins=3).deleted_unread == 2


def test_what_the_archive_has_is_not_written_to_it_again():
    source, archive = random.Random(7), Rows()
    topic = random_topic(PIPELINE, source, 80)
    stage = stage_of(PIPELINE, MemoryStore(), topic.log, HORIZONS, archive)
    asyncio.run(worked(stage, topic, source, len(topic.records)))
    kept, archive.written = dict(archive.rows), 0
    rebuilt(topic, MemoryStore(), len(topic.records), archive)
    assert kept and archive.written == 0 and archive.rows == kept
    lost = Rows()
    rebuilt(topic, MemoryStore(), len(topic.records), lost)
    assert lost.rows == kept
