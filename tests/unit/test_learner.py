"""The stage that learns: snapshots, restarts, zombies, commands, and what is refused. No broker, no Redis."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from features.errors import PositionError, SnapshotError, StateLostError, UnreachableError
from features.snapshot_store import MemorySnapshots, Published, Snapshot
from features.store import Refused
from models.snapshot import seal, unseal
from streams.headers import FRAME, UPSTREAM
from streams.learner import LearnStage
from streams.learner_states import Sealing
from streams.mini_batches import MiniBatches
from streams.taken import OtherVersionError
from streams.topic_log import StoredRecord
from tests.chained_learner import (
    KEY,
    PLACE,
    VERSION,
    ChainedLearner,
    ChainedMaker,
    RowsCodec,
    Sent,
    command,
    learnt,
    notice,
    outcome,
    stage,
)

RECORDS = [outcome(at, [(at, 0), (at, 1)]) for at in range(6)]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def until(true: Callable[[], bool]) -> None:
    """Let other tasks and threads go on until it is true."""
    async with asyncio.timeout(60.0):
        while not true():  # noqa: ASYNC110  what is waited for happens in threads and tasks of the product
            await asyncio.sleep(0.002)


async def worked(made: LearnStage, *batches: list[StoredRecord]) -> Any:
    """The memory after these batches, published."""
    memory = await made.open(PLACE)
    for batch in batches:
        await made.process(memory, batch)
    await made.published(memory)
    return memory


async def state_of(store: MemorySnapshots) -> bytes:
    """What the newest snapshot holds."""
    version = await store.latest("shop")
    assert version is not None
    sealed = await store.state("shop", version)
    assert sealed is not None
    return unseal(sealed, "state", "f00d", KEY)


def test_the_newest_snapshot_has_everything_and_its_version_is_the_last_record_learnt():
    async def body() -> Any:
        store = MemorySnapshots()
        await worked(stage(store), RECORDS[:3], RECORDS[3:])
        return await store.latest("shop"), await state_of(store), await learnt(stage(), RECORDS)

    version, state, undisturbed = run(body())
    assert version == 5 and state == undisturbed


def test_the_next_owner_goes_on_from_the_snapshot_and_steps_what_lies_behind_it_again():
    async def body() -> Any:
        store = MemorySnapshots()
        crashed = stage(store)
        memory = await worked(crashed, RECORDS[:2])
        await replace(crashed, publish_every_s=1e9).process(memory, RECORDS[2:5])  # in no snapshot: lost
        maker = ChainedMaker()
        memory = await worked(stage(store, maker), RECORDS)
        return maker, memory.applied, await state_of(store), await learnt(stage(), RECORDS)

    maker, applied, state, undisturbed = run(body())
    assert (maker.made, maker.read, applied) == (0, 1, 5) and state == undisturbed


def test_rows_that_come_again_however_they_are_cut_are_learnt_once():
    again = [
        outcome(0, [(1, 0), (1, 1), (2, 0)]),
        outcome(1, [(1, 0), (1, 1)]),
        outcome(2, [(2, 0), (2, 1)]),
        outcome(3, [(1, 0)], upstream="another@cluster/hop/1"),
    ]
    seen: list[list[str]] = []
    maker = ChainedMaker(on_step=lambda batch: seen.append([*batch.event_ids]))
    made = stage(maker=maker)
    run(worked(made, again))
    assert seen == [["e1-0", "e1-1", "e2-0"], ["e2-1"], ["e1-0"]]
    assert made.metrics.copies.labels("learner")._value.get() == 3


async def begun(store: MemorySnapshots, maker: ChainedMaker) -> Any:
    """The memory of an owner that has read nothing yet, when its first snapshot, if any, is published."""
    memory = await stage(store, maker).open(PLACE)
    await until(lambda: memory.publishing is None)
    return memory


def test_learners_that_were_taught_are_published_before_the_first_outcome_and_begin_there_again():
    async def body() -> Any:
        store = MemorySnapshots()
        await begun(store, ChainedMaker(taught="by the champion of then"))
        first = await store.versions("shop"), await state_of(store)
        another = ChainedMaker(taught="by the champion of now")
        memory = await begun(store, another)
        after = another.made, memory.batches.learner.chain
        await worked(stage(store, another), RECORDS)
        return first, after, await store.versions("shop")

    (versions, state), (made, chain), later = run(body())
    assert versions == [-1] and json.loads(state) == ["by the champion of then", 1]
    assert (made, chain) == (0, "by the champion of then")
    assert later == [-1, 5]


def test_learners_that_were_taught_are_published_without_an_outcome_when_a_store_that_was_away_is_back():
    async def body() -> Any:
        store = Waiting()
        store.trouble = True
        made = stage(store, ChainedMaker(taught="by the champion"), publish_every_s=0.01)
        memory = await made.open(PLACE)
        await until(lambda: store.asked >= 2)
        store.trouble = False
        store.open.set()
        await made.published(memory)
        return await store.versions("shop"), memory.behind

    assert run(body()) == ([-1], False)


def test_learners_that_know_nothing_are_published_with_their_first_outcome():
    async def body() -> Any:
        store = MemorySnapshots()
        await begun(store, ChainedMaker())
        before = await store.versions("shop")
        await worked(stage(store), RECORDS[:1])
        return before, await store.versions("shop")

    assert run(body()) == ([], [0])


def test_a_learner_that_was_replaced_publishes_nothing_and_is_told_at_its_next_batch():
    async def body() -> Any:
        store = MemorySnapshots()
        zombie, owner = stage(store), stage(store)
        asleep = await zombie.open(PLACE)
        await zombie.process(asleep, RECORDS[:1])
        await zombie.published(asleep)
        owning = await owner.open(PLACE)
        await zombie.process(asleep, RECORDS[1:4])
        await zombie.published(asleep)
        told = await zombie.begin(asleep, RECORDS[4:])
        await owner.process(owning, RECORDS[1:2])
        await owner.published(owning)
        return told, await store.versions("shop")

    assert run(body()) == (Refused("epoch", 0), [0, 1])


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (b"pickle", "unsigned"),
        (seal("state", 5, "f00d", b"[]", b"x" * 32), "altered"),
        (seal("state", 5, "beef", b"[]", KEY), "other features"),
        (seal("scoring", 5, "f00d", b"[]", KEY), "a scoring snapshot stands where"),
    ],
)
def test_a_snapshot_that_is_not_ours_is_refused_in_words_and_nothing_of_it_is_read(state, words):
    maker = ChainedMaker()

    async def body() -> None:
        await stage(await foreign(state), maker).open(PLACE)

    with pytest.raises(SnapshotError, match=words):
        run(body())
    assert (maker.made, maker.read) == (0, 0)


async def foreign(state: bytes) -> MemorySnapshots:
    """A store whose newest snapshot holds this."""
    store = MemorySnapshots()
    loaded = await store.load(PLACE)
    await store.publish(Snapshot(PLACE, loaded.epoch, -1, 5, b"", state))
    return store


def test_as_asked_learners_begin_afresh_behind_a_snapshot_that_is_not_theirs(caplog):
    async def body() -> Any:
        store = await foreign(seal("state", 5, "beef", b"[]", KEY))
        made = replace(stage(store), afresh=True)
        memory = await worked(made, [outcome(6, [(6, 0)])])
        return memory.applied, await state_of(store), await learnt(stage(), [outcome(6, [(6, 0)])])

    applied, state, alone = run(body())
    assert applied == 6 and state == alone
    assert "begin afresh behind outcome 5" in caplog.text


def test_as_asked_learners_begin_afresh_also_where_the_snapshot_is_theirs_and_cannot_be_read(caplog):
    class OtherMaker(ChainedMaker):
        def restored(self, state: bytes) -> ChainedLearner:
            raise SnapshotError("a state of format 1, this driftwood reads 2")

    async def body() -> Any:
        store = await foreign(seal("state", 5, "f00d", b"[]", KEY))
        with pytest.raises(SnapshotError, match="format 1"):
            await stage(store, OtherMaker()).open(PLACE)
        memory = await worked(replace(stage(store, OtherMaker()), afresh=True), [outcome(6, [(6, 0)])])
        return memory.applied

    assert run(body()) == 6
    assert "begin afresh behind outcome 5" in caplog.text


def test_a_snapshot_whose_bytes_are_gone_is_an_error_with_the_way_on():
    class Emptied(MemorySnapshots):
        async def state(self, pipeline: str, version: int) -> bytes | None:
            return None

    async def body() -> None:
        store = Emptied()
        await worked(stage(store), RECORDS)
        await stage(store).open(PLACE)

    with pytest.raises(StateLostError, match=r"snapshot 5, and has it no more.*--afresh"):
        run(body())


def test_learners_of_another_topic_are_not_gone_on_with():
    async def body() -> None:
        store = MemorySnapshots()
        await worked(stage(store), RECORDS)
        await stage(store).open(replace(PLACE, identity="cluster/other"))

    with pytest.raises(
        PositionError, match=r"learnt from the topic cluster/topic, this broker has cluster/other"
    ):
        run(body())


def test_what_is_no_outcome_is_a_dead_letter_and_its_neighbours_are_learnt():
    junk = [
        StoredRecord(1, 0, None, b"[]", []),
        StoredRecord(2, 0, None, b"{", [(FRAME, VERSION), (UPSTREAM, b"up/0")]),
        StoredRecord(3, 0, None, b"{}", [("learner-command", b"7")]),
    ]
    sent = Sent()

    async def body() -> Any:
        memory = await (made := stage(publisher=sent)).open(PLACE)
        waiting = [RECORDS[0], *junk, RECORDS[4]]
        while waiting:
            await made.process(memory, waiting)
            waiting = [record for record in waiting if record.offset > memory.batches.taken]
        return memory.batches.learner.figures()["steps"], made.metrics.dead.labels("not_a_frame")._value.get()

    assert run(body()) == (2, 3)
    assert [dict(message.headers)["offset"] for message in sent.messages] == [b"1", b"2", b"3"]


def test_outcomes_of_another_version_stop_the_learner_when_all_before_them_are_learnt():
    other = replace(RECORDS[2], headers=[(FRAME, b"outcomes-v2"), (UPSTREAM, b"up/0")])

    async def body() -> Any:
        made = stage()
        memory = await made.open(PLACE)
        first = await made.process(memory, [*RECORDS[:2], other])
        with pytest.raises(OtherVersionError, match=r"record 2 of outcomes .*outcomes-v2.*outcomes-v1"):
            await made.begin(memory, [other])
        return first

    assert run(body()) == 1


def test_a_slow_learner_is_cut_into_short_batches():
    now = [0.0]

    def slow(_: object) -> None:
        now[0] += 0.2

    async def body() -> Any:
        made = stage(maker=ChainedMaker(on_step=slow), clock=lambda: now[0], step_budget_s=0.3)
        memory = await made.open(PLACE)
        return [await made.process(memory, RECORDS[at:]) for at in (0, 2, 4)]

    assert run(body()) == [1, 3, 5]


class Waiting(MemorySnapshots):
    """A store that answers when a test lets it, or fails as it says."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.asked, self.trouble = asyncio.Event(), 0, False

    async def publish(self, snapshot: Snapshot) -> Published | Refused:
        self.asked += 1
        if self.trouble:
            raise UnreachableError("Redis", "redis_url", "redis://x", "start it")
        await self.open.wait()
        return await super().publish(snapshot)


def test_one_snapshot_is_under_way_at_a_time_and_learning_goes_on_beside_it():
    async def body() -> Any:
        store = Waiting()
        made = stage(store)
        memory = await made.open(PLACE)
        for record in RECORDS:
            await made.process(memory, [record])
            await asyncio.sleep(0)
        await until(lambda: store.asked > 0)
        under_way, stepped = store.asked, memory.batches.taken
        store.open.set()
        await made.published(memory)
        return under_way, stepped, memory.applied, await store.latest("shop")

    assert run(body()) == (1, 5, 5, 5)


def test_a_store_that_is_away_makes_snapshots_older_and_stops_no_learning(caplog):
    async def body() -> Any:
        store = Waiting()
        store.trouble = True
        made = replace(stage(store), publish_every_s=0.01)
        memory = await made.open(PLACE)
        await made.process(memory, RECORDS[:3])
        await until(lambda: store.asked >= 3)
        await made.process(memory, RECORDS[3:])
        store.trouble = False
        store.open.set()
        await made.published(memory)
        return await store.versions("shop"), made.metrics.errors.labels("redis")._value.get() >= 3

    assert run(body()) == ([5], True)
    assert caplog.text.count("could not be published") == 1


def test_a_snapshot_that_cannot_be_made_ends_the_worker_at_its_next_batch():
    class Broken(ChainedMaker):
        def new(self) -> Any:
            learner = super().new()
            learner.scoring = lambda: 1 / 0  # type: ignore[method-assign,return-value,assignment]
            return learner

    async def body() -> None:
        made = stage(maker=Broken())
        memory = await made.open(PLACE)
        await made.process(memory, RECORDS[:1])
        await made.published(memory)
        await made.begin(memory, RECORDS[1:])

    with pytest.raises(ZeroDivisionError):
        run(body())


def wait(event: threading.Event) -> None:
    assert event.wait(60.0)


def test_the_loop_goes_on_while_the_learner_steps():
    held = threading.Event()

    async def body() -> bool:
        made = stage(maker=ChainedMaker(on_step=lambda _: wait(held)))
        memory = await made.open(PLACE)
        stepping = asyncio.create_task(made.process(memory, RECORDS[:1]))
        await asyncio.sleep(0.01)
        stood_still = stepping.done()
        held.set()
        await stepping
        return stood_still

    assert run(body()) is False


def test_the_age_of_the_snapshot_grows_while_one_step_takes_long():
    held, now = threading.Event(), [100.0]

    async def body() -> list[float]:
        made = stage(maker=ChainedMaker(on_step=lambda _: wait(held)), clock=lambda: now[0])
        memory = await made.open(PLACE)
        ages = [memory.unpublished_s(now[0])]
        stepping = asyncio.create_task(made.process(memory, RECORDS[:1]))
        await until(lambda: memory.stepping_since_s is not None)
        for now[0] in (103.0, 107.0):
            ages.append(memory.unpublished_s(now[0]))  # the clock goes on in between
        held.set()
        await stepping
        await made.published(memory)
        return [*ages, memory.unpublished_s(now[0])]

    assert run(body()) == [0.0, 3.0, 7.0, 0.0]


def test_a_snapshot_follows_a_burst_although_nothing_comes_after_it():
    async def body() -> Any:
        store = MemorySnapshots()
        made = replace(stage(store), publish_every_s=0.05)
        memory = await made.open(PLACE)
        for record in RECORDS:
            await made.process(memory, [record])
        await until(lambda: memory.applied == 5)
        return memory.behind, len(await store.versions("shop"))

    behind, count = run(body())
    assert not behind and count < len(RECORDS)


def test_commands_take_effect_at_their_place_and_once_for_each_record_of_control():
    records = [
        outcome(0, [(0, 0)]),
        command(1, 4, "freeze", "tree"),
        command(2, 4, "freeze", "tree"),
        command(3, 9, "reset", "tree"),
        command(4, 7, "reset", "tree"),
        outcome(5, [(1, 0)]),
    ]
    cleaned = [records[0], records[1], records[3], records[5]]

    async def body() -> Any:
        return await learnt(stage(), records), await learnt(stage(), cleaned)

    state, expected = run(body())
    assert state == expected


@dataclass
class Listening(ChainedLearner):
    """Keeps what it is told of the label feed."""

    told: list[tuple[str, int | None]] = field(default_factory=list)

    def label_feed(self, partition: str, stalled_since_ms: int | None) -> None:
        self.told.append((partition, stalled_since_ms))


def told(*records: StoredRecord) -> list[tuple[str, int | None]]:
    """What a learner hears of the label feed from these records."""
    learner = Listening()
    batches = MiniBatches(learner, RowsCodec(), -1, {})
    assert batches.step_all(records, {}, lambda: 0.0, 1.0).junk is None
    return learner.told


def test_what_the_join_says_of_labels_is_heard_once_at_its_place_among_the_outcomes():
    before, after = outcome(0, [(1, 0)]), outcome(3, [(4, 0)])
    begun, ended = notice(1, (2, 0), 5_000), notice(4, (4, 1), None)
    copies = [notice(5, (2, 0), 5_000), outcome(6, [(4, 0)]), notice(7, (4, 1), None)]
    assert told(before, begun, after, ended, *copies) == [("0", 5_000), ("0", None)]


def test_what_a_topic_said_that_was_made_anew_since_is_over():
    anew = "shop.hop-join@cluster/another/0"
    assert told(notice(0, (2, 0), 5_000), outcome(1, [(0, 0)], upstream=anew)) == [("0", 5_000), ("0", None)]


def test_a_notice_that_is_none_is_a_dead_letter():
    junk = replace(notice(0, (2, 0), 5_000), value=b"{")
    done = MiniBatches(Listening(), RowsCodec(), -1, {}).step_all([junk], {}, lambda: 0.0, 1.0)
    assert done.junk is not None


def test_a_learner_is_set_back_to_an_older_snapshot_also_when_it_starts_again_in_between():
    async def body() -> Any:
        store = MemorySnapshots()
        await worked(stage(store), RECORDS[:2])  # snapshot 1
        assert await store.hold("shop", 1, 60)
        old = await state_of(store)
        later = [outcome(2, [(2, 0)]), command(3, 0, "restore", "tree", 1), outcome(4, [(4, 0)])]
        await worked(stage(store), later[:1])
        await worked(stage(store), later)
        undisturbed = stage(store)
        memory = await undisturbed.open(PLACE)
        memory.batches.learner = ChainedMaker().restored(
            unseal(seal("state", 1, "f", old, KEY), "state", "f", KEY)
        )
        memory.batches.taken, memory.batches.seen = 1, {}
        await undisturbed.process(memory, later)
        return await state_of(store), memory.batches.learner.state()

    state, expected = run(body())
    assert state == expected


def test_a_command_that_cannot_be_done_is_said_and_stops_nothing(caplog):
    records = [command(0, 0, "restore", "tree", 77), command(1, 1, "reset", "nobody"), outcome(2, [(0, 0)])]

    async def body() -> int:
        made = stage()
        memory = await worked(made, records)
        return int(memory.batches.learner.figures()["steps"])

    with caplog.at_level(logging.ERROR):
        assert run(body()) == 1
    assert "snapshot 77 is not there any more" in caplog.text
    assert "reset nobody had no effect: there is no learner nobody" in caplog.text


def test_the_key_is_not_in_what_is_printed_of_it():
    assert "kkkk" not in repr(Sealing("f00d", KEY))
