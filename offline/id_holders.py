"""Which event has an id, where the workers will ask for it again: to be reserved before anything is replayed.

Event ids are reserved at the claim, in one map for all partitions, and of two events with one id the one that was claimed
first is answered. That order stands in no log. It matters most where a row has yet to be answered: if another event with
its id, which had been dropped as a repeat and so has no output, were replayed first, then it would have the id, and
neither would ever be answered. So the ids of rows that are not proven are reserved first: for the event whose output
stands, else for the row itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from features.store import Claim, Loaded, PartitionId
from streams.entity_batch import EntityBatches
from streams.frames import Frame

# Ids in one call: some milliseconds of Redis.
CLAIMED = 5_000


class Holder(NamedTuple):
    """An event: its id, its time, and where it stands in `events` (`topic` is the digest of the topic's identity)."""

    event_id: str
    time_us: int
    topic: int
    partition: int
    offset: int


@dataclass
class IdHolders:
    """The events that have the ids of the first stage's tail. `batches` are the steps of that stage."""

    batches: EntityBatches
    _standing: list[Holder] = field(default_factory=list)
    _tail: list[Holder] = field(default_factory=list)
    _wanted: set[str] = field(default_factory=set)

    def of_tail(self, frame: Frame) -> None:
        """Rows that are not proven."""
        found = list(_holders(frame))
        self._tail += found
        self._wanted.update(holder.event_id for holder in found)

    def of_output(self, frame: Frame) -> None:
        """Rows that stand on the next hop topic."""
        self._standing += [holder for holder in _holders(frame) if holder.event_id in self._wanted]

    def of_prediction(self, key: bytes | None, value: bytes) -> None:
        """A prediction that stands, where the first stage is the last."""
        if key is None or key.decode() not in self._wanted:
            return
        prediction = json.loads(value)
        topic, partition, offset = prediction["position"].rsplit("/", 2)
        time_us = np.datetime64(prediction["event_time"].removesuffix("Z"), "us").astype(int)
        digest = int(topic.rpartition("@")[2], 16)
        self._standing.append(
            Holder(prediction["event_id"], int(time_us), digest, int(partition), int(offset))
        )

    def claims(self, at: PartitionId, known: Loaded) -> Iterator[Claim]:
        """Claims of no records that reserve the ids, whoever stands first."""
        holders = iter([*self._standing, *self._tail])
        while some := list(islice(holders, CLAIMED)):
            names, *numbers = zip(*some, strict=True)
            ids = self.batches.reservations(list(names), *(np.array(column, np.int64) for column in numbers))
            last, entity = known.applied, self.batches.plan.entity
            yield Claim(at, known.epoch, last, last + 1, last, "{}", entity, (), *ids)


def _holders(frame: Frame) -> Iterator[Holder]:
    columns = (frame.rows.times_us, frame.origin_topics, frame.origin_partitions, frame.origin_offsets)
    numbers = (column.tolist() for column in columns)
    return map(Holder, frame.rows.event_ids.to_pylist(), *numbers)
