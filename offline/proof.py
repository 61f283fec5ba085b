"""Up to which record each partition of each stage is proven, and how what comes behind it is pinned.

One pass over every hop topic, and one over `predictions` where something of the last stage is not proven by the committed
offsets. `offline/proven_outputs.py` has the rule.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.pipeline import Pipeline
from offline.hop_survey import Logs, Reach, Survey, Surveyor, reached
from offline.id_holders import IdHolders
from offline.proven_outputs import TailRecord, last_proven, pins, reach_of_predictions
from streams.assembly import hop_to
from streams.batch import Partition
from streams.entity_batch import stage_plans
from streams.frames import Frame, FrameCodec
from streams.headers import FRAME, POSITION, UPSTREAM, header
from streams.label_frames import LabelFrameCodec
from streams.prediction import position_text
from streams.producer import partitions_of
from streams.served import ServedCodec
from streams.topics import PipelineTopics
from streams.versions import CHAMPION, NO_SNAPSHOT, versions_text


@dataclass
class ProvenStage:
    """By partition: `proven`, the last record that is, and `pins`, (last record, versions) of stretches behind it."""

    survey: Survey
    proven: list[int] = field(default_factory=list)
    pins: list[list[tuple[int, str]]] = field(default_factory=list)


@dataclass(frozen=True)
class Proof:
    """Looks through the topics. `holders` hears of the events whose ids count; `told` what is read, and how many records."""

    pipeline: Pipeline
    topics: PipelineTopics
    identities: Mapping[str, str]
    logs: Logs
    committed: Mapping[Partition, int]
    holders: IdHolders
    told: Callable[[str, int], None]

    def stages(self) -> list[ProvenStage]:
        """The stages, in order. Raises as `Surveyor.survey`."""
        stages: list[ProvenStage] = []
        for number, plan in enumerate(stage_plans(self.pipeline.feature_set)):
            survey = self._survey(number, plan.entity, reach=bool(stages) and stages[-1].survey.has_tail)
            if stages:
                self._prove_by_frames(stages[-1], survey)
            stages.append(ProvenStage(survey))
        self._prove_by_predictions(stages[-1], only_stage=len(stages) == 1)
        return stages

    def _survey(self, number: int, entity: str, *, reach: bool) -> Survey:
        topic = self.topics.hops[entity]
        plan = stage_plans(self.pipeline.feature_set)[number]
        return Surveyor(
            self.logs, self.committed, lambda records: self.told(f"looking through {topic.name}", records)
        ).survey(
            topic.name,
            topic.partitions,
            FrameCodec(self.pipeline.feature_set, number),
            self._tail_record(number),
            self.holders.of_output if reach else None,
            LabelFrameCodec(plan).version if plan.label_inputs else None,
        )

    def _tail_record(self, number: int) -> Callable[[int, Frame], TailRecord]:
        if number + 1 < len(stage_plans(self.pipeline.feature_set)):
            hop = hop_to(self.pipeline, self.topics, number + 1)

            def sent_on(offset: int, frame: Frame) -> TailRecord:
                if number == 0:
                    self.holders.of_tail(frame)
                return TailRecord(offset, hop.targets(frame))

            return sent_on
        partitions, events = self.topics.predictions.partitions, self.topics.events.name

        def answered(offset: int, frame: Frame) -> TailRecord:
            if number == 0:
                self.holders.of_tail(frame)
            names = frame.rows.event_ids.to_pylist()
            targets = partitions_of(names, partitions)
            places = (frame.origin_topics, frame.origin_partitions, frame.origin_offsets)
            origins = zip(*(numbers.tolist() for numbers in places), strict=True)
            return TailRecord(offset, targets, [position_text(events, *origin) for origin in origins])

        return answered

    def _prove_by_frames(self, stage: ProvenStage, downstream: Survey) -> None:
        for survey in stage.survey.partitions:
            topic, number = survey.place
            reach = downstream.reach.get(f"{topic}@{self.identities[topic]}/{number}", {})
            stage.proven.append(last_proven(survey.tail, reach, survey.proven_before))
            stage.pins.append([])

    def _prove_by_predictions(self, stage: ProvenStage, *, only_stage: bool) -> None:
        standing = self._standing(stage.survey, only_stage=only_stage) if stage.survey.has_tail else {}
        served = self._served() if stage.survey.has_tail and self.topics.learn is not None else None
        for survey in stage.survey.partitions:
            reach = reach_of_predictions(survey.tail, standing)
            proven = last_proven(survey.tail, reach, survey.proven_before)
            if served is not None:
                topic, number = survey.place
                joined = served.get(f"{topic}@{self.identities[topic]}/{number}", {})
                proven = min(proven, last_proven(survey.tail, joined, survey.proven_before))
            stage.proven.append(proven)
            stage.pins.append(pins(survey.tail, standing, stage.proven[-1]))

    def _served(self) -> Reach:
        """How far what was served stands on hop-join: its rows are bound for the partitions that predictions are bound for."""
        topic, codec = self.topics.learning.hop_join, ServedCodec(self.pipeline)
        found: Reach = {}
        for number in range(topic.partitions):
            place = (topic.name, number)
            for records in self.logs.read(place, *self.logs.bounds(place)):
                self.told(f"looking through {topic.name}", len(records))
                for record in records:
                    if header(record, FRAME) == codec.version:
                        frame = codec.decode(record.value or b"").frame
                        reached(found, number, header(record, UPSTREAM), frame)
        return found

    def _standing(self, survey: Survey, *, only_stage: bool) -> dict[str, str]:
        """By position the versions of those predictions of the tails that stand; of copies the first."""
        wanted = {
            event for partition in survey.partitions for record in partition.tail for event in record.events
        }
        found: dict[str, str] = {}
        topic = self.topics.predictions
        for number in range(topic.partitions):
            place = (topic.name, number)
            for records in self.logs.read(place, *self.logs.bounds(place)):
                self.told(f"looking through {topic.name}", len(records))
                for record in records:
                    event = (header(record, POSITION) or b"").decode()
                    if only_stage:
                        self.holders.of_prediction(record.key, record.value or b"")
                    if event in wanted and event not in found:
                        found[event] = _versions(record.value or b"")
        return found


def _versions(value: bytes) -> str:
    prediction: dict[str, Any] = json.loads(value)
    champion = next(iter(prediction["parts"].values()))  # stands first
    snapshot = prediction.get("snapshot")
    return versions_text(
        champion["version"],
        prediction["pipeline_version"],
        prediction.get("mode", CHAMPION),
        NO_SNAPSHOT if snapshot is None else snapshot,
    )
