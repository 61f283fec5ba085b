"""Alerts on their way to `drift-alerts`, and what they trigger to `control`: each once, also after a crash in between.

Triggers go first. Whoever takes the stage over reads both topics to their ends before it goes on: what stands there already
is not written again. A learner's command has two records, on `control` and on `outcomes`; the second one is written again in
any case, with the same place in `control`, by which the learner knows a copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from models.drift.alert import Alert, decoded, encoded
from models.pipeline import Pipeline
from streams import control
from streams.batch import Partition, Record
from streams.control import COMMAND, LearnerCommand, RetrainRequest
from streams.control_log import decide
from streams.headers import PIPELINE_VERSION, POSITION
from streams.metrics import Metrics
from streams.predict_road import Publishing
from streams.producer import Outgoing
from streams.topics import LearnTopics
from streams.watch_alerts import Placed

log = logging.getLogger(__name__)

BY = "drift watch: "
"""Before the alert's name, in the `by` of what it triggered."""

ToLearners = Literal["freeze", "reset"]


@dataclass
class AlertDelivery:
    """Writes alerts. `read` gives all records of a partition that stand there now, and blocks."""

    pipeline: Pipeline
    topics: LearnTopics
    publisher: Publishing
    read: Callable[[Partition], Iterable[Sequence[Record]]]
    metrics: Metrics
    _sequences: dict[str, int] = field(default_factory=dict)
    _decided: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def look(self) -> None:
        """Read what stands on `drift-alerts` and `control`. Raises as `streams.topic_log.TopicLog`."""
        self._sequences, self._decided = {}, {}
        for record in self._records(self.topics.drift_alerts.name):
            try:
                alert = decoded(record.value or b"")
            except ValueError as error:
                log.debug("record %d of drift-alerts is none of ours: %s", record.offset, error)
                continue
            known = self._sequences.get(alert.alert, -1)
            self._sequences[alert.alert] = max(known, alert.sequence)
        for record in self._records(self.topics.control.name):
            one = control.decoded(record.value)
            if isinstance(one, LearnerCommand | RetrainRequest):
                self._decided[_key(one)] = record.offset

    def _records(self, topic: str) -> Iterator[Record]:
        for records in self.read((topic, 0)):
            yield from records

    async def deliver(self, placed: Sequence[Placed]) -> None:
        """Write what does not stand there yet, in order; what it triggers before it. Raises `DeliveryError`."""
        over = {one.alert.alert for one in placed if one.alert.status == "resolved"}
        for one in placed:
            alert = one.alert
            if alert.sequence <= self._sequences.get(alert.alert, -1):
                continue
            if (
                alert.alert not in over
            ):  # of history that is caught up with: nothing is to be done about it now
                await self._trigger(alert)
            await self.publisher.deliver([self._message(one)])
            self._sequences[alert.alert] = alert.sequence
            self.metrics.alerts.labels(alert.levels[0], alert.severity, alert.status).inc()
            log.warning("alert %s: %s (%s)", alert.status, alert.title, alert.alert)

    def _message(self, one: Placed) -> Outgoing:
        alert, topic = one.alert, self.topics.drift_alerts.name
        headers = [
            (POSITION, f"{one.position.offset}/{one.position.row}".encode()),
            (PIPELINE_VERSION, self.pipeline.version.encode()),
            ("ce_specversion", b"1.0"),
            ("ce_id", f"{alert.alert}/{alert.sequence}".encode()),
            ("ce_type", b"driftwood.drift-alert.v1"),
            ("ce_source", topic.encode()),
            ("ce_time", alert.at.encode()),
        ]
        return Outgoing(topic, 0, alert.alert.encode(), encoded(alert), headers)

    # ---- what an alert triggers

    async def _trigger(self, alert: Alert) -> None:
        for record in self._decisions(alert):
            known = self._decided.get(_key(record))
            if known is None:
                version = self.pipeline.version
                self._decided[_key(record)] = await decide(record, self.topics, version, self.publisher)
                log.warning("alert %s triggers: %s", alert.alert, _said(record))
            elif isinstance(record, LearnerCommand):
                await self._again(record, known)

    def _decisions(self, alert: Alert) -> Iterator[LearnerCommand | RetrainRequest]:
        by = f"{BY}{alert.alert}"
        for trigger in alert.triggers:
            if trigger == "retrain-requested":
                yield RetrainRequest(alert.alert, alert.title, alert.at, by)
            elif trigger in get_args(ToLearners):
                for learner in self._learners(alert):
                    yield LearnerCommand(trigger, learner, alert.at, by)

    def _learners(self, alert: Alert) -> list[str]:
        """The learners that the alert is about; all of them where it is about none in particular."""
        names = [spec.name for spec in self.pipeline.online]
        about = {signal.subject for signal in alert.signals}
        return [name for name in names if name in about] or names

    async def _again(self, record: LearnerCommand, offset: int) -> None:
        """Hand a command to the learner that may not have come there; a copy has no effect."""
        headers = [(PIPELINE_VERSION, self.pipeline.version.encode()), (COMMAND, str(offset).encode())]
        await self.publisher.deliver(
            [Outgoing(self.topics.outcomes.name, 0, None, control.encoded(record), headers)]
        )


def _key(record: LearnerCommand | RetrainRequest) -> tuple[str, str, str]:
    """By which a decision is the same: what, about whom, because of which alert."""
    if isinstance(record, RetrainRequest):
        return "retrain-requested", "", record.alert
    return record.action, record.learner, record.by.removeprefix(BY)


def _said(record: LearnerCommand | RetrainRequest) -> str:
    return f"{record.action} {record.learner}" if isinstance(record, LearnerCommand) else "retrain-requested"
