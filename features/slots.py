"""Which entity stands in which row of the memory, and which one makes room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from features.errors import DeveloperError
from features.plan import Ints

NO_KEY: Final = -1
# Evicted are the entities that were not used for longest. They are looked up for many evictions at once, because
# ordering a million rows takes 10 ms; the list then is a little out of date, and each entry is checked when it is used.
_VICTIMS_AT_ONCE: Final = 8  # one in so many


class Slots:
    """Keys and their slots: rows 0 .. capacity - 1, handed out in order, then taken from the least recently used.

    Use is counted in batches. A slot that was used by a batch which is not committed yet is never taken: what the store
    knows of its entity is older than what stands in memory.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise DeveloperError(f"capacity {capacity}: room for at least one entity is needed")
        self.capacity = capacity
        self.evictions = 0
        self.clear()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes of the bookkeeping beside the keys."""
        return self._used.nbytes

    def clear(self) -> None:
        """Forget every key."""
        self.batch = 1  # the number of the batch that is being prepared
        self._committed = 0
        self._slots: dict[str, int] = {}
        self._keys: list[str] = []
        self._used = np.zeros(0, np.int64)  # number of the batch that last used the slot
        self._victims: list[tuple[int, int]] = []

    def key(self, slot: int) -> str:
        """The key that stands in a slot."""
        return self._keys[slot]

    def find(self, keys: Sequence[str | None]) -> Ints:
        """The slot of each key, NO_KEY for None; marks them as used by the batch that is being prepared."""
        slots = self._slots
        try:
            found = np.array([NO_KEY if key is None else slots[key] for key in keys], np.int64)
        except KeyError as missing:
            raise DeveloperError(
                f"entity {missing} is not in memory: `load` what `missing` names first"
            ) from None
        self._used[found[found >= 0]] = self.batch
        return found

    def missing(self, keys: Iterable[str | None]) -> list[str]:
        """Distinct keys that have no slot, in order."""
        slots = self._slots
        return list(dict.fromkeys(key for key in keys if key is not None and key not in slots))

    def known(self, keys: Iterable[str | None]) -> list[int]:
        """The slots of those keys that have one."""
        slots = self._slots
        return [slots[key] for key in keys if key is not None and key in slots]

    def touch(self, slots: Sequence[int]) -> None:
        """Mark slots as used by the batch that is being prepared."""
        self._used[np.array(slots, np.int64)] = self.batch

    def fits(self, keys: Sequence[str | None]) -> bool:
        """Whether all entities of a batch can stand in memory together, beside those of uncommitted batches."""
        distinct = {key for key in keys if key is not None}
        if len(self._keys) + len(distinct) <= self.capacity:
            return True
        pinned = self._used[: len(self._keys)] > self._committed
        needed = len(distinct) - int(np.count_nonzero(pinned[np.array(self.known(distinct), np.int64)]))
        return needed <= self.capacity - int(np.count_nonzero(pinned))

    def take(self, keys: Sequence[str]) -> Ints:
        """Slots for new keys. Raises `DeveloperError` when they do not fit (ask `fits` first)."""
        taken = np.array([self._free_slot() for _ in keys], np.int64)
        for key, slot in zip(keys, taken.tolist(), strict=True):
            self._keys[slot] = key
            self._slots[key] = slot
        return taken

    def next_batch(self) -> int:
        """The prepared batch was worked through; returns its number."""
        self.batch += 1
        return self.batch - 1

    def committed(self, batch: int) -> None:
        """The store has what this batch and those before it changed: their slots may be taken again."""
        self._committed = max(self._committed, batch)

    def _free_slot(self) -> int:
        if len(self._keys) == self.capacity:
            slot = self._victim()
            del self._slots[self._keys[slot]]
            self.evictions += 1
        else:
            slot = len(self._keys)
            self._keys.append("")
            if slot >= len(self._used):
                more = min(self.capacity, max(1_024, 2 * slot)) - slot
                self._used = np.concatenate((self._used, np.zeros(more, np.int64)))
        self._used[slot] = self.batch
        return slot

    def _victim(self) -> int:
        for attempt in range(2):
            while self._victims:
                slot, used = self._victims.pop()
                if self._used[slot] == used:
                    return slot
            if attempt == 0:
                self._find_victims()
        raise DeveloperError(
            f"{self.capacity} entities are in use by batches that are not committed: ask `fits` first"
        )

    def _find_victims(self) -> None:
        used = self._used[: len(self._keys)]
        candidates = np.flatnonzero(used <= self._committed)
        many = min(len(candidates), self.capacity // _VICTIMS_AT_ONCE + 1)
        if many < len(candidates):
            candidates = candidates[np.argpartition(used[candidates], many - 1)[:many]]
        ordered = candidates[
            np.argsort(-used[candidates], kind="stable")
        ]  # the oldest last, to be popped first
        self._victims = list(zip(ordered.tolist(), used[ordered].tolist(), strict=True))
