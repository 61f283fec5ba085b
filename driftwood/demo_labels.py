"""What becomes of the labels of a demo: outcomes as they come, how far labels lag, and when they changed the answers.

Everything is read from the topics, as anybody could: outcomes with their offsets, and predictions with the snapshot that
answered. A label is in the weights when the first prediction comes whose snapshot covers its outcome.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from driftwood.answers import Answers
from driftwood.tail import Message, read
from features.plan import Floats, Ints
from models.pipeline import Pipeline
from streams.headers import FRAME
from streams.outcomes import OutcomeCodec, take_outcomes
from streams.settings import Settings
from streams.topic_log import StoredRecord
from streams.topics import Topic

HOUR_S = 3_600.0

# Outcomes beside those that settle a label: of events without one, and of labels that still wait.
NO_LABEL = ("silent", "expired", "early", "repeat")


@dataclass
class Outcomes:
    """The outcomes of a run, each once, by name. `labels`: of how many labels the outcome is known; `learnt`: event id and
    offset of those that carry one; `skews_s`: see `OutcomeReader`. Another thread adds to them."""

    named: Counter[str] = field(default_factory=Counter)
    labels: int = 0
    learnt: list[tuple[str, int]] = field(default_factory=list)
    skews_s: list[float] = field(default_factory=list)

    def skew_hours(self) -> dict[str, float]:
        """By how much event time had run ahead of a label when it was joined; negative never: it waits for its event."""
        return _quantiles(np.array(self.skews_s) / HOUR_S, 2)


class OutcomeReader:
    """Reads `outcomes` in a thread of its own. A label's skew is the event time of the newest answer, less its own time.

    `unlabelled`: ids of events of which no label is sent; what becomes of them is no outcome of a label.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        topic: Topic,
        answers: Answers,
        unlabelled: Collection[str] = (),
    ) -> None:
        self._codec, self._answers, self._unlabelled = OutcomeCodec(pipeline), answers, unlabelled
        self._settings, self._topic = settings, topic
        self.outcomes = Outcomes()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"read {topic.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what ended the reading."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        seen: dict[str, Any] = {}
        try:
            for message in read(self._settings, self._topic, from_start=True, follow=True):
                headers = message.headers() or []
                if (FRAME, self._codec.version) in headers:  # else it is a command to a learner
                    matured, seen = take_outcomes(self._codec, _record(message), seen)
                    self._add(matured.event_ids, matured.kinds, matured.known_us, message.offset() or 0)
        except Exception as error:  # noqa: BLE001  the main thread raises it again
            self._failure = error

    def _add(self, ids: Sequence[str], kinds: Sequence[str], known_us: Ints, offset: int) -> None:
        self.outcomes.named.update(kinds)
        self.outcomes.labels += sum(
            kind not in NO_LABEL and name not in self._unlabelled
            for name, kind in zip(ids, kinds, strict=True)
        )
        labelled = [row for row, kind in enumerate(kinds) if kind in ("matched", "corrected")]
        self.outcomes.learnt += [(ids[row], offset) for row in labelled]
        ahead_s = (self._answers.newest_us - known_us[labelled]) / 1e6
        self.outcomes.skews_s += np.maximum(ahead_s, 0.0).tolist()


def label_to_weights_s(
    outcomes: Outcomes, sent_ms: Mapping[str, float], answers: Answers
) -> dict[str, float]:
    """p50 and p95 of the seconds from sending a label to the first answer whose snapshot has learnt it.

    `sent_ms` by event id, on the clock of the broker's timestamps. Labels that no later answer covers are left out.
    """
    snapshots = np.maximum.accumulate(np.array(answers.snapshots, np.int64))
    learnt = list(outcomes.learnt)
    offsets = np.array([offset for _, offset in learnt], np.int64)
    first = np.searchsorted(snapshots, offsets, side="left")
    answered = np.array(answers.published_ms[: len(snapshots)])
    waits = [
        (answered[at] - sent_ms[event_id]) / 1e3
        for (event_id, _), at in zip(learnt, first.tolist(), strict=True)
        if at < len(answered) and event_id in sent_ms
    ]
    return _quantiles(np.array(waits), 2)


def _quantiles(values: Floats, digits: int) -> dict[str, float]:
    if not len(values):
        return {"p50": 0.0, "p95": 0.0}
    p50, p95 = np.quantile(values, (0.5, 0.95))
    return {"p50": round(float(p50), digits), "p95": round(float(p95), digits)}


def _record(message: Message) -> StoredRecord:
    value: Any = message.value()
    return StoredRecord(message.offset() or 0, -1, None, value, message.headers() or [])
