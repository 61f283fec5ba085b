"""The source of the learn road: labels and actions are decoded and sent to where their events wait.

It has no state. After a crash it repeats what was not committed, and the join stage drops the copies. Every second each of
its partitions says how far it is (`tick`), so that the join stage knows that nothing is under way when nothing comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from features.decode import DeadRecord
from features.plan import Ints
from streams.batch import Record
from streams.dead_letters import DeadLetter, DeadLetterWriter
from streams.join_frames import LABELS, NO_MARK, Idle, ReportCodec, Reports, idle_messages
from streams.labels import LabelDecoder
from streams.metrics import Metrics
from streams.predict_road import Publishing
from streams.producer import Outgoing


@dataclass
class Progress:
    """How far a partition is: the newest time that came from it, and the wall clock of its last record."""

    mark_us: int = NO_MARK
    last_ms: int = 0


@dataclass(frozen=True)
class LabelIngest:
    """Reads `labels` or `actions`, which `feed` says; `source` names the topic and its identity.

    `topic` is hop-join, with so many partitions. `now_ms` is the wall clock in milliseconds.
    """

    feed: str
    source: str
    decoder: LabelDecoder
    codec: ReportCodec
    topic: str
    partitions: int
    pipeline_version: str
    dead_letters: DeadLetterWriter
    publisher: Publishing
    metrics: Metrics
    now_ms: Callable[[], float]
    progress: dict[int, Progress] = field(default_factory=dict)

    async def process(self, partition: int, records: Sequence[Record]) -> None:
        """One batch of one partition. Raises `DeliveryError` when the broker does not take what was made of it."""
        timer = self.metrics.timer(self.feed)
        reports, dead = self._decode(records)  # 1, 2
        timer.done("decode")
        letters = [
            DeadLetter(partition, records[bad.index], bad.reason, bad.path, bad.detail) for bad in dead
        ]
        outgoing = [self.dead_letters.message(letter) for letter in letters]
        outgoing += self._messages(partition, reports)
        await self.publisher.deliver(outgoing)  # 6
        timer.done("deliver")
        self._note(partition, reports)
        self.metrics.events.labels(self.feed).inc(len(records))
        self.metrics.rows.labels(self.feed).inc(len(reports))
        self.metrics.dead_letters(bad.reason for bad in dead)

    async def tick(self, partition: int, *, idle: bool) -> None:
        """Say how far the partition is, to every partition of hop-join. Raises `DeliveryError`."""
        at = self.progress.setdefault(partition, Progress())
        said = Idle(self.feed, at.mark_us, int(self.now_ms()), idle, at.last_ms)
        upstream = self._upstream(partition)
        await self.publisher.deliver(idle_messages(self.topic, self.partitions, upstream, said))

    def _decode(self, records: Sequence[Record]) -> tuple[Reports, list[DeadRecord]]:
        values = [(record.value, record.timestamp) for record in records]
        if self.feed == LABELS:
            labels, index, dead = self.decoder.labels(values)
            return Reports.of_labels(labels, _offsets(records, index)), dead
        actions, index, dead = self.decoder.actions(values)
        return Reports.of_actions(actions, _offsets(records, index), self.codec.values), dead

    def _messages(self, partition: int, reports: Reports) -> list[Outgoing]:
        upstream, version = self._upstream(partition), self.pipeline_version
        headers = self.codec.headers(self.feed, upstream, int(self.now_ms()), version)
        cut = self.codec.encode(reports, self.partitions)
        return [Outgoing(self.topic, number, None, value, headers) for number, value in cut]

    def _note(self, partition: int, reports: Reports) -> None:
        if len(reports):
            at = self.progress.setdefault(partition, Progress())
            at.mark_us = max(at.mark_us, int(reports.known_us.max()))
            at.last_ms = int(self.now_ms())

    def _upstream(self, partition: int) -> str:
        return f"{self.source}/{partition}"


def _offsets(records: Sequence[Record], index: Sequence[int]) -> Ints:
    return np.array([records[at].offset for at in index], np.int64)
