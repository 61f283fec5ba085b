"""Batches of one partition that overlap: steps 1 to 5 of one while 6 to 8 of the one before it.

```
take_all ─> begin ─> [begun] ─> finish ─> ended          two lanes, each in the order of the records
   └─ waits while two batches are in flight: meanwhile records gather, and the next batch is larger
```

While the broker and the store acknowledge a batch, the CPU already works on the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from features.store import Refused
from streams.batch import Partition
from streams.mailbox import Mailbox, Piece
from streams.stage import BegunBatch, Stage, StageMemory

# One in each lane. A third would wait for the second lane with its records in memory, and only make answers older.
IN_FLIGHT = 2


class _RefusedError(Exception):
    """Ends both lanes: the partition has to be loaded again."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.why)
        self.refused = refused


class Overlap:
    """Works on what comes into a partition's mailbox. `ended` is told of each piece whose
    work is done (step 8), and how many batches are still in flight."""

    def __init__(
        self,
        stage: Stage,
        memory: StageMemory,
        mailbox: Mailbox,
        began: Callable[[Partition], None],
        ended: Callable[[Piece, int], None],
    ) -> None:
        self._stage, self._memory, self._mailbox = stage, memory, mailbox
        self._began, self._ended = began, ended
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._begun: asyncio.Queue[tuple[Piece, BegunBatch] | None] = asyncio.Queue()

    async def run(self) -> Refused | None:
        """Until the mailbox is closed and what is in flight has ended (None), or the store refuses a batch.

        After a refusal, an exception or a cancel the memory must be forgotten: batches in flight have been abandoned.
        """
        place = "{}-{}".format(*self._mailbox.partition)
        lanes = [
            asyncio.create_task(self._begin_all(), name=f"begin batches of {place}"),
            asyncio.create_task(self._finish_all(), name=f"finish batches of {place}"),
        ]
        try:
            await asyncio.wait(lanes, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for lane in lanes:
                lane.cancel()
            ends = await asyncio.gather(*lanes, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, _RefusedError):
                raise end
        return next((end.refused for end in ends if isinstance(end, _RefusedError)), None)

    async def _begin_all(self) -> None:
        await self._room.acquire()
        while (piece := await self._mailbox.take_all()) is not None:
            self._began(piece.partition)
            begun = await self._begin(piece)
            done = sum(record.offset <= begun.last for record in piece.records)
            if done < len(piece.records):
                piece, rest = piece.cut(done)
                self._mailbox.put_back(rest)
            self._begun.put_nowait((piece, begun))
            await self._room.acquire()
        self._begun.put_nowait(None)

    async def _begin(self, piece: Piece) -> BegunBatch:
        begun: BegunBatch | Refused | None = await self._stage.begin(self._memory, piece.records)
        if begun is None:
            await self._begun.join()
            begun = await self._stage.begin(self._memory, piece.records)
            assert begun is not None, "there is always room when nothing is in flight"
        if isinstance(begun, Refused):
            raise _RefusedError(begun)
        return begun

    async def _finish_all(self) -> None:
        while (flight := await self._begun.get()) is not None:
            piece, begun = flight
            outcome = await self._stage.finish(self._memory, begun)
            if isinstance(outcome, Refused):
                raise _RefusedError(outcome)
            self._begun.task_done()
            self._ended(piece, len(self._memory.in_flight))
            self._room.release()
