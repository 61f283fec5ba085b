"""Where a learner's snapshots stand: immutable bytes by version, and the newest version.

A version is an offset in `outcomes`: the last record whose labels are in it. Publishing is one call, fenced like a commit
(`features/store.py`): only the newest owner of the partition may publish, and only from where the store stands. The same
call moves the partition's `applied`, so a crash leaves snapshot and position as they belong together.

The newest snapshots are kept, 256 MiB of them, and at least two: a scorer may still be loading the one before the
newest. What is dropped is counted. The bytes are opaque here; models/snapshot.py signs and checks them.
`features/redis_snapshots.py` has the store in Redis, this module the twin in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from features.store import NOTHING_APPLIED, Loaded, PartitionId, Position, Refused, epoch_step


class Kept(NamedTuple):
    """How many snapshots stay: the newest of them up to so many bytes, whatever these at least, and never more."""

    most_bytes: int = 256 << 20
    fewest: int = 2
    # Small ones are published once a second: this is an hour and a bit of them.
    most: int = 4_096


@dataclass(frozen=True)
class Snapshot:
    """What a learner publishes: `scoring` for the scorers, `state` for the next learner, both sealed.

    `figures` is JSON for people: how good the models are (`driftwood models`). Only the newest is kept.

    `applied` is what the caller believes stands in the store, `version` the new `applied`; `seen` and `superseded` as in
    a commit.
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

    async def versions(self, pipeline: str) -> list[int]:
        """Those that are kept, oldest first."""
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


@dataclass
class _OfPipeline:
    epoch: int = 0
    applied: int = NOTHING_APPLIED
    identity: str | None = None
    seen: dict[str, Position] = field(default_factory=dict)
    latest: int | None = None
    snapshots: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    held: dict[int, bytes] = field(default_factory=dict)
    dropped: int = 0
    figures: bytes | None = None

    def exceeds(self, kept: Kept) -> bool:
        """Whether the oldest has to go."""
        size = sum(len(scoring) + len(state) for scoring, state in self.snapshots.values())
        count = len(self.snapshots)
        return count > kept.fewest and (size > kept.most_bytes or count > kept.most)


class MemorySnapshots:
    """`SnapshotStore` in dictionaries, with the semantics of the one in Redis; held states never expire.

    Example:
        >>> import asyncio
        >>> asyncio.run(MemorySnapshots().latest("shop")) is None
        True
    """

    def __init__(self, kept: Kept | None = None) -> None:
        self._kept = kept or Kept()
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

    async def versions(self, pipeline: str) -> list[int]:
        """Those that are kept, oldest first."""
        return sorted(self._pipelines[pipeline].snapshots)

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
        while known.exceeds(self._kept):
            del known.snapshots[min(known.snapshots)]
            known.dropped += 1
        return Published(known.dropped)
