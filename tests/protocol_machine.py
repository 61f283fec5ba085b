"""The state machine of tests/property/test_batch_protocol.py: what may happen to the workers of `tests.protocol_world`."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from driftwood import scaled_logistic
from models.pipeline import Pipeline
from streams import frames
from tests.in_process import Place
from tests.protocol_process import GRACE_S, Process
from tests.protocol_world import World
from tests.shop_events import customer, orders, random_orders, shop
from tests.undisturbed_run import assert_undisturbed

FEATURES = [
    "amount",
    customer.count("1h", "7d"),
    customer.mean("amount", "1d"),
    shop.sum("amount", "2h"),
    shop.last("amount", within="6h"),
]
TWO_ENTITIES = orders(FEATURES, fallback=0.1)
LEARNS = orders(
    FEATURES, fallback=0.1, online=[scaled_logistic()]
)  # what was served goes to the join stage as well
NO_WINDOWS = orders(["amount"], fallback=0.1)  # one stage, which drops repeated ids and scores
STEPS = (
    "load",
    "load done",
    "claim",
    "claim done",
    "deliver",
    "partly written",
    "written",
    "commit",
    "commit done",
)
POINTS = (*STEPS, "overlap")
PROCESSES = 3  # alive at once, zombies among them
# Far above what the last worker needs; workers that hinder each other for ever need more.
STEPS_TO_THE_END = 5_000

# Which of several: a negative number is the one that was looked at last, or the last of them.
numbers = st.integers(-400, 600)
amounts = st.integers(1, 4)
seeds = st.integers(0, 2**16)


TALLY: Counter[str] = Counter()  # how often what happened, in all examples of a run


def tally(world: World) -> None:
    TALLY.update(world.counts, examples=1)


class BatchProtocol(RuleBasedStateMachine):
    """Everything but a store that forgets."""

    keep_snapshots = False
    other_keys = True  # an event may come again with another key, and so in another partition

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None
        self.patch = pytest.MonkeyPatch()
        self.sent: list[dict[str, Any]] = []
        self.focus: tuple[Any, ...] = ()

    @initialize(
        pipeline=st.sampled_from([LEARNS, TWO_ENTITIES, NO_WINDOWS]),
        partitions=st.integers(1, 2),
        capacity=st.integers(3, 8),
        processes=st.integers(1, 2),
        frame_bytes=st.sampled_from([1, 2_000, frames.MAX_FRAME_BYTES]),
        seed=seeds,
        steps=st.integers(0, 150),
    )
    def begin(
        self,
        pipeline: Pipeline,
        partitions: int,
        capacity: int,
        processes: int,
        frame_bytes: int,
        seed: int,
        steps: int,
    ) -> None:
        # A batch that is written in part is then cut between its rows.
        self.patch.setattr(frames, "MAX_FRAME_BYTES", frame_bytes)
        self.world = World(pipeline, partitions, capacity, keep_snapshots=self.keep_snapshots)
        for _ in range(processes):
            self.world.start()
        for number, place in enumerate(self.world.places()):
            self.world.assign(place, self.world.processes[number % processes])
        self.send(seed, 12, 0)
        self.go_far(seed, steps)
        self.last_steps = random.Random(seed)

    @property
    def w(self) -> World:
        assert self.world is not None
        return self.world

    def _one(self, number: int, candidates: list[Any]) -> Any:
        if number < 0:
            near = [one for one in candidates if self._is_near(one)]
            return (near or candidates)[number % len(near or candidates)]
        return candidates[number % len(candidates)]

    def _is_near(self, one: Any) -> bool:
        parts = one if isinstance(one, tuple) else (one, getattr(one, "process", None))
        return any(part is not None and part in self.focus for part in parts)

    # Events.

    @rule(seed=seeds, n=st.integers(1, 6), partition=numbers)
    def send(self, seed: int, n: int, partition: int) -> None:
        """Orders, some late, some without keys, some that were sent before, with another time or customer."""
        source, topic = random.Random(seed), self.w.topics.events
        new = random_orders(source, n, len(self.sent))
        for order in list(new):
            if self.sent and source.random() < 0.3:
                again = dict(source.choice(source.choice([self.sent, self.sent[-6:]])))
                again["placed_at"] = source.choice([order, again])["placed_at"]
                if self.other_keys:
                    again["customer"] = source.choice([again["customer"], "dora"])
                new.append(again)
        self.sent += new
        for order in new:
            number = (source.randrange(2) + partition) % topic.partitions
            self.w.log.append(topic.name, number, None, json.dumps(order).encode())

    @rule(number=numbers)
    def send_junk(self, number: int) -> None:
        place: Place = self._one(number, self.w.places())
        self.w.log.append(*place, None, b"junk")

    # What happens by itself.

    @rule(number=numbers, amount=amounts)
    @precondition(lambda self: self.w.options())
    def go_on(self, number: int, amount: int) -> None:
        """One command is answered, one partition fetched or written to, one delivery acknowledged."""
        self.w.do(self._one(number, self.w.options()), amount)

    @rule(seed=seeds, n=st.integers(2, 40))
    @precondition(lambda self: self.w.options())
    def go_far(self, seed: int, n: int) -> None:
        """Many such steps."""
        source = random.Random(seed)
        for _ in range(n):
            options = self.w.options()
            if options:
                self.w.do(source.choice(options), source.randint(1, 6))

    @rule(point=st.sampled_from(POINTS), topic=numbers, seed=seeds)
    @precondition(lambda self: self.w.options())
    def go_until(self, point: str, topic: int, seed: int) -> None:
        """Until some worker has come to a point of the protocol in one of the stages: there it is looked at."""
        source, stage = random.Random(seed), self._one(abs(topic), self.w.hops)
        for _ in range(60):
            found = self.w.at(point, stage)
            options = self.w.options()
            if found or not options:
                self.focus = found
                return
            self.w.do(source.choice(options), source.randint(1, 6))

    # Commands and answers apart.

    def _asked(self) -> list[Any]:
        return [call for call in self.w.calls if not call.process.dead and not call.answer.done()]

    @rule(number=numbers)
    @precondition(lambda self: self._asked())
    def take_effect(self, number: int) -> None:
        """A command takes effect, for the first time or once more; its answer does not arrive yet."""
        self.w.store.perform(self._one(number, self._asked()))

    @rule(number=numbers)
    @precondition(lambda self: self._asked())
    def lose_connection(self, number: int) -> None:
        """A worker gets no answer to a command, done or not, and ends."""
        self.w.break_connection(self._one(number, self._asked()))

    @rule(number=numbers, amount=amounts, arrives=st.booleans())
    @precondition(lambda self: self.w.leftovers())
    def arrive_late(self, number: int, amount: int, arrives: bool) -> None:
        """What a killed worker, or an abandoned batch, had sent arrives after all, or never."""
        match self._one(number, self.w.leftovers()):
            case ("call", call):
                if arrives and not call.outcomes:
                    self.w.store.perform(call)
                self.w.forget(call)
            case ("write", process, place):
                if arrives:
                    self.w.write(process, place, amount)
                else:
                    del process.outbox[place]

    # Workers.

    @rule()
    @precondition(lambda self: len(self.w.living()) < PROCESSES)
    def start(self) -> None:
        self.w.start()

    @rule(number=numbers)
    @precondition(lambda self: self.w.living())
    def kill(self, number: int) -> None:
        self.w.kill(self._one(number, self.w.living()))

    @rule(number=numbers)
    @precondition(lambda self: any(process.deliveries for process in self.w.living()))
    def refuse_messages(self, number: int) -> None:
        """The broker has taken some messages, and takes no more: the worker ends."""
        delivering = [process for process in self.w.living() if process.deliveries]
        self.w.refuse(self._one(number, delivering))

    def _moves(self, *, orphans: bool) -> list[tuple[Place, Process]]:
        return [
            (place, process)
            for place in self.w.places()
            for process in self.w.living()
            if place not in self.w.moving
            and place not in process.has
            and (self.w.assigned[place] is None) == orphans
        ]

    @rule(number=numbers)
    @precondition(lambda self: self._moves(orphans=True))
    def assign(self, number: int) -> None:
        """A partition whose owner is gone gets another."""
        self.w.assign(*self._one(number, self._moves(orphans=True)))

    @rule(number=numbers)
    @precondition(lambda self: self._moves(orphans=False))
    def rebalance(self, number: int) -> None:
        """A partition moves in peace: batches in flight are finished while the grace lasts."""
        self.w.rebalance(*self._one(number, self._moves(orphans=False)))

    @rule(number=numbers)
    @precondition(lambda self: self._moves(orphans=False))
    def replace(self, number: int) -> None:
        """The group believes that a worker is gone and gives its partition to another; it works on, as a zombie."""
        self.w.assign(*self._one(number, self._moves(orphans=False)))

    @rule(number=numbers)
    @precondition(lambda self: self.w.living())
    def wake(self, number: int) -> None:
        self.w.wake(self._one(number, self.w.living()))

    @rule()
    def wait(self) -> None:
        """Longer than the grace: what is in flight in a partition that was taken away is abandoned."""
        self.w.loop.advance(GRACE_S)
        self.w.settle()

    @rule(number=numbers)
    @precondition(lambda self: self.w.living())
    def commit_offsets(self, number: int) -> None:
        self._one(number, self.w.living()).commit_offsets()

    # Models.

    @rule(number=numbers)
    @precondition(lambda self: self.w.living())
    def promote(self, number: int) -> None:
        """Another model or snapshot; workers that start from now on have it, and one of the others hears of it."""
        self.w.champion += 1
        self._one(number, self.w.living()).serving.number = self.w.champion

    # What must hold.

    @invariant()
    def nothing_forbidden_happened(self) -> None:
        if self.world is not None:
            assert not self.world.problems, self.world.problems
            assert not self.world.loop.lost, self.world.loop.lost

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            self._finish()
            self.nothing_forbidden_happened()
            assert_undisturbed(self.w)
        finally:
            tally(self.w)
            self.w.close()
            self.patch.undo()

    def _finish(self) -> None:
        """One more worker gets all partitions and nothing disturbs it; the others go on as zombies."""
        world = self.w
        last = world.start()
        for place in world.places():
            world.moving.pop(place, None)
            world.assign(place, last)
        for _ in range(STEPS_TO_THE_END):
            options = world.options()
            if not options:
                break
            world.do(self.last_steps.choice(options), 5)
        else:
            raise AssertionError("the workers do not come to an end")
        assert all(last.reading[place].done in (None, world.end(place)) for place in world.places())
