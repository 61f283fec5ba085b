"""What came back: predictions as a reader sees them, with their latencies, and how good they were."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from driftwood.tail import Copies, read
from streams.settings import Settings
from streams.topics import Topic

# How many of the newest latencies the live view's percentiles are of.
RECENT = 5_000

SCORE_BINS = 10


@dataclass
class Answers:
    """The predictions of one run, each once, kept in memory: about 200 bytes an event."""

    ids: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    published_ms: list[int] = field(default_factory=list)
    snapshots: list[int] = field(default_factory=list)
    newest_us: int = 0
    copies: int = 0
    late: int = 0

    def add(self, prediction: Mapping[str, Any], timestamp_ms: int) -> None:
        """One prediction, published at the broker's time `timestamp_ms`."""
        self.ids.append(prediction["event_id"])
        self.scores.append(prediction["score"])
        blend = {"blend": prediction["score"]} if "mode" in prediction else {}
        self.parts.append({name: part["score"] for name, part in prediction["parts"].items()} | blend)
        self.times.append(prediction["event_time"])
        self.published_ms.append(timestamp_ms)
        snapshot = prediction.get("snapshot")
        self.snapshots.append(-1 if snapshot is None else snapshot)
        moment = np.datetime64(prediction["event_time"].rstrip("Z"), "us")
        self.newest_us = max(self.newest_us, int(moment.astype(np.int64)))
        self.latencies_ms.append(max(timestamp_ms - prediction["arrived_ms"], 0))
        self.late += "late" in prediction["flags"]

    def latency_ms(self, newest: int | None = None) -> dict[str, float]:
        """p50, p95 and p99 from the broker's time of the event to that of its prediction, in milliseconds."""
        values = self.latencies_ms[-newest:] if newest else self.latencies_ms
        if not values:
            return {"p50": 0.0, "p95": 0.0, "p99": 0.0}
        found = np.percentile(values, (50, 95, 99))
        return {
            name: round(float(value), 1) for name, value in zip(("p50", "p95", "p99"), found, strict=True)
        }

    def by_score(self) -> Sequence[int]:
        """Predictions in ten bins of the score from 0 to 1."""
        return [int(count) for count in np.histogram(self.scores, SCORE_BINS, (0.0, 1.0))[0]]


def first_the_blend(part: str) -> tuple[bool, str]:
    """Sorts the parts of a score for people.

    Example:
        >>> sorted(["bounded_tree", "lightgbm", "blend"], key=first_the_blend)
        ['blend', 'bounded_tree', 'lightgbm']
    """
    return part != "blend", part


class Reader:
    """Reads a topic's records in a thread of its own into `answers`, copies dropped. `told` hears of each one first."""

    def __init__(
        self,
        settings: Settings,
        topic: Topic,
        answers: Answers,
        told: Callable[[Mapping[str, Any]], None] = lambda prediction: None,
    ) -> None:
        self._settings, self._topic, self._answers, self._told = settings, topic, answers, told
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"read {topic.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what ended the reading."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        copies = Copies()
        try:
            for message in read(self._settings, self._topic, from_start=True, follow=True):
                headers: dict[str, Any] = dict(message.headers() or ())
                if copies.seen(headers["position"]):
                    self._answers.copies += 1
                    continue
                prediction = json.loads(message.value() or b"")
                self._told(prediction)
                self._answers.add(prediction, message.timestamp()[1])  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001  the main thread raises it again
            self._failure = error
