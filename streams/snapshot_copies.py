"""A copy of the learners' newest snapshot beside the models, an hour old at most: it survives the loss of Redis.

A learner that finds a Redis that knows nothing goes on from it, and steps again what stands behind it in `outcomes`. The
copy is sealed as a whole: nothing of it is read before its signature was checked.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from features.snapshot_store import Snapshot
from features.store import NOTHING_APPLIED, PartitionId, Position
from models.model_store import ModelStore
from streams.learner_states import Sealing

log = logging.getLogger(__name__)

COPY = "copy"
"""The kind that it is sealed as."""


class _Copy(msgspec.Struct, array_like=True, frozen=True):
    """What of a snapshot is kept; `identity` is that of the topic that it was learnt from."""

    identity: str
    version: int
    seen: dict[str, tuple[int, int]]
    scoring: bytes
    state: bytes
    figures: bytes
    at_s: int


_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(_Copy).decode


@dataclass(frozen=True)
class SnapshotCopies:
    """Writes and reads the copy of each pipeline. Both raise OSError where the disk does."""

    models: ModelStore
    sealing: Sealing

    def write(self, snapshot: Snapshot) -> None:
        """It takes the place of the one before."""
        seen = {upstream: (at.offset, at.row) for upstream, at in snapshot.seen.items()}
        place, parts = snapshot.partition, (snapshot.scoring, snapshot.state, snapshot.figures)
        copy = _encode(_Copy(place.identity, snapshot.version, seen, *parts, snapshot.at_s))
        self.models.save_snapshot(place.pipeline, self.sealing.sealed(COPY, snapshot.version, copy))

    def read(self, partition: PartitionId) -> Snapshot | None:
        """The copy; None where there is none, or it was learnt from another topic. Raises `SnapshotError` unless it is ours."""
        data = self.models.snapshot(partition.pipeline)
        if data is None:
            return None
        copy = _decode(self.sealing.opened(COPY, data))
        if copy.identity != partition.identity:
            log.warning("the copy of snapshot %d was learnt from another topic: it is left", copy.version)
            return None
        seen = {upstream: Position(*at) for upstream, at in copy.seen.items()}
        parts = (copy.scoring, copy.state, seen, (), copy.figures, copy.at_s)
        return Snapshot(partition, 0, NOTHING_APPLIED, copy.version, *parts)
