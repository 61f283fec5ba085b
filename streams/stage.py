"""What a worker asks of a stage with state, whichever it is: an entity's, the join of labels, or the learner.

A stage works on batches of one partition in two halves, so that they may overlap (`streams/overlap.py`): `begin` has the
steps 1 to 5, `finish` the steps 6 and 7. What a stage remembers of a partition is its own affair, except for what stands
in `StageMemory`; a worker only ever hands a memory back to the stage that made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from features.store import PartitionId, Refused
from streams.batch import Record


class Held(Protocol):
    """What of a partition's state is in memory, for metrics."""

    @property
    def entities(self) -> int:
        """How many there are: entities, or rows of the ledger."""

    @property
    def nbytes(self) -> int:
        """The memory that they take, in bytes."""

    @property
    def evictions(self) -> int:
        """How many had to make room since the partition was opened."""


@dataclass
class HeldBytes:
    """`Held` of a stage whose state is one piece: the bytes of the newest one."""

    entities: int = 1
    nbytes: int = 0
    evictions: int = 0


class StageMemory(Protocol):
    """What a worker holds of one partition of a stage. It is forgotten whole when the partition moves.

    `applied` is the last record whose effects are known to be stored; `in_flight` has the last record of each batch that
    was begun and is not finished, oldest first.
    """

    @property
    def partition(self) -> PartitionId: ...
    @property
    def applied(self) -> int: ...
    @property
    def in_flight(self) -> tuple[int, ...]: ...
    @property
    def state(self) -> Held: ...


class BegunBatch(Protocol):
    """A batch after step 5. `last` is the new `applied`, which may lie before the last record that was offered."""

    @property
    def last(self) -> int: ...


class Stage(Protocol):
    """A stage with state. Memories and begun batches are `Any` here: each stage takes back what it has given out."""

    @property
    def name(self) -> str:
        """The stage's name in metrics."""

    async def open(self, partition: PartitionId) -> Any:
        """Take the partition over; a `StageMemory`. Reading begins at its `applied` + 1."""

    async def begin(self, memory: Any, records: Sequence[Record]) -> Any:
        """Steps 1 to 5 of a batch: a `BegunBatch`, or `Refused` (forget the memory and open again).

        None: there is no room beside the batches in flight, finish those first.
        """

    async def finish(self, memory: Any, begun: Any) -> int | Refused:
        """Steps 6 and 7 of the oldest batch in flight; returns the new `applied`, or why it had no effect."""

    async def process(self, memory: Any, records: Sequence[Record]) -> int | Refused:
        """One batch without overlap."""


@runtime_checkable
class BeginsAnew(Protocol):
    """A stage that comes to what it was from the first record of its topic on, when the store knows nothing of it."""

    @property
    def begins_anew(self) -> bool: ...


class Source(Protocol):
    """A stage without state: it reads what others produced, and its committed offset says how far."""

    async def process(self, partition: int, records: Sequence[Record]) -> None:
        """One batch of one partition."""


@runtime_checkable
class TickingSource(Source, Protocol):
    """A source that says every second how far it is, also when nothing comes."""

    async def tick(self, partition: int, *, idle: bool) -> None:
        """`idle`: nothing of the partition waits to be worked on."""


@runtime_checkable
class TickingStage(Stage, Protocol):
    """A stage that says every second how far it is, also when nothing comes."""

    async def tick(self, memory: Any, *, idle: bool) -> None:
        """`idle`: nothing of the partition waits to be worked on."""
