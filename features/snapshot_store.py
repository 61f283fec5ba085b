"""Where a learner's snapshots stand: immutable bytes by version, and the newest version.

A version is an offset in `outcomes`: the last record whose labels are in it. Publishing is one call, fenced like a commit
(`features/store.py`): only the newest owner of the partition may publish, and only from where the store stands. The same
call moves the partition's `applied`, so a crash leaves snapshot and position as they belong together.

The newest snapshots are kept, 256 MiB of them, and at least two: a scorer may still be loading the one before the
newest. What is dropped is counted. The bytes are opaque here; models/snapshot.py signs and checks them.
`features/redis_snapshots.py` has the store in Redis, this module the twin in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from features.store import NOTHING_APPLIED, Loaded, PartitionId, Position, Refused, epoch_step

NO_SNAPSHOT = -1  # the version before a learner has published any


class Kept(NamedTuple):
    """How many snapshots stay: the newest of them up to so many bytes, whatever these at least, and never more."""

    most_bytes: int = 256 << 20
    fewest: int = 2
    # Small ones are published once a second: this is an hour and a bit of them.
    most: int = 4_096


@dataclass(frozen=True)
class Snapshot:
    """What a learner publishes: `scoring` for the scorers, `state` for the next learner, both sealed.

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


@dataclass(frozen=True)
class Published:
    """The snapshot is the newest. `dropped`: how many older ones had to go, since the pipeline began."""

    dropped: int


class SnapshotReader(Protocol):
    """What scorers and commands ask. Raises `UnreachableError` and `StoreError` as a state store does."""

    async def newest(self) -> int:
        """The newest version, or `NO_SNAPSHOT`."""
        ...

    async def scoring(self, version: int) -> bytes | None:
        """What a scorer loads; None: this version is not there any more."""
        ...

    async def state(self, version: int) -> bytes | None:
        """Everything that the learner owned; None: this version is not there any more."""
        ...

    async def versions(self) -> list[int]:
        """Those that are kept, oldest first."""
        ...

    async def hold(self, version: int, seconds: int) -> bool:
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
class _Partition:
    epoch: int = 0
    applied: int = NOTHING_APPLIED
    identity: str | None = None
    seen: dict[str, Position] = field(default_factory=dict)


class MemorySnapshots:
    """`SnapshotStore` of one pipeline in dictionaries, with the semantics of the one in Redis; held states never expire.

    Example:
        >>> import asyncio
        >>> asyncio.run(MemorySnapshots().newest())
        -1
    """

    def __init__(self, kept: Kept | None = None) -> None:
        self._kept = kept or Kept()
        self._partition = _Partition()
        self._snapshots: dict[int, tuple[bytes, bytes]] = {}
        self._held: dict[int, bytes] = {}
        self._newest = NO_SNAPSHOT
        self._dropped = 0

    async def newest(self) -> int:
        """The newest version, or `NO_SNAPSHOT`."""
        return self._newest

    async def scoring(self, version: int) -> bytes | None:
        """What a scorer loads; None: this version is not there any more."""
        return self._snapshots[version][0] if version in self._snapshots else None

    async def state(self, version: int) -> bytes | None:
        """Everything that the learner owned; None: this version is not there any more."""
        return self._snapshots[version][1] if version in self._snapshots else self._held.get(version)

    async def versions(self) -> list[int]:
        """Those that are kept, oldest first."""
        return sorted(self._snapshots)

    async def hold(self, version: int, seconds: int) -> bool:
        """Keep the state of a version, whatever is dropped; False: it is not there any more."""
        state = await self.state(version)
        if state is not None:
            self._held[version] = state
        return state is not None

    async def load(self, partition: PartitionId) -> Loaded:
        """Raise the partition's epoch and read what is known of it."""
        known = self._partition
        known.epoch += epoch_step()
        return Loaded(known.epoch, known.applied, dict(known.seen), 0, known.identity)

    async def publish(self, snapshot: Snapshot) -> Published | Refused:
        """Make it the newest."""
        known = self._partition
        if known.epoch != snapshot.epoch:
            return Refused("epoch", known.applied)
        if known.applied != snapshot.applied:
            return Refused("applied", known.applied)
        known.applied, known.identity = snapshot.version, snapshot.partition.identity
        known.seen.update(snapshot.seen)
        for upstream in snapshot.superseded:
            known.seen.pop(upstream, None)
        self._snapshots[snapshot.version] = snapshot.scoring, snapshot.state
        self._newest = snapshot.version
        while len(self._snapshots) > self._kept.fewest and self._too_many():
            del self._snapshots[min(self._snapshots)]
            self._dropped += 1
        return Published(self._dropped)

    def _too_many(self) -> bool:
        size = sum(len(scoring) + len(state) for scoring, state in self._snapshots.values())
        return size > self._kept.most_bytes or len(self._snapshots) > self._kept.most
