"""The streaming part of the demo: one thread sends, others read what comes back, and the main thread watches them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from driftwood.answers import Answers, Reader
from driftwood.demo_labels import OutcomeReader, label_to_weights_s
from driftwood.demo_sender import MergedSender, Timed
from driftwood.demo_worker import WorkerChild
from features.errors import OperatorError
from models.pipeline import Pipeline
from streams.settings import Settings
from streams.topics import PipelineTopics

# Nothing came back for this long: something is wrong, and the demo says so instead of waiting for ever.
SILENT_S = 60.0

LOOK_EVERY_S = 0.2

# Events sent and not answered. A prediction of the examples is below 1.5 kB, so what nobody has read yet stays under half
# of what the embedded broker keeps, wherever it stands.
IN_FLIGHT = 1_500

# With labels beside them, and labels sent and not joined: few, because at this speed what is in flight is the time by which
# labels lag behind events; not fewer, because a batch of ten costs what one of a hundred does.
IN_STEP = 400
LABELS_IN_STEP = 200


@dataclass(frozen=True)
class Standing:
    """How far the demo has come, for the live view."""

    total: int
    sent: int
    seconds: float
    answers: Answers
    dead_letters: int
    labels: int


Watched = Callable[[Standing], None]


@dataclass(frozen=True)
class Workers:
    """The processes of a demo; `learn` None where the pipeline does not learn."""

    predict: WorkerChild
    learn: WorkerChild | None

    def __iter__(self) -> Any:
        return iter([self.predict, *([self.learn] if self.learn else [])])


class DemoStream:
    """Sends events and labels in one thread, reads predictions and outcomes in others, and watches from here."""

    def __init__(
        self, pipeline: Pipeline, settings: Settings, topics: PipelineTopics, workers: Workers
    ) -> None:
        self._pipeline, self._settings, self._topics, self._workers = pipeline, settings, topics, workers
        self.answers = Answers()
        self._reader = Reader(settings, topics.predictions, self.answers)
        self._outcomes: OutcomeReader | None = None
        if topics.learn is not None:
            self._outcomes = OutcomeReader(pipeline, settings, topics.learn.outcomes, self.answers)
        self._sender: MergedSender | None = None
        self._sent_ms: dict[str, float] = {}
        self._unanswerable = 0
        self._failure: BaseException | None = None

    def run(self, events: Timed, labels: Timed | None, watched: Watched) -> dict[str, Any]:
        """Send everything, wait until everything is answered and joined; the measured figures."""
        began, cpu_s = time.monotonic(), self._workers.predict.cpu_s()
        streams = [events, *([labels] if labels is not None else [])]
        self._sender = MergedSender(self._settings, streams, self._is_full, self._handed_over)
        sender = threading.Thread(target=self._send, name="send events and labels", daemon=True)
        sender.start()
        dead = self._wait([len(stream.values) for stream in streams], began, watched)
        seconds = time.monotonic() - began
        count = len(events.values)
        return {
            "pipeline": self._pipeline.name,
            "events": count,
            "predictions": len(self.answers.ids),
            "dead_letters": dead,
            "events_per_second": round(count / seconds),
            "cpu_us_per_event": round((self._workers.predict.cpu_s() - cpu_s) / count * 1e6, 1),
            "latency_ms": self.answers.latency_ms(),
            **self._learnt(labels),
        }

    def _learnt(self, labels: Timed | None) -> dict[str, Any]:
        if labels is None or self._outcomes is None:
            return {}
        found = self._outcomes.outcomes
        return {
            "labels": len(labels.values),
            "outcomes": dict(found.named),
            "label_to_weights_seconds": label_to_weights_s(found, self._sent_ms, self.answers),
            "label_skew_hours": found.skew_hours(),
        }

    def _wait(self, totals: Sequence[int], began: float, watched: Watched) -> int:
        done, moved = 0, began
        while True:
            metrics = self._workers.predict.metrics()
            dead = int(metrics.get("driftwood_dead_letters_total", 0))
            self._unanswerable = dead + int(metrics.get("driftwood_repeated_ids_total", 0))
            answered = len(self.answers.ids) + self._unanswerable
            joined = self._joined()
            now = time.monotonic()
            moved = now if answered + joined > done else moved
            done = answered + joined
            sent = self._sender.sent[0] if self._sender else 0
            watched(Standing(totals[0], sent, now - began, self.answers, dead, joined))
            if answered >= totals[0] and joined >= sum(totals[1:]):
                return dead
            self._check(now - moved, sum(totals) - done)
            time.sleep(LOOK_EVERY_S)

    def _joined(self) -> int:
        return self._outcomes.outcomes.labels if self._outcomes else 0

    def _check(self, silent_s: float, missing: int) -> None:
        for worker in self._workers:
            worker.check()
        self._reader.check()
        if self._outcomes is not None:
            self._outcomes.check()
        if self._failure is not None:
            raise self._failure
        if silent_s > SILENT_S:
            raise OperatorError(
                f"nothing came back for {SILENT_S:g} s, {missing:,} events and labels have no answer or outcome"
            )

    def _is_full(self, sent: Sequence[int]) -> bool:
        unanswered = sent[0] - len(self.answers.ids) - self._unanswerable
        if len(sent) == 1:
            return unanswered > IN_FLIGHT
        return unanswered > IN_STEP or sent[1] - self._joined() > LABELS_IN_STEP

    def _handed_over(self, number: int, key: bytes) -> None:
        if number == 1:
            self._sent_ms[key.decode()] = time.time() * 1e3

    def _send(self) -> None:
        assert self._sender is not None, "made before its thread"
        try:
            self._sender.run()
        except Exception as error:  # noqa: BLE001  the main thread raises it again
            self._failure = error
