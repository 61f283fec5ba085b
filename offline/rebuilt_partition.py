"""One partition of a stage while it is rebuilt: closed to workers, worked through the stage itself, and opened at the end.

Meanwhile it stands under the identity `PartitionId.rebuilding`, which no worker goes on from. So a rebuild can break off
anywhere, and go on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from features.errors import OperatorError
from features.store import NOTHING_APPLIED, Claim, Commit, EmptiableStore, Loaded, PartitionId, Refused
from streams.batch import Partition, Record
from streams.entity_batch import NO_EVENT_US


class TakenOverError(OperatorError):
    """Somebody else took a partition over while it was rebuilt."""


class RebuiltStage(Protocol):
    """A stage (`streams.stage.Stage`) that publishes nothing."""

    @property
    def name(self) -> str: ...
    async def open(self, partition: PartitionId) -> Any: ...
    async def process(self, memory: Any, records: Sequence[Record]) -> int | Refused: ...


@dataclass(frozen=True)
class RebuiltPartition:
    """`last` is the last record that is replayed, `pins` are (last record, versions) of stretches behind it.

    Everything raises `TakenOverError` when somebody else owns the partition by now.
    """

    stage: RebuiltStage
    store: EmptiableStore
    at: PartitionId
    last: int
    pins: Sequence[tuple[int, str]] = ()

    @property
    def place(self) -> Partition:
        """Topic and number."""
        return (self.at.topic, self.at.partition)

    async def marked(self, begins: int) -> bool:
        """Close it to workers; it begins before the record `begins`. False: an interrupted rebuild has opened it already."""
        loaded = await self.store.load(self.at)
        if loaded.identity == self.at.identity:
            return False
        if loaded.applied == NOTHING_APPLIED:
            nothing = replace(loaded, watermark_us=NO_EVENT_US)
            await self._commit(self.at.rebuilding, nothing, begins - 1)
        return True

    async def begun(self) -> Any:
        """Its memory, as the stage has it."""
        return await self.stage.open(self.at.rebuilding)

    async def worked(self, memory: Any, records: Sequence[Record]) -> None:
        """Take these records through the stage."""
        while records:
            outcome = await self.stage.process(memory, records)
            if isinstance(outcome, Refused):
                raise self.taken_over()
            records = [record for record in records if record.offset > outcome]

    async def open(self) -> None:
        """Pin what workers will repeat, and let them in."""
        loaded = await self.store.load(self.at)
        in_flight = NOTHING_APPLIED
        for last, versions in self.pins:
            first = max(loaded.applied, in_flight) + 1
            name, applied = self.stage.name, loaded.applied
            claim = Claim(self.at, loaded.epoch, applied, first, last, versions, name, in_flight=in_flight)
            if isinstance(await self.store.claim(claim), Refused):
                raise self.taken_over()
            in_flight = last
        await self._commit(self.at, loaded, loaded.applied)

    async def _commit(self, at: PartitionId, known: Loaded, applied: int) -> None:
        """Write nothing but where the partition stands, and under which identity."""
        commit = Commit(
            at, known.epoch, known.applied, applied, known.seen, known.watermark_us, self.stage.name, ()
        )
        answer = await self.store.commit(commit)
        if isinstance(answer, Refused) and not answer.already_done(commit):
            raise self.taken_over()

    def taken_over(self) -> TakenOverError:
        """What to tell the operator."""
        return TakenOverError(
            f"{self.at.topic}/{self.at.partition} was taken over by a worker, or by another rebuild, while it was rebuilt: stop "
            "it, and run the rebuild again; it goes on where it stopped"
        )
