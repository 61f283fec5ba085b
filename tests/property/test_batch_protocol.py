"""The proof of the batch protocol: workers are stopped, killed, replaced and woken between any two of its steps.

A Hypothesis state machine drives the product's own workers (`tests.protocol_world`) over a log and a store in memory, and
decides what happens next: which command takes effect, which answer and which acknowledgement arrives, who is killed, who
loses a partition without hearing of it, when the store is rolled back. In the end one worker finishes everything, and what
is left must be what an undisturbed worker makes of the same hop topics (`tests.undisturbed_run`).

`make proof` runs forty times as many examples, and prints how often what happened in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from features.memory_store import MemoryStore
from features.reserved_ids import ReservedIds
from features.store import Claim, Claimed, Commit, Committed, Loaded, PartitionId, Refused
from streams import taken
from streams.entity_batch import EntityBatches, Memory
from tests.protocol_machine import POINTS, TALLY, BatchProtocol, numbers, seeds


class BatchProtocolWithRollBacks(BatchProtocol):
    """And a store that is rolled back to an earlier moment, or forward again.

    It forgets then which of two events of one id it had let in, and may let the other one in (docs/guarantees.md): here
    both come in one partition.
    """

    keep_snapshots = True
    other_keys = False

    @rule(command=st.sampled_from(["load", "claim", "commit"]), back=st.sampled_from([0, 0, 0, 1, 2, 6]))
    @precondition(lambda self: self.w.store.snapshots)
    def roll_back(self, command: str, back: int) -> None:
        """To before one of the last commands of a kind, one after the other of which another roll-back may undo."""
        if earlier := self.w.store.earlier(command):
            self.w.store.roll_back(earlier[back % len(earlier)])

    @rule(point=st.sampled_from(POINTS), topic=numbers, seed=seeds)
    @precondition(lambda self: self.w.options())
    def forget_a_claim(self, point: str, topic: int, seed: int) -> None:
        """A worker is on its way with a batch; the store forgets that it claimed it."""
        self.go_until(point, topic, seed)
        place = self.focus[1] if self.focus else None
        if earlier := [one for one in self.w.store.earlier("claim") if one.place == place]:
            self.w.store.roll_back(earlier[0])

    @rule(number=numbers, seed=seeds, n=st.integers(0, 8))
    @precondition(lambda self: self._moves(orphans=False))
    def replace_and_forget(self, number: int, seed: int, n: int) -> None:
        """A worker takes a partition over and begins; then the store forgets that it did."""
        place, process = self._one(number, self._moves(orphans=False))
        self.w.assign(place, process)
        for call in [call for call in self.w.calls if (call.process, call.place) == (process, place)]:
            self.w.do(("answer", call))
        if earlier := self.w.store.earlier("load"):
            forgotten = earlier[0]
            self.go_far(seed, n)
            if forgotten in self.w.store.earlier("load"):
                self.w.store.roll_back(forgotten)


def run(machine: type[BatchProtocol]) -> None:
    """As many examples as the profile says, each of up to 60 rules; a failure shows the shortest that Hypothesis finds."""
    TALLY.clear()
    depth = settings(stateful_step_count=60, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=depth)
    print(machine.__name__, dict(TALLY))


def test_workers_stopped_killed_replaced_and_woken_between_any_two_steps_leave_what_an_undisturbed_one_leaves():
    run(BatchProtocol)


def test_a_store_rolled_back_to_any_moment_loses_nothing_and_counts_nothing_twice():
    run(BatchProtocolWithRollBacks)


# Does the proof prove anything? Each of these breaks one rule, and has to be found.

Break = Callable[[pytest.MonkeyPatch], None]


def a_load_that_leaves_the_epoch_as_it_is(patch: pytest.MonkeyPatch) -> None:
    load = MemoryStore.load

    async def broken(self: MemoryStore, partition: PartitionId) -> Loaded:
        epoch = self._partition(partition).epoch
        loaded = await load(self, partition)
        self._partition(partition).epoch = epoch or loaded.epoch
        return replace(loaded, epoch=epoch or loaded.epoch)

    patch.setattr(MemoryStore, "load", broken)


def a_claim_that_is_answered_with_the_versions_in_force(patch: pytest.MonkeyPatch) -> None:
    claim = MemoryStore.claim

    async def broken(self: MemoryStore, asked: Claim) -> Claimed | Refused:
        answer = await claim(self, asked)
        return answer if isinstance(answer, Refused) else replace(answer, versions=asked.versions)

    patch.setattr(MemoryStore, "claim", broken)


def a_commit_of_another_epoch(patch: pytest.MonkeyPatch) -> None:
    commit = MemoryStore.commit

    async def broken(self: MemoryStore, asked: Commit) -> Committed | Refused:
        return await commit(self, replace(asked, epoch=self._partition(asked.partition).epoch))

    patch.setattr(MemoryStore, "commit", broken)


def copies_that_are_not_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(taken, "positions_after", lambda frame, seen: 0)


def positions_of_a_batch_in_flight_that_the_next_does_not_know(patch: pytest.MonkeyPatch) -> None:
    begun = EntityBatches.begun

    def broken(self: EntityBatches, memory: Memory, commit: Commit) -> None:
        begun(self, memory, replace(commit, seen=memory.seen))

    patch.setattr(EntityBatches, "begun", broken)


def ids_that_are_not_reserved(patch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> tuple[list[int], int]:
        return [], 0

    patch.setattr(ReservedIds, "reserve", broken)


@pytest.mark.parametrize(
    "broken",
    [
        a_load_that_leaves_the_epoch_as_it_is,
        a_claim_that_is_answered_with_the_versions_in_force,
        a_commit_of_another_epoch,
        copies_that_are_not_dropped,
        positions_of_a_batch_in_flight_that_the_next_does_not_know,
        ids_that_are_not_reserved,
    ],
)
def test_a_protocol_that_is_broken_is_found(broken: Break, monkeypatch: pytest.MonkeyPatch):
    broken(monkeypatch)
    until_found = settings(
        max_examples=1_000,
        stateful_step_count=60,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
        report_multiple_bugs=False,
        database=None,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(BatchProtocol, settings=until_found)
