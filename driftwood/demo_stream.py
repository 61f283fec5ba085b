"""The streaming part of the demo: one thread sends, one reads the predictions, and the main thread watches both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from driftwood.answers import Answers, Reader
from driftwood.demo_worker import WorkerChild
from driftwood.produce import Production, Schedule, Sent, chunks
from features.errors import OperatorError
from models.pipeline import Pipeline
from streams.settings import Settings
from streams.topics import PipelineTopics

# Nothing came back for this long: something is wrong, and the demo says so instead of waiting for ever.
SILENT_S = 60.0

LOOK_EVERY_S = 0.2

# Events sent and not answered. A prediction of the examples is below 1.3 kB, so what nobody has read yet stays under half
# of what the embedded broker keeps, wherever it stands.
IN_FLIGHT = 2_000


@dataclass(frozen=True)
class Standing:
    """How far the demo has come, for the live view."""

    total: int
    sent: int
    seconds: float
    answers: Answers
    dead_letters: int


Watched = Callable[[Standing], None]


class DemoStream:
    """Sends the events in one thread, reads the predictions in another, and watches both from here."""

    def __init__(
        self, pipeline: Pipeline, settings: Settings, topics: PipelineTopics, worker: WorkerChild
    ) -> None:
        self._pipeline, self._settings, self._topics, self._worker = pipeline, settings, topics, worker
        self.answers = Answers()
        self._reader = Reader(settings, topics.predictions, self.answers)
        self._sent = self._unanswerable = 0
        self._failure: BaseException | None = None

    def run(self, records: list[bytes], watched: Watched) -> dict[str, Any]:
        """Send everything, wait until everything is answered; the measured figures."""
        began, cpu_s = time.monotonic(), self._worker.cpu_s()
        sender = threading.Thread(target=self._send, args=(records,), name="send events", daemon=True)
        sender.start()
        dead = self._wait(records, began, watched)
        seconds = time.monotonic() - began
        count = len(records)
        return {
            "pipeline": self._pipeline.name,
            "events": count,
            "predictions": len(self.answers.ids),
            "dead_letters": dead,
            "events_per_second": round(count / seconds),
            "cpu_us_per_event": round((self._worker.cpu_s() - cpu_s) / count * 1e6, 1),
            "latency_ms": self.answers.latency_ms(),
        }

    def _wait(self, records: list[bytes], began: float, watched: Watched) -> int:
        answered, moved = 0, began
        while True:
            metrics = self._worker.metrics()
            dead = int(metrics.get("driftwood_dead_letters_total", 0))
            self._unanswerable = dead + int(metrics.get("driftwood_repeated_ids_total", 0))
            answered_now = len(self.answers.ids) + self._unanswerable
            now = time.monotonic()
            moved = now if answered_now > answered else moved
            answered = answered_now
            watched(Standing(len(records), self._sent, now - began, self.answers, dead))
            if answered >= len(records):
                return dead
            self._check(now - moved, len(records) - answered)
            time.sleep(LOOK_EVERY_S)

    def _check(self, silent_s: float, missing: int) -> None:
        self._worker.check()
        self._reader.check()
        if self._failure is not None:
            raise self._failure
        if silent_s > SILENT_S:
            raise OperatorError(f"nothing came back for {SILENT_S:g} s, {missing:,} events are not answered")

    def _is_full(self, sent: int) -> bool:
        return sent - len(self.answers.ids) - self._unanswerable > IN_FLIGHT

    def _send(self, records: list[bytes]) -> None:
        def told(sent: Sent) -> None:
            self._sent = sent.events

        try:
            production = Production(
                self._pipeline.name, self._topics.events, self._settings, told=told, held=self._is_full
            )
            production.run(chunks(records, self._pipeline, lambda: time.time() * 1000), Schedule())
        except Exception as error:  # noqa: BLE001  the main thread raises it again
            self._failure = error
