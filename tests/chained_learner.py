"""A learner that remembers the order of all that it was given, in one digest: two that differ in anything differ in it.

With it, records of `outcomes` as a test writes them: JSON of numbers, one a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from features.feature_set import FeatureMatrix
from features.plan import Ints
from features.snapshot_store import MemorySnapshots, SnapshotStore
from features.store import PartitionId
from models.matured import Matured
from models.snapshot import Unsealed
from streams.batch import Record
from streams.control import COMMAND, LearnerCommand, encoded
from streams.dead_letters import DeadLetterWriter
from streams.feed_notices import FeedNotice, notice_message
from streams.headers import FRAME, UPSTREAM, header
from streams.learner import LearnStage
from streams.learner_states import Sealing
from streams.metrics import Metrics
from streams.producer import Outgoing
from streams.topic_log import StoredRecord

PLACE = PartitionId("shop", "shop.outcomes", 0, "cluster/topic")
KEY = b"k" * 32
VERSION = b"outcomes-v1"
UP = "shop.hop-join@cluster/hop/0"


@dataclass
class ChainedLearner:
    """`chain` is the digest of all steps and commands so far; `steps` counts both."""

    chain: str = "nothing"
    steps: int = 0
    on_step: Callable[[Matured], None] = field(default=lambda _: None, repr=False)

    def step(self, batch: Matured) -> None:
        self.on_step(batch)
        self._link("step", [*batch.event_ids], batch.codes.tolist())

    def scoring(self) -> bytes:
        return f"scores of {self.chain}".encode()

    def state(self) -> bytes:
        return json.dumps([self.chain, self.steps]).encode()

    def figures(self) -> Mapping[str, Any]:
        return {"steps": self.steps}

    @property
    def taught(self) -> bool:
        return self.steps > 0

    def label_feed(self, partition: str, stalled_since_ms: int | None) -> None:
        self._link("labels", partition, stalled_since_ms)

    def freeze(self, name: str) -> None:
        self._link("freeze", name)

    def reset(self, name: str) -> None:
        if name == "nobody":
            raise ValueError("there is no learner nobody")
        self._link("reset", name)

    def restore_learner(self, name: str, state: bytes) -> None:
        assert isinstance(state, Unsealed), "the state was never unsealed"
        self._link("restore", name, state.decode())

    def _link(self, *what: object) -> None:
        self.chain = hashlib.sha256(json.dumps([self.chain, *what]).encode()).hexdigest()
        self.steps += 1


@dataclass
class ChainedMaker:
    """Counts how many it made and restored."""

    on_step: Callable[[Matured], None] = lambda _: None
    made: int = 0
    read: int = 0
    taught: str = ""

    def new(self) -> ChainedLearner:
        self.made += 1
        if self.taught:
            return ChainedLearner(self.taught, 1, self.on_step)
        return ChainedLearner(on_step=self.on_step)

    def restored(self, state: bytes) -> ChainedLearner:
        assert isinstance(state, Unsealed), "the state was never unsealed"
        self.read += 1
        chain, steps = json.loads(state)
        return ChainedLearner(chain, steps, self.on_step)


@dataclass(frozen=True)
class Rows:
    """A decoded record."""

    matured: Matured
    upstream_offsets: Ints
    upstream_rows: Ints


class RowsCodec:
    """Records are JSON: [[upstream offset, upstream row, event id, code], …]."""

    version = VERSION

    def read(self, record: Record) -> tuple[str, Rows]:
        version, upstream = header(record, FRAME), header(record, UPSTREAM)
        if version is None or upstream is None:
            raise ValueError("its headers are missing")
        return upstream.decode(), self._rows(json.loads(record.value or b""))

    def _rows(self, rows: list[tuple[int, int, str, float]]) -> Rows:
        columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
        offsets, places = (np.array(column, np.int64) for column in columns[:2])
        return Rows(matured(columns[2], columns[3]), offsets, places)


def matured(event_ids: Sequence[str], codes: Sequence[float]) -> Matured:
    """Outcomes of which nothing but id and code differs."""
    count = len(event_ids)
    times, ones = np.zeros(count, np.int64), np.ones(count)
    return Matured(
        list(event_ids),
        times,
        times,
        ["matched"] * count,
        np.array(codes, np.float64),
        ones * np.nan,
        FeatureMatrix(("x",), np.zeros((count, 1)), {}),
        ones * 0.5,
        {},
        ones * 0.5,
        ones,
        ["7"] * count,
    )


def outcome(offset: int, rows: Sequence[tuple[int, int]], upstream: str = UP) -> StoredRecord:
    """A record at `offset` with rows of these upstream positions; a row's id and code follow from its position."""
    value = json.dumps([[at, row, f"e{at}-{row}", float((at + row) % 2)] for at, row in rows]).encode()
    return StoredRecord(offset, 0, None, value, [(FRAME, VERSION), (UPSTREAM, upstream.encode())])


def notice(offset: int, place: tuple[int, int], since_ms: int | None, upstream: str = UP) -> StoredRecord:
    """What the join says of the label feed, at this upstream position."""
    said = FeedNotice(since_ms is not None, since_ms or 0, 0, *place)
    sent = notice_message(said, "shop.outcomes", upstream)
    return StoredRecord(offset, 0, None, sent.value, sent.headers)


def command(
    offset: int, control_offset: int, action: Any, name: str, snapshot: int | None = None
) -> StoredRecord:
    """A command to a learner, as it stands in `outcomes`."""
    value = encoded(LearnerCommand(action, name, "2013-04-01T10:15:00Z", "ann", snapshot))
    return StoredRecord(offset, 0, None, value, [(COMMAND, str(control_offset).encode())])


@dataclass
class Sent:
    """A publisher that keeps what it was given."""

    messages: list[Outgoing] = field(default_factory=list)

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[tuple[str, int], int]:
        self.messages += messages
        return {(message.topic, message.partition): len(self.messages) for message in messages}


def stage(store: SnapshotStore | None = None, maker: ChainedMaker | None = None, **more: Any) -> LearnStage:
    """A learner's stage that publishes as often as it may."""
    chosen: dict[str, Any] = {
        "publish_every_s": 0.0,
        "step_budget_s": 1e9,
        "publisher": Sent(),
        "sealing": Sealing("f00d", KEY),
        **more,
    }
    return LearnStage(
        maker=maker or ChainedMaker(),
        codec=RowsCodec(),
        store=store or MemorySnapshots(),
        dead_letters=DeadLetterWriter("shop.dead-letters", 4, "shop.outcomes", "v1", 1 << 20),
        metrics=Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0),
        **chosen,
    )


async def learnt(stage: LearnStage, records: Sequence[Record]) -> bytes:
    """The state after these records, without a snapshot: what an undisturbed learner comes to."""
    memory = await stage.open(PLACE)
    while records:
        await stage.process(memory, records)
        records = [record for record in records if record.offset > memory.batches.taken]
    return memory.batches.learner.state()
