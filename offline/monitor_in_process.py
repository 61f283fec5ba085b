"""The monitor over what the roads of one process publish: the records that workers write, through what the monitor runs.

    InProcess ─ hop-join, dead-letters ─> SliceWatch, DeadWatch ─┐
              └ outcomes ───────────────> LabelWatch ────────────┴─> records of drift-slices ─> AlertWatch ─> alerts

Nothing is left out but what a broker and a store are for. What would stand on `drift-slices` and `drift-alerts` is kept here.
No clock is read: equal records give equal alerts.

    monitor = MonitorInProcess(pipeline, models)
    road = InProcess(pipeline, models, monitor.watch)
    …
    monitor.alerts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from models.drift.alert import Alert
from models.drift.columns import watched_columns
from models.drift.label_counting import LabelCounting
from models.drift.label_reports import LabelReport
from models.drift.label_reports import decoded as read_report
from models.drift.reference import Reference
from models.drift.time_slice import TimeSlice
from models.drift.watch import DriftWatch
from models.model_store import ModelStore
from models.pipeline import Pipeline
from offline.topic_lists import ListedRecord
from streams.entity_batch import stage_plans
from streams.outcomes import OutcomeCodec
from streams.producer import Outgoing
from streams.settings import Settings
from streams.topics import PipelineTopics, pipeline_topics
from streams.watch_alerts import AlertWatch
from streams.watch_dead import DeadWatch
from streams.watch_frames import SliceFrames, read_slice
from streams.watch_labels import LabelWatch
from streams.watch_slices import SliceWatch

# As `InProcess` names its topics' identities.
IDENTITY = "memory"


class MonitorInProcess:
    """Watches a pipeline that learns, on one partition. `models` is the folder of the model store with the references.

    `alerts` has every record of `drift-alerts`; `slices` and `reports` what stood on `drift-slices`. Memory grows with them.
    """

    def __init__(self, pipeline: Pipeline, models: Path) -> None:
        self.alerts: list[Alert] = []
        self.slices: list[TimeSlice] = []
        self.reports: list[LabelReport] = []
        topics = _topics(pipeline)
        self._frames = SliceFrames(pipeline, topics.learning.drift_slices.name)
        last = topics.hops[stage_plans(pipeline.feature_set)[-1].entity].name
        self._served = SliceWatch(
            pipeline, self._frames, _place(topics.learning.hop_join.name), frozenset([_place(last)])
        )
        self._dead = DeadWatch(pipeline, self._frames, _place(topics.dead_letters.name), topics.events.name)
        counting = partial(LabelCounting, pipeline)
        self._labels = LabelWatch(
            OutcomeCodec(pipeline), self._frames, _place(topics.learning.outcomes.name), counting
        )
        references = _References(pipeline, ModelStore(models))
        watch = partial(DriftWatch, pipeline, watched_columns(pipeline), references)
        self._alerts = AlertWatch(pipeline, self._frames, 1, watch)
        self._offset = 0

    def watch(self, topic: str, records: Sequence[ListedRecord]) -> None:
        """As the driver shows what came out."""
        counting = self._counting.get(topic)
        if counting is None:
            return
        for record in records:
            self._count(counting.take(record))
        self._count(counting.rest())

    @property
    def _counting(self) -> Mapping[str, SliceWatch | DeadWatch | LabelWatch]:
        return {"hop-join": self._served, "dead-letters": self._dead, "outcomes": self._labels}

    def _count(self, messages: Sequence[Outgoing]) -> None:
        """As `drift-slices` is written and read."""
        for message in messages:
            record = ListedRecord(self._offset, 0, message.key, message.value, message.headers)
            self._offset += 1
            self._keep(record)
            self.alerts += [placed.alert for placed in self._alerts.take(record)]

    def _keep(self, record: ListedRecord) -> None:
        one = self._frames.read(record)
        if one is not None and one.kind == "labels":
            self.reports.append(read_report(one.value))
        elif one is not None and one.kind == "slice" and one.pieces == 1:
            self.slices.append(read_slice(one.value))


class _References:
    """What champions were trained on."""

    def __init__(self, pipeline: Pipeline, models: ModelStore) -> None:
        self._pipeline, self._models = pipeline.name, models
        self._columns = watched_columns(pipeline)

    def __call__(self, version: str) -> Reference | None:
        data = self._models.reference(self._pipeline, version)
        return None if data is None else Reference.decoded(data, self._columns)


def _topics(pipeline: Pipeline) -> PipelineTopics:
    entities = [plan.entity for plan in stage_plans(pipeline.feature_set)]
    return pipeline_topics(pipeline.name, entities, Settings(partitions=1), learns=True)


def _place(topic: str) -> str:
    return f"{topic}@{IDENTITY}/0"
