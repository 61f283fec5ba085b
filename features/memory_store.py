"""The state store in dictionaries, with the semantics of the one in Redis: for replays, and for tests.

`copy.deepcopy` of a store is a snapshot of it. Nothing expires: `Commit.expire_s` counts seconds of the wall clock, and
there is none here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from features.reserved_ids import ReservedIds
from features.store import (
    IDLE_S,
    NOTHING_APPLIED,
    Claim,
    Claimed,
    Commit,
    Committed,
    Loaded,
    PartitionId,
    Position,
    Refused,
    epoch_step,
)

_NO_TILE = struct.pack("<q", -(2**63))
_ANY_BUCKET = -(2**62)
_FIELD, _REPLACED, _HEAD = 12, 20, 22  # where field, replaced tile and length end in a change record


@dataclass
class _Partition:
    epoch: int = 0
    applied: int = NOTHING_APPLIED
    identity: str | None = None
    watermark_us: int = 0
    seen: dict[str, Position] = field(default_factory=dict)
    pins: list[tuple[int, str]] = field(default_factory=list)
    oldest_bucket: int = _ANY_BUCKET
    active_s: float = 0.0


class MemoryStore:
    """`StateStore` in memory. `ids_a_bucket`: how many event ids a bucket remembers. `clock` tells idle partitions, in s.

    Example:
        >>> import asyncio
        >>> partition = PartitionId("flights", "flights.hop-origin", 0, "cluster/topic")
        >>> asyncio.run(MemoryStore().load(partition))
        Loaded(epoch=..., applied=-1, seen={}, watermark_us=0, identity=None)
    """

    def __init__(self, ids_a_bucket: int = 4_000_000, clock: Callable[[], float] = lambda: 0.0) -> None:
        self._ids_a_bucket = ids_a_bucket
        self._clock = clock
        self.ids: dict[str, ReservedIds] = {}
        """Pipeline -> its event ids."""
        self._partitions: dict[tuple[str, str, int], _Partition] = {}
        self._states: dict[tuple[str, str, str], dict[bytes, bytes]] = {}
        self.feature_rows: dict[bytes, bytes] = {}
        """Feast's Redis key -> the row last written there, packed as in features/feast_rows.py."""

    async def load(self, partition: PartitionId) -> Loaded:
        """Raise the partition's epoch and read what is known of it."""
        known = self._partition(partition)
        known.epoch += epoch_step()
        known.active_s = self._clock()
        return Loaded(known.epoch, known.applied, dict(known.seen), known.watermark_us, known.identity)

    async def claim(self, claim: Claim) -> Claimed | Refused:
        """Step 3."""
        known = self._partition(claim.partition)
        refused = self._claim_refused(known, claim)
        if refused:
            return refused
        pinned = next((pin for pin in known.pins if pin[0] >= claim.first), None)
        if pinned is None:
            pinned = (claim.last, claim.versions)
            if claim.last >= claim.first:  # a batch of which nothing is new has nothing to pin
                known.pins.append(pinned)
        states = {key: self._packed(claim.partition.pipeline, claim.entity, key) for key in claim.missing}
        reserved = self._ids(claim.partition).reserve(claim.ids, claim.id_buckets, claim.id_positions)
        return Claimed(pinned[1], pinned[0], states, *reserved)

    async def commit(self, commit: Commit) -> Committed | Refused:
        """Step 7."""
        known = self._partition(commit.partition)
        if known.epoch != commit.epoch:
            return Refused("epoch", known.applied)
        if known.applied != commit.applied or (commit.claimed and _reach(known) < commit.last):
            return Refused("applied", known.applied)
        known.applied, known.identity = commit.last, commit.partition.identity
        known.watermark_us = commit.watermark_us
        known.seen.update(commit.seen)
        for upstream in commit.superseded:
            known.seen.pop(upstream, None)
        known.pins = [pin for pin in known.pins if pin[0] > commit.last]
        for key, changes in commit.states:
            _change(self._states.setdefault((commit.partition.pipeline, commit.entity, key), {}), changes)
        self.feature_rows.update(commit.feature_rows)
        known.active_s = self._clock()
        if commit.oldest_bucket is not None:
            known.oldest_bucket = commit.oldest_bucket
            self._ids(commit.partition).forget(self._oldest_needed(commit.partition))
        return Committed()

    def _ids(self, partition: PartitionId) -> ReservedIds:
        return self.ids.setdefault(partition.pipeline, ReservedIds(self._ids_a_bucket))

    def _oldest_needed(self, partition: PartitionId) -> int:
        """The oldest bucket that some partition of the topic may ask for."""
        now_s = self._clock()
        active = [
            known.oldest_bucket
            for (pipeline, topic, _), known in self._partitions.items()
            if (pipeline, topic) == (partition.pipeline, partition.topic) and now_s - known.active_s <= IDLE_S
        ]
        return min(active)

    async def forget(self, pipeline: str) -> None:
        """Delete the positions, states and ids of a pipeline. Epochs stay, and so do Feast's rows."""
        for (of_pipeline, topic, number), known in list(self._partitions.items()):
            if of_pipeline == pipeline:
                self._partitions[of_pipeline, topic, number] = _Partition(known.epoch)
        self._states = {name: fields for name, fields in self._states.items() if name[0] != pipeline}
        self.ids.pop(pipeline, None)

    def _partition(self, partition: PartitionId) -> _Partition:
        name = (partition.pipeline, partition.topic, partition.partition)
        return self._partitions.setdefault(name, _Partition())

    @staticmethod
    def _claim_refused(known: _Partition, claim: Claim) -> Refused | None:
        if known.epoch != claim.epoch:
            return Refused("epoch", known.applied)
        newest = max(claim.applied, claim.in_flight)
        if known.applied == newest or claim.applied <= known.applied < newest <= _reach(known):
            return None
        return Refused("applied", known.applied)

    def _packed(self, pipeline: str, entity: str, key: str) -> bytes | None:
        fields = self._states.get((pipeline, entity, key))
        if not fields:
            return None
        return b"".join(name + struct.pack("<H", len(payload)) + payload for name, payload in fields.items())


def _reach(known: _Partition) -> int:
    """Up to where batches were claimed."""
    return known.pins[-1][0] if known.pins else known.applied


def _change(fields: dict[bytes, bytes], changes: bytes) -> None:
    for name, replaced, payload in _records(changes):
        if replaced != _NO_TILE:
            fields.pop(name[:4] + replaced, None)
        if payload:
            fields[name] = payload
        else:
            fields.pop(name, None)


def _records(changes: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Field, replaced tile and payload of each change (features/packing.py has the format)."""
    at = 0
    while at < len(changes):
        end = at + _HEAD + int.from_bytes(changes[at + _REPLACED : at + _HEAD], "little")
        yield changes[at : at + _FIELD], changes[at + _FIELD : at + _REPLACED], changes[at + _HEAD : end]
        at = end
