"""Where a learner's snapshots stand: immutable bytes by version, and the newest version.

A version is an offset in `outcomes`: the last record whose labels are in it. Publishing is one call, fenced like a commit
(`features/store.py`): only the newest owner of the partition may publish, and only from where the store stands. The same
call moves the partition's `applied`, so a crash leaves snapshot and position as they belong together.

Snapshots are kept up to 256 MiB, fewer and fewer with their age (`features/snapshots_kept.py`), and at least two: a scorer
may still be loading the one before the newest. Those that batches in flight are pinned to stay. What is dropped is
counted. The bytes are opaque here; models/snapshot.py signs and checks them.
`features/redis_snapshots.py` has the store in Redis, this module the twin in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from features.snapshots_kept import Kept, Standing, dropped
from features.store import NOTHING_APPLIED, Loaded, PartitionId, Position, Refused, epoch_step

FIRST = NOTHING_APPLIED
"""The version of the snapshot of learners that no outcome has taught yet."""


@dataclass(frozen=True)
class Snapshot:
    """What a learner publishes: `scoring` for the scorers, `state` for the next learner, both sealed.

    `figures` is JSON for people: how good the models are (`driftwood models`). Only the newest is kept.

    `applied` is what the caller believes stands in the store, `version` the new `applied`; `seen` and `superseded` as in
    a commit. `at_s` is when it was made (wall clock), `pinned_by` has the partitions (topic, number) whose batches are
    pinned to snapshots.
    """

    partition: PartitionId
    epoch: int
    applied: int
    version: int
    scoring: bytes
    state: bytes
    seen: Mapping[str, Position] = field(default_factory=dict)
    superseded: Sequence[str] = ()
    figures: bytes = b"{}"
    at_s: int = 0
    pinned_by: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Published:
    """The snapshot is the newest. `dropped`: how many older ones had to go, since the pipeline began."""

    dropped: int


class SnapshotReader(Protocol):
    """What scorers and commands ask. Raises `UnreachableError` and `StoreError` as a state store does."""

    async def latest(self, pipeline: str) -> int | None:
        """The newest version, or None before the first."""
        ...

    async def scoring(self, pipeline: str, version: int) -> bytes | None:
        """What a scorer loads; None: this version is not there any more."""
        ...

    async def state(self, pipeline: str, version: int) -> bytes | None:
        """Everything that the learner owned; None: this version is not there any more."""
        ...

    async def figures(self, pipeline: str) -> bytes | None:
        """The figures of the newest, as JSON; None before the first."""
        ...

    async def standing(self, pipeline: str) -> list[Standing]:
        """Those that are kept, oldest first."""
        ...

    async def versions(self, pipeline: str) -> list[int]:
        """Their versions."""
        ...

    async def hold(self, pipeline: str, version: int, seconds: int) -> bool:
        """Keep the state of a version for so long, whatever is dropped; False: it is not there any more."""
        ...


class SnapshotStore(SnapshotReader, Protocol):
    """What the learner asks besides."""

    async def load(self, partition: PartitionId) -> Loaded:
        """Raise the partition's epoch and read what is known of it."""
        ...

    async def publish(self, snapshot: Snapshot) -> Published | Refused:
        """Make it the newest. Refused to all but the newest owner, and where the store does not stand at `applied`.

        Sent twice because the first answer got lost, it is refused with `applied` = its own version: it is done.
        """
        ...


Pinned = Callable[[Sequence[tuple[str, int]]], Collection[int]]


@dataclass
class _OfPipeline:
    epoch: int = 0
    applied: int = NOTHING_APPLIED
    identity: str | None = None
    seen: dict[str, Position] = field(default_factory=dict)
    latest: int | None = None
    snapshots: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    made_s: dict[int, int] = field(default_factory=dict)
    held: dict[int, bytes] = field(default_factory=dict)
    dropped: int = 0
    figures: bytes | None = None

    def standing(self) -> list[Standing]:
        """Those that are kept, oldest first."""
        return [
            Standing(version, len(scoring) + len(state), self.made_s[version])
            for version, (scoring, state) in sorted(self.snapshots.items())
        ]

    def thin(self, now_s: int, pinned: Collection[int], kept: Kept) -> None:
        """Drop what need not stay."""
        for one in dropped(self.standing(), now_s, pinned, kept):
            del self.snapshots[one.version]
            self.dropped += 1


class MemorySnapshots:
    """`SnapshotStore` in dictionaries, with the semantics of the one in Redis; held states never expire.

    `pinned` gives the versions that pins of these partitions name.

    Example:
        >>> import asyncio
        >>> asyncio.run(MemorySnapshots().latest("shop")) is None
        True
    """

    def __init__(self, kept: Kept | None = None, pinned: Pinned = lambda partitions: ()) -> None:
        self._kept, self._pinned = kept or Kept(), pinned
        self._pipelines: dict[str, _OfPipeline] = defaultdict(_OfPipeline)

    async def latest(self, pipeline: str) -> int | None:
        """The newest version, or None before the first."""
        return self._pipelines[pipeline].latest

    async def scoring(self, pipeline: str, version: int) -> bytes | None:
        """What a scorer loads; None: this version is not there any more."""
        kept = self._pipelines[pipeline].snapshots
        return kept[version][0] if version in kept else None

    async def state(self, pipeline: str, version: int) -> bytes | None:
        """Everything that the learner owned; None: this version is not there any more."""
        known = self._pipelines[pipeline]
        return known.snapshots[version][1] if version in known.snapshots else known.held.get(version)

    async def figures(self, pipeline: str) -> bytes | None:
        """The figures of the newest, as JSON; None before the first."""
        return self._pipelines[pipeline].figures

    async def standing(self, pipeline: str) -> list[Standing]:
        """Those that are kept, oldest first."""
        return self._pipelines[pipeline].standing()

    async def versions(self, pipeline: str) -> list[int]:
        """Their versions."""
        return [one.version for one in await self.standing(pipeline)]

    async def hold(self, pipeline: str, version: int, seconds: int) -> bool:
        """Keep the state of a version, whatever is dropped; False: it is not there any more."""
        state = await self.state(pipeline, version)
        if state is not None:
            self._pipelines[pipeline].held[version] = state
        return state is not None

    async def load(self, partition: PartitionId) -> Loaded:
        """Raise the partition's epoch and read what is known of it."""
        known = self._pipelines[partition.pipeline]
        known.epoch += epoch_step()
        return Loaded(known.epoch, known.applied, dict(known.seen), 0, known.identity)

    async def publish(self, snapshot: Snapshot) -> Published | Refused:
        """Make it the newest."""
        known = self._pipelines[snapshot.partition.pipeline]
        if known.epoch != snapshot.epoch:
            return Refused("epoch", known.applied)
        if known.applied != snapshot.applied:
            return Refused("applied", known.applied)
        known.applied, known.identity = snapshot.version, snapshot.partition.identity
        known.seen.update(snapshot.seen)
        for upstream in snapshot.superseded:
            known.seen.pop(upstream, None)
        known.snapshots[snapshot.version] = snapshot.scoring, snapshot.state
        known.latest, known.figures = snapshot.version, snapshot.figures
        known.made_s[snapshot.version] = snapshot.at_s
        known.thin(snapshot.at_s, self._pinned(snapshot.pinned_by), self._kept)
        return Published(known.dropped)
