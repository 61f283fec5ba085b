"""The hot set: the state of the entities of one type in one partition, in memory, and batches over it.

The state after a batch does not depend, bit for bit, on how rows were cut into batches, on whether an entity was
evicted and loaded again in between, or on the capacity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from features import kernel
from features.errors import OperatorError
from features.label_rows import LabelRows
from features.layout import bytes_per_entity, layout_of, stored_bytes_per_entity
from features.memory import Batch, ChangeLog, LabelBatch, Memory, Results
from features.packing import STORED_HEADER, deletions, packed_changes, unpack
from features.plan import EntityPlan, Floats, Hashes, Ints
from features.slots import Slots

Scalar = TypeVar("Scalar", bound=np.generic)

_NO_INTS: Ints = np.zeros(0, np.int64)
_NO_LABELS = LabelBatch(
    _NO_INTS, _NO_INTS, _NO_INTS, np.zeros((0, 0)), _NO_INTS, np.zeros((0, 0)), np.zeros(1, np.int64)
)

__all__ = ["EntityBatch", "EntityState", "bytes_per_entity", "stored_bytes_per_entity"]


@dataclass(frozen=True)
class EntityBatch:
    """What became of a batch of n events; m is the number of entities that it changed.

    `features` float64[n, outputs]: as of each event, before it; a row without a key has the defaults.
    `age_s` float64[n]: seconds since the entity's newest earlier event, NaN when there was none; negative when late.
    `dropped` int64[n]: how many window groups and points the event came too late for.
    `late` bool[n]: older than the entity's newest event.
    `changes` m pairs of key and packed change records (see `features/packing.py`).
    `newest_rows` int64[m]: the row of the entity's newest event (the later one of equals), -1 when that is older than
    what was known before, or only labels came.
    `number`: for `EntityState.committed`.
    `labels_dropped`: how often a label row came too late for a window group.
    """

    features: Floats
    age_s: Floats
    dropped: Ints
    late: npt.NDArray[np.bool_]
    changes: list[tuple[str, bytes]]
    newest_rows: Ints
    number: int
    labels_dropped: int = 0


class EntityState:
    """At most `capacity` entities in memory, each of `bytes_per_entity` bytes.

    Address space for all of them is reserved at once; the system gives memory to it as entities come. Raises
    `OperatorError` when the machine has not even that.

    Beyond `capacity` the entities that were not used for longest are evicted and counted (`evictions`); they come back
    from the store. Entities of batches that are not committed stay; when there is no room beside them, `fits` is False
    and the caller cuts the batch or waits for a commit.

    Example:
        >>> from features.plan import Aggregate, Input, GroupKind, Output, WindowGroup
        >>> hour = 3_600_000_000
        >>> group = WindowGroup(GroupKind.COUNT, column=0, tile_us=hour // 12, ring=13, bound=0, identity=1)
        >>> count = Output("card_count_1h", Aggregate.COUNT, source=0, window_us=hour, default=0.0)
        >>> plan = EntityPlan("card", ("card",), (Input(None),), (), (group,), (), (count,))
        >>> state = EntityState(plan, capacity=100)
        >>> keys = ["c1", "c2", "c1", None]
        >>> state.fits(keys), state.missing(keys)
        (True, ['c1', 'c2'])
        >>> state.load({"c1": None, "c2": None})  # what the store has of them: nothing
        >>> times_us = np.array([0, 60, 120, 180]) * 1_000_000
        >>> batch = state.update_batch(keys, times_us, np.ones((4, 1)), np.zeros((4, 0), np.uint64))
        >>> batch.features[:, 0].tolist(), batch.age_s.tolist()
        ([0.0, 0.0, 1.0, 0.0], [nan, nan, 120.0, nan])
        >>> [(key, len(packed)) for key, packed in batch.changes]  # to be written; then:
        [('c1', 60), ('c2', 60)]
        >>> state.committed(batch.number)
    """

    def __init__(self, plan: EntityPlan, capacity: int) -> None:
        self.plan = plan
        self._layout = layout_of(plan)
        self._slots = Slots(capacity)
        self.forget()

    @property
    def entities(self) -> int:
        """How many entities are in memory."""
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays (keys come on top, about 250 bytes each)."""
        words = len(self._slots) * self._layout.tables.words * 8
        return words + self._memory.entity_of_slot.nbytes + self._slots.nbytes

    @property
    def evictions(self) -> int:
        """How many entities had to make room since this object was made."""
        return self._slots.evictions

    def forget(self) -> None:
        """Drop everything in memory, as when the partition moves or a batch is abandoned."""
        self._slots.clear()
        self._wanted: list[int] = []
        self._obsolete: dict[
            int, list[tuple[int, int]]
        ] = {}  # by slot: fields to delete at the entity's next change
        self._memory = self._reserved()

    def missing(self, keys: Sequence[str | None]) -> list[str]:
        """Distinct keys that are not in memory, in order: `load` them. Those that are will not be evicted by that."""
        self._wanted = self._slots.known(keys)
        return self._slots.missing(keys)

    def fits(self, keys: Sequence[str | None]) -> bool:
        """Whether a batch with these keys can be worked on now; if not, cut it, or commit first."""
        return self._slots.fits(keys)

    def load(self, states: Mapping[str, bytes | None]) -> None:
        """Take entities into memory: their stored records, or None for one that was never seen.

        Fields that the plan does not know are left out and deleted from the store with the entity's next change. An
        entity that is in memory already stays as it is, for the store is never newer than the owner's memory. Raises
        `OperatorError` when the bytes are damaged.
        """
        self._slots.touch(self._wanted)
        keys = self._slots.missing(states)
        slots = self._slots.take(keys)
        if len(slots) and slots.max() >= len(self._memory.entity_of_slot):
            raise self._too_many(len(self._slots))
        for slot in self._obsolete.keys() & set(slots.tolist()):
            del self._obsolete[
                slot
            ]  # of an entity that was evicted before it changed; it will be found again
        self._memory.words.reshape(-1, self._layout.tables.words)[slots] = self._layout.empty
        stored = [states[key] or b"" for key in keys]
        if any(stored):
            self._unpack(keys, slots, stored)

    def update_batch(
        self,
        keys: Sequence[str | None],
        times_us: Ints,
        inputs: Floats,
        hashes: Hashes,
        *,
        pack: bool = True,
        labels: LabelRows | None = None,
        labels_before: Ints = _NO_INTS,
    ) -> EntityBatch:
        """Features of each event and then its effect, in order. All keys must be in memory.

        `inputs` is float64[n, plan.inputs] (NaN, infinities and magnitudes over 1e150 count as missing), `hashes`
        uint64[n, plan.hashed] (0 is missing). `pack=False` leaves `changes` and `newest_rows` empty, for those who keep
        the state in memory only. `labels` are label rows, in one order with the events: `labels_before` int64[m],
        ascending, has the number of events before each. Their keys must be in memory too.
        """
        n, tables = len(keys), self._layout.tables
        slots = self._slots.find(keys)
        batch = Batch(
            slots, _plain(times_us, np.int64), _plain(inputs, np.float64), _plain(hashes, np.uint64)
        )
        features = np.empty((n, len(self.plan.outputs)))
        results = Results(features, np.empty(n), np.empty(n, np.int64), np.empty(n, np.bool_))
        known = _NO_LABELS if labels is None else self._labels(labels, labels_before)
        log = self._log(n, len(known.slots), pack=pack)
        kernel.update(self._memory, tables, batch, known, results, log)
        changes, newest_rows = self._changes(log) if pack else ([], np.zeros(0, np.int64))
        number = self._slots.next_batch()
        return EntityBatch(*results, changes, newest_rows, number, int(known.dropped[0]))

    def committed(self, number: int) -> None:
        """The store has the changes of this batch and those before it: their entities may be evicted."""
        self._slots.committed(number)

    def _labels(self, labels: LabelRows, before: Ints) -> LabelBatch:
        return LabelBatch(
            self._slots.find(labels.keys),
            _plain(before, np.int64),
            _plain(labels.known_us, np.int64),
            _plain(labels.values, np.float64),
            _plain(labels.replaced_known_us, np.int64),
            _plain(labels.replaced, np.float64),
            np.zeros(1, np.int64),
        )

    def _log(self, n: int, m: int, *, pack: bool) -> ChangeLog:
        """For n events and m label rows, of which each can change two tiles of a group."""
        mark_words = -(-len(self._layout.cells) // 64) if pack else 0
        groups, over_labels = len(self._layout.tables.groups), len(self._layout.tables.label_groups)
        most = n * (1 + groups + len(self.plan.points)) + m * (1 + 2 * over_labels) if pack else 0
        return ChangeLog(
            np.zeros(2, np.int64),
            np.empty(n + m, np.int64),
            np.empty(n + m, np.int64),
            np.zeros((n + m, mark_words), np.uint64),
            np.empty((most, 3), np.int64),
        )

    def _changes(self, log: ChangeLog) -> tuple[list[tuple[str, bytes]], Ints]:
        count = int(log.counts[0])
        packed = packed_changes(self._memory.words, self._layout.cells, self._layout.tables.words, log)
        changed = np.array([len(records) > 0 for records in packed], np.bool_)
        slots = log.slots[:count][changed].tolist()
        changes = [
            (self._slots.key(slot), records)
            for slot, records in zip(slots, filter(None, packed), strict=True)
        ]
        if self._obsolete:
            pairs = zip(slots, changes, strict=True)
            changes = [
                (key, records + deletions(self._obsolete.pop(slot, ()))) for slot, (key, records) in pairs
            ]
        return changes, log.newest_rows[:count][changed]

    def _unpack(self, keys: Sequence[str], slots: Ints, stored: Sequence[bytes]) -> None:
        layout, blob = self._layout, b"".join(stored)
        ends = np.concatenate(([0], np.cumsum([len(records) for records in stored]))).astype(np.int64)
        unknown = np.empty((len(blob) // STORED_HEADER.size, 3), np.int64)
        words, stride = self._memory.words, layout.tables.words
        data = np.frombuffer(
            bytearray(blob), np.uint8
        )  # a bytearray, because read-only arrays are another type to Numba
        count, damaged = unpack(words, layout.parts, layout.cells, stride, slots, data, ends, unknown)
        if damaged >= 0:
            raise OperatorError(
                f"the stored state of {self.plan.entity} {keys[damaged]!r} is damaged: {len(stored[damaged])} bytes that "
                "do not divide into records. Restore Redis from a backup, or rebuild the state from the log"
            )
        for entity, identity, tile in unknown[:count].tolist():
            self._obsolete.setdefault(int(slots[entity]), []).append((identity, tile))

    def _reserved(self) -> Memory:
        # Not grown by copying: for entities of 15 KB that cost 25 microseconds each, most of it the system's.
        # More than the machine's memory is never asked for: a backfill sets no limit, and gets what there is.
        size = self._layout.tables.words
        capacity = min(self._slots.capacity, max(_machine_bytes() // (8 * size), 1))
        try:
            words = np.empty(capacity * size, np.int64)
        except MemoryError as error:
            raise self._too_many(capacity) from error
        views = words.view(np.float64), words.view(np.uint64)
        scratch = np.empty(self._layout.most_hashes, np.uint64)
        return Memory(words, *views, np.zeros(capacity, np.int32), scratch)

    def _too_many(self, entities: int) -> OperatorError:
        return OperatorError(
            f"{entities} entities of {self.plan.entity} with {bytes_per_entity(self.plan)} bytes each do not fit "
            "into this machine's memory: lower hot_entities"
        )


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _plain(array: npt.NDArray[Scalar], kind: type[Scalar]) -> npt.NDArray[Scalar]:
    """Contiguous and writable: anything else is another type to Numba, and would be compiled for anew."""
    return np.require(array, kind, ["C", "W"])
