"""The store of `tests.protocol_world`: performs commands, watches who is let in, and can be rolled back."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from features.memory_store import MemoryStore
from features.store import Claim, Claimed, Commit, Loaded, Position, Refused
from streams.overlap import IN_FLIGHT
from tests.in_process import Place
from tests.protocol_process import Call, Process


@dataclass(frozen=True)
class Snapshot:
    """The store before a command, and who had loaded each partition last."""

    command: str
    place: Place
    memory: MemoryStore
    owners: dict[Place, int]


class WatchedStore:
    """The product's store in memory. `problems` are sentences on what it let happen and must not."""

    def __init__(self, *, keep_snapshots: bool) -> None:
        self.memory = MemoryStore()
        self.snapshots: list[Snapshot] = []
        self.rolled_back = False
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._keep_snapshots = keep_snapshots
        self._owners: dict[Place, int] = {}
        self._loads: dict[tuple[Process, Place, int], set[int]] = defaultdict(set)
        self._load_number = 0

    def perform(self, call: Call) -> None:
        """A command reaches the store and has its effect."""
        if self._keep_snapshots:
            now = Snapshot(call.command, call.place, _copied(self.memory), dict(self._owners))
            self.snapshots.append(now)
        outcome = _run(getattr(self.memory, call.command)(call.argument))
        call.outcomes.append(outcome)
        self._watch(call, outcome)
        self._count(call, outcome)

    def _count(self, call: Call, outcome: Any) -> None:
        found = [f"{call.command} asked"]
        if isinstance(outcome, Refused):
            found.append(f"{call.command} refused: {outcome.why}")
        match call.argument, outcome:
            case Claim(), Claimed():
                found += ["claims beside a batch in flight"] * (call.argument.in_flight >= 0)
                found += ["claims that held to older versions"] * (outcome.versions != call.argument.versions)
                found += ["claims that were cut at a pin"] * (outcome.pinned_last < call.argument.last)
            case Commit(), Refused():
                found += ["commits that were done before"] * outcome.already_done(call.argument)
        for name in found:
            self.counts[name] += 1

    def roll_back(self, snapshot: Snapshot) -> None:
        """The store is what it was before some command, also of a time that an earlier roll-back has undone."""
        self.memory = _copied(snapshot.memory)
        self._owners = dict(snapshot.owners)
        self.rolled_back = True
        self.counts["roll-backs"] += 1

    def earlier(self, command: str) -> list[Snapshot]:
        """The store before each command of this name, newest first.

        Not the ones in which a partition that was worked on would be as if never read: that is a store that was lost.
        """
        worked_on = {name for name, known in self.memory._partitions.items() if known.applied >= 0}
        return [
            snapshot
            for snapshot in reversed(self.snapshots)
            if snapshot.command == command
            and all(
                name in snapshot.memory._partitions and snapshot.memory._partitions[name].applied >= 0
                for name in worked_on
            )
        ]

    def _watch(self, call: Call, outcome: Any) -> None:
        """Only who loaded the partition last may claim and commit; pins are as many as batches in flight."""
        place = call.place
        if isinstance(outcome, Loaded):
            self._load_number += 1
            self._owners[place] = self._load_number
            self._loads[call.process, place, outcome.epoch].add(self._load_number)
        elif not isinstance(outcome, Refused):
            loads = self._loads[call.process, place, call.argument.epoch]
            if self._owners.get(place) not in loads:
                self.problems.append(
                    f"{call.process} did a {call.command} of {place} that another had loaded"
                )
        for name, known in self.memory._partitions.items():
            if len(known.pins) > IN_FLIGHT:
                self.problems.append(f"{len(known.pins)} pins on {name}")


def _copied(kept: Any) -> Any:
    """As `copy.deepcopy`, in a tenth of the time: what cannot be changed is shared."""
    if isinstance(kept, dict):
        return {key: _copied(value) for key, value in kept.items()}
    if isinstance(kept, list):
        return list(kept)
    if type(kept).__module__.startswith("features.") and not isinstance(kept, Position):
        made = copy.copy(kept)
        made.__dict__.update(_copied(kept.__dict__))
        return made
    return kept


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the store in memory waits for nothing")
