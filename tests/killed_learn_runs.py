"""Pipelines that learn, on a real Kafka and Redis, whose processes are killed, one after another, at each of their points.

Orders, labels and actions come all the time. The last process lives, and finishes everything.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from redis import Redis

from streams.join_frames import ReportCodec
from streams.served import ServedCodec
from streams.settings import Settings
from streams.topics import TopicAdmin
from tests.dying_learner import (
    JOIN,
    JOIN_POINTS,
    LABELS,
    LEARNER_POINTS,
    SOURCE_POINTS,
    DyingLearners,
)
from tests.dying_worker import LEARNER, NOTE, Death, DyingWorkers
from tests.kafka_records import Reader
from tests.kafka_run import read_run
from tests.learn_process import LearnProcess
from tests.learnt_run import Learnt, published
from tests.returned_orders import Returns, Sent, Shop, returns_pipeline
from tests.worker_process import WITHIN_S, WorkerProcess, until

PARTITIONS = 2
STANDBY = "standby"
LAST_STAGE = "shop"

# Some hours of event time, and so several horizons: that every outcome happens.
ORDERS = 700

# Under so many snapshots a run answers at least, however quickly its processes died.
SNAPSHOTS = 3

P = TypeVar("P", bound=WorkerProcess)

# By what dies: "join" and "learner" are parts of the process of the learn road, "answers" is the last stage of the predict
# road, which dies with predictions that were delivered and not committed. "standby" stands still with a snapshot in its
# hands, and wakes when another process has taken over.
DEATHS = {
    JOIN: [Death(JOIN, point) for point in JOIN_POINTS],
    LEARNER: [
        *(Death(LEARNER, point) for point in LEARNER_POINTS),
        *(Death(LABELS, point) for point in SOURCE_POINTS),
    ],
    "answers": [
        Death(LAST_STAGE, point) for point in ("in deliver", "unacknowledged", "after deliver", "in commit")
    ],
}
STOPS = Death(LEARNER, "before publish", stops=True)
DIES_WITHIN_S = 2 * WITHIN_S


@dataclass
class LearnPlace:
    """A pipeline with its topics, and the settings of its processes."""

    returns: Returns
    values: dict[str, Any]
    ending: ExitStack

    @property
    def settings(self) -> Settings:
        """As the processes have them."""
        return Settings(**self.values)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.returns.name

    @property
    def folder(self) -> Path:
        """Where its processes write."""
        return self.returns.path.parent

    def process(self, kind: type[P], **settings: object) -> P:
        """A process of this kind; it ends with the test."""
        process = kind(self.returns.path, self.folder, **self.values | settings)
        self.ending.callback(process.kill)
        return process

    def topic(self, kind: str) -> str:
        """The full name of a topic."""
        return f"{self.name}.{kind}"

    def snapshot(self) -> int:
        """The version of the newest snapshot, -1 before the first."""
        return published(self.settings, self.returns.pipeline).version

    def figures(self) -> Mapping[str, Any]:
        """Those of the newest snapshot."""
        return published(self.settings, self.returns.pipeline).figures or {"matured": 0}

    def left(self) -> Learnt:
        """Everything in the topics."""
        topics = self.returns.topics(PARTITIONS)
        run = read_run(self.values["brokers"], self.returns.pipeline, topics)
        return Learnt.of(run, self.settings)


def learn_place(folder: Path, address: str, redis_url: str, ending: ExitStack) -> LearnPlace:
    """A pipeline of the test's own, with its topics. Its processes end with `ending`."""
    values: dict[str, Any] = {
        "brokers": address,
        "redis_url": redis_url,
        "partitions": PARTITIONS,
        "models_dir": folder / "models",
        "runs_dir": folder / "runs",
        "session_timeout": "6s",
        "ledger_hot": "20m",
    }
    place = LearnPlace(returns_pipeline(folder), values, ending)
    TopicAdmin(place.settings).create(place.returns.topics(PARTITIONS))
    return place


@dataclass
class LearnKilled:
    """A pipeline some of whose processes were killed; `snapshots` has the newest one at each death and at the start after.

    `refused`: how many snapshots of the process that woke were refused because it had been replaced.
    """

    place: LearnPlace
    sent: Sent = field(default_factory=Sent)
    notes: list[dict[str, Any]] = field(default_factory=list)
    snapshots: list[tuple[int, int]] = field(default_factory=list)
    refused: float = 0


def kill_learning(kind: str, killed: LearnKilled) -> None:
    """Kill at each point of `DEATHS[kind]`, or wake a zombie; then everything that was sent is finished."""
    place = killed.place
    shop = Shop(place.values["brokers"], place.name, PARTITIONS, seed=len(kind))
    killed.sent = shop.sent
    if kind == STANDBY:
        _stand_by(killed, shop)
        return
    dying: type[DyingWorkers] = DyingWorkers if kind == "answers" else DyingLearners
    dies, lives = (WorkerProcess, LearnProcess) if kind == "answers" else (LearnProcess, WorkerProcess)
    # Small batches, so that some hundred orders are many of them.
    workers = place.process(dying, batch_max_records=2)
    other = place.process(lives, batch_max_records=20).started()
    for death in DEATHS[kind]:
        _die(workers, death, shop)
        killed.notes.append(workers.note)
        if kind == "answers":
            killed.snapshots.append(_newer_snapshot(place, shop))
    last = place.process(dies).started()
    finish(killed, shop)
    assert other.stop() == 0
    assert last.stop() == 0


def _stand_by(killed: LearnKilled, shop: Shop) -> None:
    """A learner stands still, another takes over; it wakes, is refused, stands by, and takes over when that one dies."""
    place = killed.place
    zombies = place.process(DyingLearners, batch_max_records=20)
    worker = place.process(WorkerProcess).started()
    zombies.begin(STOPS)

    def stopped() -> bool:
        shop.send(4)
        return (zombies.folder / NOTE).exists()

    until(stopped, "the learner stands still", DIES_WITHIN_S)
    zombie = int(zombies.note["pid"])
    place.ending.callback(_end, zombie)
    killed.notes.append(zombies.note)
    second = place.process(LearnProcess, batch_max_records=20).started()
    killed.snapshots.append(_newer_snapshot(place, shop))
    os.kill(zombie, signal.SIGCONT)

    def refused() -> float:
        shop.send(2)
        said = zombies.metrics_of_last().value("driftwood_refused_batches_total", stage=LEARNER, why="epoch")
        killed.refused = said
        return said

    until(refused, "the learner that woke is refused", DIES_WITHIN_S)
    killed.snapshots.append(_newer_snapshot(place, shop))
    second.kill()
    killed.snapshots.append(_newer_snapshot(place, shop))
    finish(killed, shop)
    assert worker.stop() == 0
    os.kill(zombie, signal.SIGTERM)
    assert zombies.exit_code(WITHIN_S) == 0, zombies.stderr


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _die(workers: DyingWorkers, death: Death, shop: Shop) -> None:
    workers.begin(death)
    deadline = time.monotonic() + DIES_WITHIN_S
    while (code := workers.exit_code(within_s=0.25)) is None:
        assert time.monotonic() < deadline, f"it lives on: {death}\n{workers.stderr}"
        shop.send(6)
    assert code == -signal.SIGKILL, f"{death}\n{workers.stderr}"


def _newer_snapshot(place: LearnPlace, shop: Shop) -> tuple[int, int]:
    """Nobody answers, and labels of what was answered go on to be learnt: until the newest snapshot is another one."""
    before = place.snapshot()

    def newer() -> bool:
        shop.send(2)
        return place.snapshot() > before

    until(newer, "a newer snapshot", DIES_WITHIN_S)
    return before, place.snapshot()


def finish(killed: LearnKilled, shop: Shop) -> None:
    """Send what is left of the orders that every run has; all are answered, and all of their labels learnt."""
    place, sent = killed.place, killed.sent
    while len(sent.orders) < ORDERS:
        shop.send(20)
    _see_snapshots(place, shop)
    address = place.values["brokers"]
    with (
        Reader(address, place.topic("predictions"), PARTITIONS) as predictions,
        Reader(address, place.topic("hop-join"), PARTITIONS) as joined,
        Reader(address, place.topic("outcomes"), 1) as outcomes,
    ):
        orders = len(sent.orders)
        _wait(lambda: len({one.key() for one in predictions.read(0.1)}), orders, "orders answered")
        look = Joined(place, joined)
        _wait(look.rows, orders + sent.labels.total() + sent.actions, "rows on hop-join")
        ends = look.ends()
        _wait(
            lambda: sum(min(*pair) for pair in zip(_applied(place), ends, strict=True)),
            sum(ends),
            "records joined",
        )
        until(lambda: place.snapshot() == outcomes.end() - 1, "a snapshot of all outcomes", DIES_WITHIN_S)


def _see_snapshots(place: LearnPlace, shop: Shop) -> None:
    """Orders and labels come until orders were answered under several snapshots."""
    with Reader(place.values["brokers"], place.topic("predictions"), PARTITIONS) as reader:

        def seen() -> bool:
            shop.send(2)
            named = {json.loads(one.value() or b"")["snapshot"] for one in reader.read(0.1)}
            return len(named) >= SNAPSHOTS

        until(seen, f"answers under {SNAPSHOTS} snapshots", DIES_WITHIN_S)


def _wait(count: Callable[[], int], wanted: int, what: str) -> None:
    until(lambda: count() >= wanted, f"{wanted} {what}; there are {count()}", DIES_WITHIN_S)


def _applied(place: LearnPlace) -> list[int]:
    """By partition of hop-join how many records were applied."""
    with Redis.from_url(place.values["redis_url"]) as client:
        key = f"driftwood:{place.name}:partition:{place.topic('hop-join')}:"
        found: list[Any] = [client.hget(f"{key}{number}", "applied") for number in range(PARTITIONS)]
    return [int(applied or -1) + 1 for applied in found]


class Joined:
    """How many rows of orders, labels and actions stand on hop-join, copies left out."""

    def __init__(self, place: LearnPlace, reader: Reader) -> None:
        self._reader, self._read = reader, 0
        self._served, self._reports = ServedCodec(place.returns.pipeline), ReportCodec(place.returns.pipeline)
        self._found: set[tuple[bytes, int, int]] = set()

    def rows(self) -> int:
        """Those by now."""
        messages = self._reader.read(0.1)
        for message in messages[self._read :]:
            headers: Any = dict(message.headers() or ())
            value = message.value() or b""
            if headers["frame"] == self._served.version:
                places: Any = self._served.decode(value).frame
            elif headers["frame"] == self._reports.version:
                places = self._reports.decode(value)
            else:
                continue
            upstream = headers["upstream"]
            pairs = zip(places.upstream_offsets.tolist(), places.upstream_rows.tolist(), strict=True)
            self._found.update((upstream, offset, row) for offset, row in pairs)
        self._read = len(messages)
        return len(self._found)

    def ends(self) -> list[int]:
        """By partition the end of what was read."""
        ends = [0] * PARTITIONS
        for message in self._reader.messages:
            ends[message.partition() or 0] = (message.offset() or 0) + 1
        return ends
