"""Where the drift watch keeps what it has counted: one opaque state for each partition that it reads, and how far it is.

Storing is one call, fenced like a commit (`features/store.py`): only the newest owner of a partition may store, and only
from where the store stands; the state and the last record that is in it change together. The keys are the watch's own:
nothing of the predict and the learn road is read or written. `features/redis_watch.py` has the store in Redis, this module
the twin in memory.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

from features.store import NOTHING_APPLIED, PartitionId, Refused, epoch_step


@dataclass(frozen=True)
class Watched:
    """What the store knows of a partition, and the epoch under which the caller now owns it.

    `applied` is the last record that is in `state`; `identity` names the topic that both belong to. None: nothing yet.
    """

    epoch: int
    applied: int
    identity: str | None
    state: bytes | None


@dataclass(frozen=True)
class WatchState:
    """What is stored: `applied` is what the caller believes stands in the store, `last` the new one."""

    partition: PartitionId
    epoch: int
    applied: int
    last: int
    state: bytes


class WatchStore(Protocol):
    """Raises `UnreachableError` when the store does not answer, `StoreError` when it refuses, as a state store does."""

    async def load(self, partition: PartitionId) -> Watched:
        """Raise the partition's epoch and read what is known of it."""
        ...

    async def store(self, state: WatchState) -> Refused | None:
        """Keep it. Refused to all but the newest owner, and where the store does not stand at `applied`.

        Sent twice because the first answer got lost, it is refused with `applied` = its own `last`: it is done.
        """
        ...


@dataclass
class _OfPartition:
    epoch: int = 0
    applied: int = NOTHING_APPLIED
    identity: str | None = None
    state: bytes | None = None


class MemoryWatch:
    """`WatchStore` in dictionaries.

    Example:
        >>> import asyncio
        >>> asyncio.run(MemoryWatch().load(PartitionId("shop", "shop.hop-join", 0, "c/t"))).state is None
        True
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int], _OfPartition] = defaultdict(_OfPartition)

    async def load(self, partition: PartitionId) -> Watched:
        """Raise the partition's epoch and read what is known of it."""
        known = self._of(partition)
        known.epoch += epoch_step()
        return Watched(known.epoch, known.applied, known.identity, known.state)

    async def store(self, state: WatchState) -> Refused | None:
        """Keep it."""
        known = self._of(state.partition)
        if known.epoch != state.epoch:
            return Refused("epoch", known.applied)
        if known.applied != state.applied:
            return Refused("applied", known.applied)
        known.applied, known.identity = state.last, state.partition.identity
        known.state = state.state
        return None

    def _of(self, partition: PartitionId) -> _OfPartition:
        return self._known[partition.pipeline, partition.topic, partition.partition]
