"""The streaming part of the demo: one thread sends, others read what comes back, and the main thread watches them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

from driftwood.answers import Answers, Reader
from driftwood.demo_labels import OutcomeReader, label_to_weights_s
from driftwood.demo_monitor import DemoMonitor
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
    """How far the demo has come, for the live view; `alerts` that are open, None where nobody watches."""

    total: int
    sent: int
    seconds: float
    answers: Answers
    dead_letters: int
    labels: int
    alerts: int | None = None


Watched = Callable[[Standing], None]


class Acting(Protocol):
    """Somebody who acts on predictions. Of events in `blocked` no label is sent; those in `passed` were held out."""

    blocked: set[str]
    passed: set[str]

    def act(self, prediction: Mapping[str, Any]) -> bytes | None:
        """The record for the `actions` topic, or None."""
        ...


@dataclass(frozen=True)
class Workers:
    """The processes of a demo; `learn` None where the pipeline does not learn, `monitor` None where nobody watches."""

    predict: WorkerChild
    learn: WorkerChild | None
    monitor: WorkerChild | None = None

    def __iter__(self) -> Iterator[WorkerChild]:
        every = (self.predict, self.learn, self.monitor)
        return iter([worker for worker in every if worker is not None])


class DemoStream:
    """Sends events and labels in one thread, reads predictions and outcomes in others, and watches from here.

    `actor` reads every prediction before it counts as answered.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        topics: PipelineTopics,
        workers: Workers,
        actor: Acting | None = None,
    ) -> None:
        self._pipeline, self._settings, self._topics, self._workers = pipeline, settings, topics, workers
        self._monitor = None if workers.monitor is None else DemoMonitor(workers.monitor, settings, topics)
        self._actor = actor
        self._blocked: AbstractSet[str] = actor.blocked if actor else frozenset()
        self.answers = Answers()
        self._reader = Reader(settings, topics.predictions, self.answers, self._acted_on)
        self._outcomes: OutcomeReader | None = None
        if topics.learn is not None:
            outcomes = topics.learn.outcomes
            self._outcomes = OutcomeReader(pipeline, settings, outcomes, self.answers, self._blocked)
        self._sender: MergedSender | None = None
        self._sent_ms: dict[str, float] = {}
        self._unanswerable = 0
        self._failure: BaseException | None = None

    def run(self, events: Timed, labels: Timed | None, watched: Watched) -> dict[str, Any]:
        """Send everything, wait until everything is answered and joined; the measured figures."""
        began, cpu_s = time.monotonic(), self._workers.predict.cpu_s()
        streams = [events, *([labels] if labels is not None else [])]
        self._sender = MergedSender(self._settings, streams, self._is_full, self._sends)
        thread = threading.Thread(target=self._send, name="send events and labels", daemon=True)
        thread.start()
        dead = self._wait(self._sender, thread, len(events.values), began, watched)
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
            **self._learnt(self._sender),
            **({} if self._monitor is None else {"alerts": self._monitor.alerts()}),
        }

    def _learnt(self, sender: MergedSender) -> dict[str, Any]:
        if self._outcomes is None:
            return {}
        found, actor = self._outcomes.outcomes, self._actor
        acted = {"actions": {"blocked": len(actor.blocked), "held_out": len(actor.passed)}} if actor else {}
        return {
            "labels": sender.sent[1],
            "outcomes": dict(found.named),
            **acted,
            "label_to_weights_seconds": label_to_weights_s(found, self._sent_ms, self.answers),
            "label_skew_hours": found.skew_hours(),
        }

    @property
    def learnt(self) -> set[str]:
        """Ids of the events of which a label was joined."""
        return {name for name, _ in self._outcomes.outcomes.learnt} if self._outcomes else set()

    # ---- waiting

    def _wait(
        self, sender: MergedSender, thread: threading.Thread, total: int, began: float, watched: Watched
    ) -> int:
        done, moved = 0, began
        while True:
            sending = thread.is_alive()
            metrics = self._workers.predict.metrics()
            dead = int(metrics.get("driftwood_dead_letters_total", 0))
            self._unanswerable = dead + int(metrics.get("driftwood_repeated_ids_total", 0))
            answered = len(self.answers.ids) + self._unanswerable
            joined, now = self._joined(), time.monotonic()
            moved = now if answered + joined > done else moved
            done = answered + joined
            alerts = None if self._monitor is None else self._monitor.open_alerts
            watched(Standing(total, sender.sent[0], now - began, self.answers, dead, joined, alerts))
            missing = max(sender.sent[0] - answered, 0) + max(sum(sender.sent[1:]) - joined, 0)
            if not sending and self._failure is None and not missing:
                return dead
            self._check(now - moved, missing)
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

    # ---- in the threads of the sender and of the reader

    def _is_full(self, sent: Sequence[int]) -> bool:
        unanswered = sent[0] - len(self.answers.ids) - self._unanswerable
        if len(sent) == 1:
            return unanswered > IN_FLIGHT
        return unanswered > IN_STEP or sent[1] - self._joined() > LABELS_IN_STEP

    def _sends(self, number: int, key: bytes) -> bool:
        """Whether this record comes at all: nobody says what was prevented."""
        if number == 0:
            return True
        if (event_id := key.decode()) in self._blocked:
            return False
        self._sent_ms[event_id] = time.time() * 1e3
        return True

    def _acted_on(self, prediction: Mapping[str, Any]) -> None:
        if self._actor is None or self._sender is None:
            return
        if (action := self._actor.act(prediction)) is not None:
            self._sender.put(self._topics.learning.actions, prediction["event_id"].encode(), action)

    def _send(self) -> None:
        assert self._sender is not None, "made before its thread"
        try:
            self._sender.run()
        except Exception as error:  # noqa: BLE001  the main thread raises it again
            self._failure = error
