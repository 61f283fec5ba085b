"""Workers over a log and a store in memory, in which nothing happens by itself.

The workers are the product's: `streams.worker.Worker` with its mailboxes, tasks and overlapping batches. Whatever they ask
of the store and the broker stands still until the test lets it happen, in any order: a command takes effect (once, or
twice), then its answer arrives (or not); messages are written one by one, in order within a partition; acks come, or do
not. A killed worker does nothing more, but what it had sent may still arrive. The group of workers is here too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast

from prometheus_client import CollectorRegistry

from features.errors import DeliveryError, UnreachableError
from models.pipeline import Pipeline
from streams.assembly import Ground, assemble
from streams.entity_batch import stage_plans
from streams.metrics import Metrics
from streams.overlap import IN_FLIGHT
from streams.predict_road import EntityStage
from streams.producer import Outgoing
from streams.serving import Serving
from streams.settings import Settings
from streams.topics import PipelineTopics, pipeline_topics
from streams.worker import Stages
from tests.in_process import Log, Place, distinct
from tests.protocol_process import Call, Delivery, Process, owned_task
from tests.protocol_store import WatchedStore
from tests.stepped_loop import SteppedLoop

Option = tuple[Any, ...]


class World:
    """Log, store, group and processes. What went wrong stands in `problems`, how much happened in `counts`."""

    def __init__(self, pipeline: Pipeline, partitions: int, capacity: int, *, keep_snapshots: bool) -> None:
        self.pipeline, self.capacity = pipeline, capacity
        self.loop = SteppedLoop()
        self.loop.set_task_factory(owned_task)
        self.settings = Settings(partitions=partitions)
        entities = [plan.entity for plan in stage_plans(pipeline.feature_set)]
        self.topics: PipelineTopics = pipeline_topics(
            pipeline.name, entities, self.settings, learns=pipeline.learns
        )
        self.log = Log({topic.name: topic.partitions for topic in self.topics})
        self.hops = [topic.name for topic in self.topics.hops.values()]
        self.metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0)
        self.store = WatchedStore(keep_snapshots=keep_snapshots)
        self.champion = 1
        self.processes: list[Process] = []
        self.calls: list[Call] = []
        self.assigned: dict[Place, Process | None] = {}
        self.moving: dict[Place, Process] = {}
        self.committed: dict[Place, int] = {}
        self.counts: Counter[str] = self.store.counts
        self.problems: list[str] = self.store.problems
        self._answers: dict[str, bytes] = {}

    # What `tests.recorded_order` asks.

    def answers(self) -> dict[str, list[bytes]]:
        """By position the distinct predictions."""
        return distinct(self.log.topic(self.topics.predictions.name))

    # Making.

    def stages(self, process: Process) -> Stages:
        """The stages of a process, on its own store client, producer and models."""
        ground = Ground(
            self.pipeline,
            self.settings,
            self.topics,
            dict.fromkeys(self.log.partitions, "memory"),
            process,
            cast("Serving", process.serving),
            process,
            self.metrics,
        )
        made = assemble(ground)
        entities = {
            topic: replace(stage, batches=replace(stage.batches, capacity=self.capacity))
            for topic, stage in made.entities.items()
            if isinstance(stage, EntityStage)
        }
        return replace(made, entities=entities)

    def places(self) -> list[Place]:
        """The partitions that workers read."""
        topics = [self.topics.events.name, *self.hops]
        return [(topic, number) for topic in topics for number in range(self.log.partitions[topic])]

    def end(self, place: Place) -> int:
        """The end of a partition's log."""
        return len(self.log.records[place])

    def start(self) -> Process:
        """One more process, without partitions."""
        process = Process(self, f"worker-{len(self.processes)}")
        self.processes.append(process)
        return process

    def living(self) -> list[Process]:
        """Processes that were not killed."""
        return [process for process in self.processes if not process.dead]

    # The group.

    def assign(self, place: Place, process: Process) -> None:
        """The group gives `place` to a process that does not have it; who had it before does not hear of it yet."""
        self.counts["replaced by another"] += self.assigned.get(place) is not None
        self.assigned[place] = process
        process.take(place)
        self.settle()

    def rebalance(self, place: Place, process: Process) -> None:
        """The group takes `place` from its owner, who lets go of it in peace, and then gives it to `process`."""
        owner = self.assigned[place]
        assert owner is not None
        self.moving[place] = process
        owner.let_go(place)
        self.counts["rebalanced"] += 1
        self.settle()

    def wake(self, process: Process) -> None:
        """A process that was away learns which partitions it has lost."""
        for place in sorted(process.reading.keys() | process.coming.keys()):
            if self.assigned.get(place) is not process and place not in process.leaving:
                process.let_go(place)
        self.settle()

    def kill(self, process: Process) -> None:
        """As by SIGKILL."""
        self.counts["killed"] += 1
        self.counts["killed with two batches in flight"] += any(
            len(memory.in_flight) == IN_FLIGHT for memory in process.worker.memories()
        )
        process.stop_at_once()
        for place, owner in self.assigned.items():
            if owner is process:
                self.assigned[place] = None
        self.settle()

    def settle(self) -> None:
        """Let every process do what it can without store, broker and group."""
        self.loop.settle()
        for process in self.living():
            self._tidy(process)
        for place, process in list(self.moving.items()):
            owner = self.assigned[place]
            if owner is None or place not in owner.has:
                del self.moving[place]
                self.assigned[place] = None
                if not process.dead and place not in process.has:
                    self.assign(place, process)
        self.calls = [call for call in self.calls if not (call.outcomes and call.answer.done())]

    def _tidy(self, process: Process) -> None:
        for tasks in (process.coming, process.leaving):
            for place in [place for place, task in tasks.items() if task.done()]:
                task = tasks.pop(place)
                if not task.cancelled() and (error := task.exception()):
                    process._fatal(error)
        if process.failure is not None:
            if not isinstance(process.failure, DeliveryError | UnreachableError):
                self.problems.append(f"{process} ended: {process.failure!r}")
            self.kill(process)

    # The store.

    def respond(self, call: Call) -> None:
        """The answer to a command arrives: to its last sending, which is the one that was waited for."""
        if not call.answer.done():
            call.answer.set_result(call.outcomes[-1])
        self.settle()

    def break_connection(self, call: Call) -> None:
        """No answer, not even after all tries."""
        if not call.answer.done():
            call.answer.set_exception(UnreachableError("Redis", "redis_url", "redis://x", "gone"))
        self.settle()

    def forget(self, call: Call) -> None:
        """A command whose sender is gone never arrives."""
        self.calls.remove(call)

    # The broker.

    def write(self, process: Process, place: Place, most: int) -> None:
        """The next messages of a process to a partition reach the log."""
        waiting = process.outbox[place]
        for _ in range(min(most, len(waiting))):
            delivery, message = waiting.popleft()
            self._check_copy(message)
            self.log.append(*place, message.key, message.value, message.headers)
            delivery.offsets[place] = self.end(place) - 1
            delivery.left -= 1
        if not waiting:
            del process.outbox[place]

    def _check_copy(self, message: Outgoing) -> None:
        if message.topic != self.topics.predictions.name or self.store.rolled_back:
            return
        position = dict(message.headers)["position"].decode()
        self.counts["copies of predictions"] += position in self._answers
        if self._answers.setdefault(position, message.value) != message.value:
            self.problems.append(f"two different answers to {position}")

    def ack(self, delivery: Delivery) -> None:
        """The broker's acknowledgement of a whole delivery arrives."""
        delivery.process.deliveries.remove(delivery)
        if not delivery.acked.done():
            delivery.acked.set_result(delivery.offsets)
        self.settle()

    def refuse(self, process: Process) -> None:
        """The broker takes no more of a process: its producer gives up all that is on its way."""
        process.outbox.clear()
        for delivery in process.deliveries:
            if not delivery.acked.done():
                delivery.acked.set_exception(DeliveryError("refused"))
        process.deliveries.clear()
        self.settle()

    # What can happen next.

    def options(self) -> list[Option]:
        """Everything that would happen by itself, sooner or later, in an order that does not depend on chance."""
        found: list[Option] = [("answer", call) for call in self.calls if not call.process.dead]
        for process in self.living():
            found += [("write", process, place) for place in sorted(process.outbox)]
            found += [("ack", delivery) for delivery in process.deliveries if not delivery.left]
            found += [("fetch", process, place) for place in process.readable()]
        return found

    def do(self, option: Option, amount: int = 1_000_000) -> None:
        """Let one of the options happen; `amount` bounds records and messages."""
        self.counts["steps"] += 1
        match option:
            case ("answer", call):
                if not call.outcomes:
                    self.store.perform(call)
                self.respond(call)
            case ("write", process, place):
                self.write(process, place, amount)
            case ("ack", delivery):
                self.ack(delivery)
            case ("fetch", process, place):
                process.fetch(place, amount)
                self.settle()

    def at(self, point: str, topic: str) -> tuple[Any, ...]:
        """Who is at this point of the protocol in a partition of `topic`: the process, the partition, the call if any."""
        for call in self.calls:
            if (
                (call.place[0], call.point) == (topic, point)
                and not call.process.dead
                and not call.answer.done()
            ):
                return (call.process, call.place, call)
        for process in self.living():
            for delivery in process.deliveries:
                if (delivery.place[0], delivery.point) == (topic, point):
                    return (process, delivery.place)
            for place, memory in process.worker._memories.items():
                if point == "overlap" and place[0] == topic and len(memory.in_flight) == IN_FLIGHT:
                    return (process, place)
        return ()

    def leftovers(self) -> list[Option]:
        """What killed processes, and abandoned batches, had sent and what did not arrive yet."""
        found: list[Option] = [
            ("call", call) for call in self.calls if call.process.dead or call.answer.done()
        ]
        for process in self.processes:
            if process.dead:
                found += [("write", process, place) for place in sorted(process.outbox)]
        return found

    def close(self) -> None:
        """End everything."""
        for process in self.living():
            self.kill(process)
        self.loop.close()
