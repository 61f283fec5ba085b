"""The event ids of a pipeline that are taken, in dictionaries: the memory store's half of `claim` and `commit`.

The scripts of the store in Redis do the same (features/redis_scripts/claim.lua, commit.lua), and one suite asks both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from features.store import BUCKETS, FULL_BUCKETS, POSITION_BYTES


@dataclass
class ReservedIds:
    """Digest of an event id -> position of the event that has it, by bucket of event time.

    Buckets are dropped when no partition can ask for them any more, and the oldest ones when there are too many.

    Example:
        >>> ids = ReservedIds(ids_a_bucket=2)
        >>> ids.reserve([b"a", b"b", b"a", b"c"], [7, 7, 8, 7], b"".join(b"position-of%d" % n for n in range(4)))
        ([2], 1)
        >>> ids.reserve([b"b"], [6], b"position-of5")
        ([0], 0)
    """

    ids_a_bucket: int
    buckets: dict[int, dict[bytes, bytes]] = field(default_factory=dict)

    def reserve(
        self, ids: Sequence[bytes], buckets: Sequence[int], positions: bytes
    ) -> tuple[list[int], int]:
        """The places of the ids that another event has; the others are reserved. And how many found no room."""
        self._make_room({bucket for bucket in buckets if not self.buckets.get(bucket)})
        repeats, dropped = [], 0
        for at, (digest, bucket) in enumerate(zip(ids, buckets, strict=True)):
            position = positions[at * POSITION_BYTES : (at + 1) * POSITION_BYTES]
            known = self._known(digest, bucket)
            if known is None:
                dropped += not self._reserved(digest, bucket, position)
            elif known != position:  # the same position is the event itself, come again after a crash
                repeats.append(at)
        return repeats, dropped

    def forget(self, needed: int) -> None:
        """Drop the buckets before this one: no partition needs them."""
        self.buckets = {bucket: ids for bucket, ids in self.buckets.items() if bucket >= needed}

    def _make_room(self, new: set[int]) -> None:
        for bucket in new:
            self.buckets[bucket] = {}
        while new and self._too_many():
            smallest = min(self.buckets)
            del self.buckets[smallest]
            new.discard(smallest)

    def _too_many(self) -> bool:
        held = sum(map(len, self.buckets.values()))
        return held > (FULL_BUCKETS - 1) * self.ids_a_bucket or len(self.buckets) > BUCKETS

    def _known(self, digest: bytes, bucket: int) -> bytes | None:
        near = (self.buckets.get(at, {}).get(digest) for at in (bucket, bucket - 1, bucket + 1))
        return next(filter(None, near), None)

    def _reserved(self, digest: bytes, bucket: int, position: bytes) -> bool:
        room = bucket in self.buckets and len(self.buckets[bucket]) < self.ids_a_bucket
        if room:
            self.buckets[bucket][digest] = position
        return room
