"""Workers in which one thing can be slowed a hundredfold while they run, and what is seen of them meanwhile.

Run as a script this file is a worker like any other, but that what a file beside it names takes a hundred times its time:
"ingest", the stage of an entity, "broker" (each delivery) or "redis" (each claim and commit).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil

from driftwood.produce import Chunk, Production, Schedule, Sent
from streams.settings import Settings
from streams.topics import PipelineTopics
from tests.card_payments import Payments
from tests.kafka_records import Reader
from tests.worker_process import WorkerProcess, main, until

SWITCH = Path("slowed")  # in the worker's own folder: names what is slow
FACTOR = 100
SLICE_S = 0.02
LOOKS, LOOK_EVERY_S = 15, 0.1


class SlowWorker(WorkerProcess):
    """A worker that can be slowed."""

    program: ClassVar[Path] = Path(__file__)

    def slow(self, what: str) -> None:
        """From now on this takes a hundred times its time."""
        (self.folder / SWITCH).write_text(what)

    def hurry(self) -> None:
        """Nothing is slow any more, also what is under way."""
        (self.folder / SWITCH).unlink()

    @property
    def resident_bytes(self) -> int:
        """What the process has in memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@dataclass
class Looked:
    """What was seen while something was slow: the most of each."""

    unread_bytes: float = 0.0
    events_unread_bytes: int = 0
    resident_bytes: list[int] = field(default_factory=list)


class Traffic:
    """Events into a pipeline, as `driftwood produce` sends them, and how many predictions were written.

    They are counted by where their topic ends: on the embedded broker whoever reads them may fall too far behind.
    """

    def __init__(self, payments: Payments, topics: PipelineTopics, settings: Settings) -> None:
        self._name, self._topics, self._settings = payments.name, topics, settings
        self.predictions = Reader(settings.brokers, topics.predictions.name, topics.predictions.partitions)
        self._producing: threading.Thread | None = None
        self._failed: Exception | None = None
        self.sent = Sent(0, 0, 0.0, 0, None)

    @property
    def answered(self) -> int:
        """How many predictions there are."""
        return self.predictions.end()

    def send(self, events: Sequence[bytes], keys: Sequence[bytes]) -> None:
        """In the background, and no faster than the workers permit."""
        chunk = Chunk(events, np.full(len(events), np.nan), keys)
        self._producing = threading.Thread(target=self._produce, args=(chunk,), daemon=True)
        self._producing.start()

    @property
    def is_held(self) -> bool:
        """Whether the sender waits for the workers."""
        assert self._failed is None, self._failed
        return self.sent.waiting_for is not None

    def finish(self) -> int:
        """Wait until everything is sent; how many events that was."""
        assert self._producing is not None
        self._producing.join()
        assert self._failed is None, self._failed
        return self.sent.events

    def _produce(self, chunk: Chunk) -> None:
        try:
            Production(self._name, self._topics.events, self._settings, told=self._told).run(
                [chunk], Schedule()
            )
        except Exception as error:  # noqa: BLE001  it is told to the test, in its own thread
            self._failed = error

    def _told(self, sent: Sent) -> None:
        self.sent = sent


def look(workers: Sequence[SlowWorker], traffic: Traffic) -> Looked:
    """Look for a while at workers of which one is slow."""
    seen = Looked()
    for _ in range(LOOKS):
        time.sleep(LOOK_EVERY_S)
        unread = [worker.metrics().value("driftwood_unread_bytes") for worker in workers]
        seen.unread_bytes = max(seen.unread_bytes, *unread)
        seen.events_unread_bytes = max(seen.events_unread_bytes, traffic.sent.unread_bytes)
        seen.resident_bytes.append(max(worker.resident_bytes for worker in workers))
    return seen


def owner_of(workers: Sequence[SlowWorker], stage: str) -> SlowWorker:
    """One that has worked in this stage."""
    return next(
        worker for worker in workers if worker.metrics().value("driftwood_events_total", stage=stage) > 0
    )


def wait_for_answers(traffic: Traffic, count: int) -> None:
    """Until so many predictions are written."""
    until(lambda: traffic.answered >= count, f"{count} predictions")


# ---- in the worker


def _slowed(owner: Any, name: str, of: Callable[[Any], str]) -> None:
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def slow(self: Any, *arguments: Any) -> Any:
        began = time.monotonic()
        try:
            return await original(self, *arguments)
        finally:
            await _sleep(of(self), (FACTOR - 1) * (time.monotonic() - began))

    setattr(owner, name, slow)


async def _sleep(what: str, seconds: float) -> None:
    """In slices: it ends when the switch does."""
    for _ in range(int(seconds / SLICE_S)):
        if not _is_slow(what):
            return
        await asyncio.sleep(SLICE_S)


def _is_slow(what: str) -> bool:
    return SWITCH.is_file() and SWITCH.read_text() == what


def _slow_down() -> None:
    from features.redis_store import RedisStore
    from streams.predict_road import EntityStage, Ingest
    from streams.pressure import MeasuredPublisher

    _slowed(Ingest, "process", lambda stage: "ingest")
    _slowed(EntityStage, "begin", lambda stage: str(stage.name))
    _slowed(EntityStage, "finish", lambda stage: str(stage.name))
    _slowed(MeasuredPublisher, "deliver", lambda publisher: "broker")
    _slowed(RedisStore, "claim", lambda store: "redis")
    _slowed(RedisStore, "commit", lambda store: "redis")


if __name__ == "__main__":
    _slow_down()
    main()
