"""More workers, and a worker that takes over from a dead one: real processes on a real Kafka."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from benchmarks.card_payments import records
from benchmarks.card_pipeline import CARDS
from benchmarks.growth_curves import EVERY_US, rounds
from benchmarks.latency import Load, begin, paced_sender
from benchmarks.printing import say
from benchmarks.running import Running, running, standing_still
from benchmarks.servers import Servers
from benchmarks.workloads import Workload, card_workload
from driftwood.demo_worker import WorkerChild
from features.errors import OperatorError
from streams.settings import Settings
from streams.topics import predict_group

LOOK_EVERY_S = 0.02
TAKEN_OVER_WITHIN_S = 120.0
TRICKLE = 500.0  # events a second while a worker dies and another takes over


class Workers(NamedTuple):
    """So many workers on one backlog."""

    workers: int
    events_per_second: int
    cpu_us_per_event: float  # of all of them together


class Recovery(NamedTuple):
    """Seconds: from the kill until the group has given the partitions to the new worker, and from then on until its
    first prediction is in the log."""

    known_entities: int
    assigned_after_s: float
    first_prediction_after_s: float


def several_workers(
    most: int, events: int, broker: str, partitions: int, training_events: int = 0
) -> list[Workers]:
    """1 to `most` workers, one after another, each number on a backlog of so many events."""
    with tempfile.TemporaryDirectory(prefix="driftwood-growth-") as folder, ExitStack() as ending:
        made = card_workload().events(events * (most + 1))
        now, _ = ending.enter_context(
            running(card_workload(), broker, partitions, Path(folder), training_events)
        )
        workers, found = [now.worker], []
        now.send(made[:events])
        now.wait_for(events)
        for number in range(1, most + 1):
            if number > 1:
                workers.append(ending.enter_context(_joined(now, Path(folder), number)))
            say(f"{number} worker(s) on {events:,} events")
            backlog = made[number * events : (number + 1) * events]
            found.append(_worked_off(now, workers, backlog, (number + 1) * events))
        return found


def recovery(known: int, broker: str, partitions: int, training_events: int = 0) -> Recovery:
    """Kill the only worker while events trickle in, and start another."""
    with tempfile.TemporaryDirectory(prefix="driftwood-growth-") as folder, ExitStack() as ending:
        cards = known_cards(known)
        # A dead worker is noticed after the session timeout: the default one, as workers have it.
        timeout = Settings().session_timeout
        place = running(cards, broker, partitions, Path(folder), training_events, timeout)
        now, started = ending.enter_context(place)
        say(f"making {known:,} cards known")
        now.send(cards.events(known))
        now.wait_for(known)
        load = Load(TRICKLE, TAKEN_OVER_WITHIN_S, 0.0, known, 2_000)
        sender = ending.enter_context(paced_sender(load, started, partitions, first=2 * known))
        begin(sender)
        now.wait_for(known + round(2 * TRICKLE))
        assigned_s, answered_s = _killed(now, started, Path(folder))
    return Recovery(known, round(assigned_s, 2), round(answered_s, 2))


def known_cards(known: int) -> Workload:
    """Every card pays once."""
    made = records(next(rounds(known, EVERY_US)))
    usual = card_workload(known)
    return Workload(usual.reference, lambda count: made[:count], usual.save_model)


def _worked_off(
    now: Running, workers: list[WorkerChild], backlog: list[tuple[bytes, bytes]], answers: int
) -> Workers:
    with ExitStack() as still:
        for worker in workers:
            still.enter_context(standing_still(worker))
        now.send(backlog)
    before, started = [worker.cpu_s() for worker in workers], time.monotonic()
    now.wait_for(answers)
    seconds = time.monotonic() - started
    spent = sum(worker.cpu_s() for worker in workers) - sum(before)
    return Workers(len(workers), round(len(backlog) / seconds), round(1e6 * spent / len(backlog), 1))


@contextmanager
def _joined(now: Running, folder: Path, number: int) -> Iterator[WorkerChild]:
    with WorkerChild(now.workload.reference, now.settings, folder / f"worker-{number}.log") as worker:
        worker.wait_until_ready(1)
        yield worker


def _killed(now: Running, started: Servers, folder: Path) -> tuple[float, float]:
    """Seconds from the kill to the assignment, and from there to the first prediction."""
    group = Group(started.brokers)
    dead = group.members()
    psutil.Process(now.worker.pid).kill()
    killed_s = time.monotonic()
    say("killed; another worker starts")
    with WorkerChild(now.workload.reference, now.settings, folder / "successor.log") as successor:
        answered = now.ends.total()
        assigned_s = _when(lambda: group.belongs_to_others_than(dead), successor)
        answered_s = _when(lambda: now.ends.total() > answered, successor)
    return assigned_s - killed_s, answered_s - assigned_s


class Group:
    """The consumer group of the workers, as its coordinator sees it."""

    def __init__(self, brokers: str) -> None:
        self._client = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
        self._name = predict_group(CARDS.name)

    def members(self) -> frozenset[str]:
        """Their ids; none while the group is rebalancing."""
        found = self._client.describe_consumer_groups([self._name])[self._name].result()
        stable = found.state is ConsumerGroupState.STABLE
        return frozenset(member.member_id for member in found.members) if stable else frozenset()

    def belongs_to_others_than(self, dead: frozenset[str]) -> bool:
        """Whether the partitions have been given out, and none of them to these."""
        members = self.members()
        return bool(members) and not members & dead


def _when(true: Callable[[], bool], worker: WorkerChild) -> float:
    """The moment at which it became true."""
    deadline = time.monotonic() + TAKEN_OVER_WITHIN_S
    while not true():
        worker.check()
        if time.monotonic() > deadline:
            raise OperatorError(f"nobody took over within {TAKEN_OVER_WITHIN_S:g} s")
        time.sleep(LOOK_EVERY_S)
    return time.monotonic()
