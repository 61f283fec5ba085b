"""Mailboxes and the tasks that empty them, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import DeveloperError
from streams.batch import FetchedBatch, Partition
from streams.mailbox import RECORD_OVERHEAD_BYTES, Mailbox, MailboxLimits, PartitionTasks, Piece, Put

PARTITION = ("hop-origin", 3)


@dataclass(frozen=True)
class OneRecord:
    offset: int
    value: bytes | None = b""
    timestamp: int = 0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def batch(
    start: int, end: int, seek: int = 1, size: int = 0, partition: Partition = PARTITION
) -> FetchedBatch:
    records = [OneRecord(offset, b"x" * size) for offset in range(start, end)]
    return FetchedBatch(*partition, records, seek, start, end, highwater=end + 10)


@dataclass
class Flow:
    """Notes what the mailbox asks of the transport."""

    asked: list[str] = field(default_factory=list)

    def hold(self, partition: Partition) -> None:
        assert partition == PARTITION
        self.asked.append("hold")

    def release(self, partition: Partition) -> None:
        assert partition == PARTITION
        self.asked.append("release")

    def mailbox(self, offset: int = 0, **limits: int) -> Mailbox:
        return Mailbox(PARTITION, offset, 1, MailboxLimits(**limits), self.hold, self.release)


def offsets(piece: Piece | None) -> list[int]:
    assert piece is not None
    return [record.offset for record in piece.records]


def run(scenario: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0)


def test_all_that_waits_is_taken_as_one_piece() -> None:
    async def scenario() -> None:
        mailbox = Flow().mailbox(offset=5)
        for start, end in [(5, 8), (8, 9), (9, 20)]:
            assert mailbox.put(batch(start, end)) is Put.TAKEN
        piece = await mailbox.take_all()
        assert offsets(piece) == list(range(5, 20))
        assert piece is not None
        assert (piece.start, piece.end, piece.seek) == (5, 20, 1)
        assert mailbox.waiting_records == mailbox.waiting_bytes == 0

    run(scenario)


def test_taking_waits_for_the_first_batch() -> None:
    async def scenario() -> None:
        mailbox = Flow().mailbox()
        taking = asyncio.create_task(mailbox.take_all())
        await asyncio.sleep(0)
        assert not taking.done()
        mailbox.put(batch(0, 2))
        assert offsets(await taking) == [0, 1]

    run(scenario)


@given(
    st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=12),
    st.integers(min_value=1, max_value=10),
    st.integers(min_value=1, max_value=2000),
    st.lists(st.integers(min_value=1, max_value=5), max_size=20),
)
def test_pieces_keep_order_and_limits_whatever_is_put_back(
    lengths: list[int], piece_records: int, piece_bytes: int, cuts: list[int]
) -> None:
    async def scenario() -> None:
        flow = Flow()
        mailbox = flow.mailbox(piece_records=piece_records, piece_bytes=piece_bytes, waiting_records=20)
        start = 0
        for length in lengths:
            mailbox.put(batch(start, start + length, size=start % 50))
            start += length
        taken: list[int] = []
        remaining = iter(cuts)
        while len(taken) < start:
            piece = await mailbox.take_all()
            assert piece is not None
            assert piece.start == len(taken)
            assert len(piece.records) <= piece_records
            size = sum(len(record.value or b"") + RECORD_OVERHEAD_BYTES for record in piece.records)
            assert size <= piece_bytes or len(piece.records) == 1
            cut = next(remaining, 0)
            if 0 < cut < len(piece.records):
                piece, rest = piece.cut(cut)
                mailbox.put_back(rest)
            taken += offsets(piece)
            assert piece.end == len(taken)
            assert mailbox.waiting_records == start - len(taken)
        assert taken == list(range(start))
        assert mailbox.waiting_bytes == 0
        assert flow.asked in ([], ["hold", "release"]) or flow.asked[-1] == "release"

    run(scenario)


def test_a_full_mailbox_asks_to_hold_once_and_to_release_at_half() -> None:
    async def scenario() -> None:
        flow = Flow()
        mailbox = flow.mailbox(waiting_records=10, piece_records=3)
        mailbox.put(batch(0, 10))
        assert flow.asked == []
        mailbox.put(batch(10, 11))
        mailbox.put(batch(11, 12))  # was on its way already: taken all the same
        assert flow.asked == ["hold"]
        await mailbox.take_all()
        await mailbox.take_all()
        assert (mailbox.waiting_records, flow.asked) == (6, ["hold"])
        await mailbox.take_all()
        assert (mailbox.waiting_records, flow.asked) == (3, ["hold", "release"])

    run(scenario)


def test_many_bytes_fill_a_mailbox_as_many_records_do() -> None:
    async def scenario() -> None:
        flow = Flow()
        mailbox = flow.mailbox(waiting_bytes=10_000)
        mailbox.put(batch(0, 2, size=6_000))
        assert flow.asked == ["hold"]
        await mailbox.take_all()
        assert flow.asked == ["hold", "release"]

    run(scenario)


def test_a_batch_that_was_queued_before_a_seek_is_dropped_after_it() -> None:
    async def scenario() -> None:
        mailbox = Flow().mailbox()
        mailbox.put(batch(0, 5))
        held = await mailbox.take_all()
        assert held is not None
        mailbox.put(batch(5, 9))
        mailbox.reset(seek=2, offset=3)
        assert mailbox.waiting_records == 0
        assert mailbox.put(batch(9, 12)) is Put.STALE
        mailbox.put_back(held)
        assert mailbox.put(batch(3, 6, seek=2)) is Put.TAKEN
        assert offsets(await mailbox.take_all()) == [3, 4, 5]
        assert mailbox.stale_batches == 1

    run(scenario)


def test_a_batch_that_is_quicker_than_the_news_of_its_seek_is_kept() -> None:
    async def scenario() -> None:
        mailbox = Flow().mailbox()
        mailbox.put(batch(0, 5))
        assert mailbox.put(batch(2, 4, seek=2)) is Put.TAKEN
        mailbox.reset(seek=2, offset=2)
        assert offsets(await mailbox.take_all()) == [2, 3]

    run(scenario)


def test_a_batch_that_got_lost_on_the_way_is_an_error() -> None:
    async def scenario() -> None:
        mailbox = Flow().mailbox()
        mailbox.put(batch(0, 5))
        with pytest.raises(DeveloperError, match="offset 7 arrived where 5 comes next"):
            mailbox.put(batch(7, 9))

    run(scenario)


def test_a_closed_mailbox_forgets_and_takes_no_more() -> None:
    async def scenario() -> None:
        flow = Flow()
        mailbox = flow.mailbox(waiting_records=1)
        mailbox.put(batch(0, 5))
        taking = asyncio.create_task(flow.mailbox().take_all())
        mailbox.close()
        assert mailbox.put(batch(5, 6)) is Put.CLOSED
        assert await mailbox.take_all() is None
        assert mailbox.waiting_records == 0
        taking.cancel()

    run(scenario)


@dataclass
class Worker:
    """Partition tasks with a piece of work that tests steer."""

    taken: list[tuple[Partition, int, int]] = field(default_factory=list)
    fatal: list[BaseException] = field(default_factory=list)
    held: list[Partition] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0

    def tasks(self, work: Any = None, **limits: int) -> PartitionTasks:
        return PartitionTasks(
            work or self.work,
            hold=self.held.append,
            release=self.held.remove,
            fatal=self.fatal.append,
            limits=MailboxLimits(**limits),
        )

    async def work(self, mailbox: Mailbox) -> None:
        while (piece := await mailbox.take_all()) is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            self.taken.append((piece.partition, piece.start, piece.end))


def test_a_slow_partition_does_not_hold_up_the_others() -> None:
    async def scenario() -> None:
        worker = Worker()

        async def work(mailbox: Mailbox) -> None:
            while (piece := await mailbox.take_all()) is not None:
                if piece.partition[1] == 0:
                    await worker.gate.wait()
                worker.taken.append((piece.partition, piece.start, piece.end))

        tasks = worker.tasks(work, waiting_records=4)
        for number in (0, 1):
            tasks.start(("t", number), 0, 1)
        for start in range(0, 100, 5):
            for number in (0, 1):
                tasks.put(batch(start, start + 5, partition=("t", number)))
            await until(lambda end=start + 5: (("t", 1), end - 5, end) in worker.taken)  # type: ignore[misc]
        assert worker.held == [("t", 0)]
        worker.gate.set()
        await until(lambda: worker.held == [])
        await tasks.stop([("t", 0), ("t", 1)], grace_s=1)
        assert worker.fatal == []

    run(scenario)


def test_stopping_finishes_the_piece_in_hand_and_forgets_the_rest() -> None:
    async def scenario() -> None:
        worker = Worker()
        tasks = worker.tasks()
        tasks.start(PARTITION, 0, 1)
        tasks.put(batch(0, 5))
        await asyncio.sleep(0)
        tasks.put(batch(5, 9))
        stopping = asyncio.create_task(tasks.stop([PARTITION], grace_s=10))
        await asyncio.sleep(0)
        assert tasks.put(batch(9, 12)) is Put.CLOSED
        worker.gate.set()
        await stopping
        assert worker.taken == [(PARTITION, 0, 5)]
        assert (worker.cancelled, worker.fatal, tasks.mailboxes(), tasks.unowned_batches) == (0, [], [], 1)

    run(scenario)


def test_a_task_that_does_not_finish_in_its_grace_is_cancelled_and_joined() -> None:
    async def scenario() -> None:
        worker = Worker()
        tasks = worker.tasks()
        tasks.start(PARTITION, 0, 1)
        tasks.put(batch(0, 5))
        await asyncio.sleep(0)
        await tasks.stop([PARTITION], grace_s=0.01)
        assert (worker.cancelled, worker.taken, worker.fatal) == (1, [], [])
        tasks.start(PARTITION, 0, 2)  # assigned again, to be read again
        worker.gate.set()
        tasks.put(batch(0, 5, seek=2))
        await until(lambda: worker.taken == [(PARTITION, 0, 5)])
        await tasks.stop([PARTITION], grace_s=1)

    run(scenario)


def test_a_task_that_ignores_its_cancel_is_fatal() -> None:
    async def scenario() -> None:
        worker = Worker()

        async def stubborn(mailbox: Mailbox) -> None:
            while not worker.gate.is_set():
                try:
                    await worker.gate.wait()
                except asyncio.CancelledError:
                    continue

        tasks = worker.tasks(stubborn)
        tasks.start(PARTITION, 0, 1)
        await asyncio.sleep(0)
        await tasks.stop([PARTITION], grace_s=0.01, join_s=0.01)
        assert "did not end within 0.01 s: work on hop-origin-3" in str(worker.fatal[0])
        worker.gate.set()

    run(scenario)


def test_an_exception_of_a_task_is_fatal() -> None:
    async def scenario() -> None:
        worker = Worker()

        async def broken(mailbox: Mailbox) -> None:
            await mailbox.take_all()
            raise OSError("disk full")

        tasks = worker.tasks(broken)
        tasks.start(PARTITION, 0, 1)
        tasks.put(batch(0, 1))
        await until(lambda: [str(error) for error in worker.fatal] == ["disk full"])
        await tasks.stop([PARTITION], grace_s=1)

    run(scenario)


def test_a_task_that_ends_by_itself_is_fatal() -> None:
    async def scenario() -> None:
        worker = Worker()

        async def idle(mailbox: Mailbox) -> None:
            return

        worker.tasks(idle).start(PARTITION, 0, 1)
        await until(lambda: len(worker.fatal) == 1)
        assert "ended although the partition is ours" in str(worker.fatal[0])

    run(scenario)


def test_a_batch_that_got_lost_is_fatal_and_does_not_raise_in_the_receiver() -> None:
    async def scenario() -> None:
        worker = Worker()
        tasks = worker.tasks()
        tasks.start(PARTITION, 0, 1)
        assert tasks.put(batch(3, 5)) is Put.CLOSED
        assert "arrived where 0 comes next" in str(worker.fatal[0])
        await tasks.stop([PARTITION], grace_s=1)

    run(scenario)


def test_a_batch_of_a_partition_that_is_not_ours_is_counted_and_dropped() -> None:
    async def scenario() -> None:
        tasks = Worker().tasks()
        assert tasks.put(batch(0, 5)) is Put.CLOSED
        assert tasks.unowned_batches == 1

    run(scenario)


def test_a_piece_is_cut_between_two_records_only() -> None:
    piece = Piece(PARTITION, [OneRecord(4), OneRecord(7)], 1, 3, 9)
    head, rest = piece.cut(1)
    assert (offsets(head), head.start, head.end) == ([4], 3, 5)
    assert (offsets(rest), rest.start, rest.end) == ([7], 5, 9)
    for count in (0, 2):
        with pytest.raises(DeveloperError, match=f"cannot be cut after {count}"):
            piece.cut(count)
