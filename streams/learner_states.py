"""Where the learners begin when their partition is taken over: at a snapshot, at a copy of one, or at what training taught.

    the store has the newest snapshot       there; what stands behind it in `outcomes` is stepped again
    it knows nothing, and there is a copy   at the copy (`streams/snapshot_copies.py`): Redis was lost
    and outcomes behind that are deleted    as the copy has them, behind what is deleted: what was learnt there is lost
    no copy, `outcomes` from the first      at what training taught, as at the very first time: all is learnt again
    no copy, the first are deleted          the same, behind what is deleted: what was learnt there is lost

Every state is checked before anything of it is read. What cannot be used is an error, unless `afresh` says to go on.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from features.errors import SnapshotError, StateLostError
from features.snapshot_store import FIRST, Snapshot, SnapshotStore
from features.store import NOTHING_APPLIED, Loaded, PartitionId, Position, Refused
from models.snapshot import seal, unseal
from streams.batch import Partition, Record
from streams.mini_batches import Learner, restores

log = logging.getLogger(__name__)


class Copies(Protocol):
    """Where a copy of the newest snapshot is kept (`streams/snapshot_copies.py`). Both raise OSError."""

    def write(self, snapshot: Snapshot) -> None:
        """It takes the place of the one before."""

    def read(self, partition: PartitionId) -> Snapshot | None:
        """The copy; None where there is none that was learnt from this topic. Raises `SnapshotError` unless it is ours."""


class LearnerMaker(Protocol):
    """Makes the learners of a pipeline (`models/learning.py`)."""

    def new(self) -> Learner:
        """Learners that no outcome has taught."""

    def restored(self, state: bytes) -> Learner:
        """Learners as they were when they gave this state."""


@dataclass(frozen=True)
class Sealing:
    """How snapshots are signed: the key, and the hash of the features that they are bound to."""

    feature_hash: str
    key: bytes = field(repr=False)

    def sealed(self, kind: str, version: int, payload: bytes) -> bytes:
        """The payload, signed."""
        return seal(kind, version, self.feature_hash, payload, self.key)

    def opened(self, kind: str, data: bytes) -> bytes:
        """The payload; raises `SnapshotError` unless it is ours."""
        return unseal(data, kind, self.feature_hash, self.key)

    def snapshot(
        self,
        partition: PartitionId,
        version: int,
        learner: Learner,
        seen: Mapping[str, Position],
        now_ms: float,
    ) -> Snapshot:
        """The learners as they stand behind the outcome `version`; who publishes it says for whom."""
        return Snapshot(
            partition,
            0,
            NOTHING_APPLIED,
            version,
            self.sealed("scoring", version, learner.scoring()),
            self.sealed("state", version, learner.state()),
            dict(seen),
            figures=json.dumps({**learner.figures(), "published_ms": now_ms}).encode(),
            at_s=int(now_ms // 1_000),
        )


@dataclass(frozen=True)
class LearnerStates:
    """Finds what the learners of one pipeline were. The fields are those of `streams.learner.LearnStage`."""

    maker: LearnerMaker
    store: SnapshotStore
    sealing: Sealing
    afresh: bool
    copies: Copies | None
    oldest: Callable[[Partition], int]
    now_ms: Callable[[], float]
    thread: ThreadPoolExecutor

    async def recovered(self, partition: PartitionId, loaded: Loaded) -> Loaded:
        """Where the store knows nothing: from where to go on, which the store then knows. Raises as it does."""
        oldest = await asyncio.to_thread(self.oldest, (partition.topic, partition.partition))
        snapshot = await self._in_thread(self._copy, partition, oldest)
        if snapshot is None:
            if oldest == 0:
                return loaded
            snapshot = await self._in_thread(self._afresh_behind, partition, oldest - 1)
        snapshot = replace(snapshot, epoch=loaded.epoch, applied=loaded.applied)
        if isinstance(await self.store.publish(snapshot), Refused):
            return await self.store.load(partition)  # somebody was quicker
        return replace(loaded, applied=snapshot.version, seen=snapshot.seen)

    def _copy(self, partition: PartitionId, oldest: int) -> Snapshot | None:
        """The copy, from which the outcome `oldest` or one before it is the next."""
        try:
            found = None if self.copies is None else self.copies.read(partition)
            if found is not None and found.version + 1 < oldest:
                return self._moved_behind(found, oldest - 1)
        except SnapshotError as error:
            if not self.afresh:
                raise SnapshotError(
                    f"{error}. Redis knows nothing of the learners of {partition.pipeline}, and this was the copy of them "
                    "beside the models: put that right, or run 'driftwood learn --afresh', which goes on without it"
                ) from error
            log.warning("the copy of the learners is left, as asked: %s", error)
            return None
        if found is not None:
            said = "the store knows nothing of the learners: they go on from the copy of snapshot %d"
            log.warning(said, found.version)
        return found

    def _moved_behind(self, copy: Snapshot, version: int) -> Snapshot:
        """The learners of the copy, as if they had learnt the outcomes that are deleted: reading could not go on before."""
        log.warning(
            "the store knows nothing of the learners: they go on from the copy of snapshot %d, behind outcome %d: those in "
            "between are deleted, and what was learnt from them is lost",
            *(copy.version, version),
        )
        learner = self.maker.restored(self.sealing.opened("state", copy.state))
        return self.sealing.snapshot(copy.partition, version, learner, copy.seen, self.now_ms())

    def _afresh_behind(self, partition: PartitionId, version: int) -> Snapshot:
        log.warning(
            "the store knows nothing of the learners of %s, there is no copy of a snapshot, and outcomes up to %d are deleted: "
            "they begin afresh behind these, with what training has taught them",
            *(partition.pipeline, version),
        )
        return self.sealing.snapshot(partition, version, self.maker.new(), {}, self.now_ms())

    async def learner(self, pipeline: str, version: int) -> Learner:
        """The learners of this snapshot. Raises `StateLostError` and `SnapshotError`."""
        if version == FIRST and await self.store.state(pipeline, FIRST) is None:
            begun: Learner = await self._in_thread(self.maker.new)
            return begun
        try:
            state = await self._own_state(pipeline, version)
            # Ours, and yet perhaps of learners that the pipeline no longer declares, or of an older format.
            learner: Learner = await self._in_thread(self.maker.restored, state)
            log.info("the learners of %s go on from snapshot %d", pipeline, version)
        except (SnapshotError, StateLostError) as error:
            if not self.afresh:
                raise type(error)(
                    f"{error}. The learners of {pipeline} cannot go on from snapshot {version}: put that right, or run "
                    "'driftwood learn --afresh', which goes on behind it with new learners"
                ) from error
            log.warning("the learners begin afresh behind outcome %d, as asked: %s", version, error)
            learner = await self._in_thread(self.maker.new)
        return learner

    async def _own_state(self, pipeline: str, version: int) -> bytes:
        data = await self.store.state(pipeline, version)
        if data is None:
            raise StateLostError(
                f"Redis knows that the learners of {pipeline} have published snapshot {version}, and has it no more: a key "
                "was deleted or evicted, and Redis is to be restored"
            )
        return self.sealing.opened("state", data)

    async def wanted(self, pipeline: str, records: Sequence[Record]) -> dict[int, bytes]:
        """The states of older snapshots that commands among these records set learners back to."""
        states: dict[int, bytes] = {}
        for version in restores(records):
            data = await self.store.state(pipeline, version)
            if data is None:
                log.error("snapshot %d is not there any more: no learner is set back to it", version)
            else:
                states[version] = self.sealing.opened("state", data)
        return states

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, work, *arguments)
