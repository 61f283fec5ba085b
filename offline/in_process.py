"""Both roads in one process, without a broker: a state store in memory, topics as lists, and a clock that the records drive.

    one order of all that is sent, by the time at which it comes; at equal times events first

    ──e──e──e──l──l──e──l──e──e──>        e event (a question)    l label or action (an answer)
      └─slice──────┘└─slice─┘             in a slice the questions are asked first, then the answers are learnt

    of each slice:   1 events ─> Ingest ─> entity stages ─> predictions         by the snapshot in service
                     2 labels ─> LabelIngest ─> JoinStage ─> outcomes ─> LearnStage;  label rows ─> entity stages
                     3 a snapshot is published, and in service for the next slice

It is for evaluation and for tests of order: what is measured here ran through the very objects that workers run, and two
runs over the same records are equal to the bit. Nothing reads the wall clock: records are stamped with the time at which
they come. An answer never helps a question that was asked at its time or before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from features.memory_store import MemoryStore
from features.snapshot_store import MemorySnapshots
from features.store import PartitionId, Refused, StateStore
from models.learning import Learning
from models.model_store import ModelStore
from models.pipeline import Pipeline
from offline.one_order import Feed, Sent, Slice, slices
from offline.topic_lists import ListedRecord, TopicLists
from streams.answering import AnsweringStage
from streams.assembly import Ground, assemble, dead_letter_writer
from streams.batch import Partition
from streams.entity_batch import stage_plans
from streams.join_assembly import JoinGround, join_stage, label_sources
from streams.learner import LearnMemory, LearnStage
from streams.learner_states import Sealing
from streams.metrics import Metrics
from streams.outcomes import OutcomeCodec
from streams.producer import partition_of
from streams.served_rows import Archive
from streams.serving import Serving
from streams.settings import Settings
from streams.snapshot_watch import SnapshotFeed
from streams.stage import Source, Stage, TickingSource, TickingStage
from streams.topics import PipelineTopics, pipeline_topics

# Nobody else reads these snapshots, so their signature keeps nobody out.
KEY = b"of one process, for itself alone"

# Snapshots are published when this driver says so, and not by a clock.
NEVER_S = 1e9


Watch = Callable[[str, Sequence[ListedRecord]], None]
"""Shown what the roads published: the topic without prefix (`predictions`, `dead-letters`, `hop-join` or `outcomes`) and
records."""


@dataclass
class Clock:
    """The time of the newest slice."""

    now_us: int = 0

    def now_ms(self) -> int:
        """In milliseconds, rounded up: a record is never stamped before the time that it tells."""
        return -(-self.now_us // 1_000)


class _Unrestored:
    """Learning as the learner's stage drives it, but for what only a restart needs: nobody restores these snapshots, and
    a state a slice would cost more than all else."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.learning = Learning(pipeline)
        self.step, self.scoring = self.learning.step, self.learning.scoring
        self.label_feed = self.learning.label_feed
        self.freeze, self.reset = self.learning.freeze, self.learning.reset
        self.restore_learner = self.learning.restore_learner

    def state(self) -> bytes:
        return b""

    @property
    def taught(self) -> bool:
        return self.learning.taught

    def figures(self) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class _Learners:
    """Learners that have seen nothing: what this driver is shown is all that they learn."""

    pipeline: Pipeline

    def new(self) -> _Unrestored:
        return _Unrestored(self.pipeline)

    def restored(self, state: bytes) -> _Unrestored:
        raise NotImplementedError("a driver in one process restores nothing")


class InProcess:
    """One pipeline's roads, driven slice by slice.

    `models` is the folder of the model store; `await look()` after a promotion. `watch` is shown what comes out, which is
    kept nowhere. `mode` is the serve mode. `ticks_us` is how often the stages say how far they are, which is what time-outs
    wait for. `seconds` is the clock by which the steps of the stages are timed, in `metrics`. Memory: the state of all
    entities (or that of another `store`), and of the events that wait for their labels.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        models: Path,
        watch: Watch,
        *,
        settings: Settings | None = None,
        archive: Archive | None = None,
        store: StateStore | None = None,
        ticks_us: int = 60_000_000,
        seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.pipeline, self.mode, self._watch, self._ticks_us = pipeline, "blend", watch, ticks_us
        chosen = settings or Settings(partitions=1)
        entities = [plan.entity for plan in stage_plans(pipeline.feature_set)]
        self.topics = pipeline_topics(pipeline.name, entities, chosen, learns=pipeline.learns)
        self.clock, self._ticked_us = Clock(), 0
        self.lists = TopicLists(self.clock.now_ms)
        self.metrics = Metrics(CollectorRegistry(), clock=seconds, now_ms=self.clock.now_ms)
        self.snapshots = MemorySnapshots()
        feed = SnapshotFeed(self.snapshots, KEY, lambda: self.mode) if pipeline.learns else None
        self.serving = Serving(pipeline, ModelStore(models), feed)
        store = store or MemoryStore(chosen.repeat_ids_per_bucket)
        self._sources, self._stages = self._assembled(chosen, store, archive)
        self._memories: dict[Partition, Any] = {}
        self._shown = _shown(self.topics)

    @property
    def learning(self) -> Learning:
        """All that learns, as it stands now: its `figures()`."""
        learner = self._learner.batches.learner
        assert isinstance(learner, _Unrestored)
        return learner.learning

    async def open(self) -> None:
        """Take every partition over, as a worker does when it joins its group, and find the champion."""
        for topic, stage in self._stages.items():
            for number in range(self._partitions(topic)):
                place = PartitionId(self.pipeline.name, topic, number, "memory")
                self._memories[topic, number] = await stage.open(place)
        if self.pipeline.learns:
            self._learner.began_s = 0.0  # no snapshot of its own accord, not even the first
        await self.look()

    async def look(self) -> None:
        """Put the champion of the model store and the newest snapshot into service."""
        await self.serving.look()

    async def run(self, sent: Iterable[Sent], span_us: int = 0) -> None:
        """Drive all of one order through both roads; `span_us` as in `slices`."""
        for one in slices(sent, span_us):
            await self.step(one)

    async def step(self, one: Slice) -> None:
        """One slice, as the module says."""
        self.clock.now_us = max(self.clock.now_us, one.end_us)
        self._append(one.events)
        await self._drain()  # 1
        self._append(one.answers)
        await self._tick()
        await self._drain()  # 2
        await self.publish()  # 3

    async def publish(self) -> None:
        """A snapshot of what was learnt, in service when this returns."""
        if self.pipeline.learns:
            stage = self._stages[self.topics.learning.outcomes.name]
            assert isinstance(stage, LearnStage)
            await stage.published(self._learner)
            await self.serving.refresh()

    # ---- one slice

    def _append(self, sent: Sequence[Sent]) -> None:
        topics = _fed(self.topics)
        for one in sent:
            topic = topics[one.feed]
            number = partition_of(one.value if one.key is None else one.key, self._partitions(topic))
            self.lists.append((topic, number), -(-one.at_us // 1_000), one.key, one.value)

    async def _drain(self) -> None:
        """Until nothing waits. Stages stand in the order of the road, so what one makes the next finds."""
        while waiting := self.lists.waiting():
            for topic in dict.fromkeys((*self._sources, *self._stages, *(topic for topic, _ in waiting))):
                for number in range(self._partitions(topic)):
                    await self._advance((topic, number))

    async def _advance(self, place: Partition) -> None:
        records = self.lists.take(place)
        topic, number = place
        if records and topic in self._shown:
            self._watch(self._shown[topic], records)
        while records and topic in self._stages:
            done = await self._stages[topic].process(self._memories[place], records)
            assert not isinstance(done, Refused), "nobody else is here"
            records = [record for record in records if record.offset > done]
        if records and topic in self._sources:
            await self._sources[topic].process(number, records)

    async def _tick(self) -> None:
        """Say how far everything is, unless that was said just now."""
        if self.clock.now_us < self._ticked_us + self._ticks_us:
            return
        self._ticked_us = self.clock.now_us
        for topic, source in self._sources.items():
            if isinstance(source, TickingSource):
                for number in range(self._partitions(topic)):
                    await source.tick(number, idle=(topic, number) not in self.lists.waiting())
        for place, memory in self._memories.items():
            stage = self._stages[place[0]]
            if isinstance(stage, TickingStage):
                await stage.tick(memory, idle=True)

    # ---- what is driven

    def _assembled(
        self, settings: Settings, store: StateStore, archive: Archive | None
    ) -> tuple[dict[str, Source], dict[str, Stage]]:
        """The sources and the stages by topic, in the order of the roads."""
        identities = {topic.name: "memory" for topic in self.topics}
        ground = (self.pipeline, settings, self.topics, identities, store)
        predict = assemble(Ground(*ground, self.serving, self.lists, self.metrics))
        stages = {topic: self._by_our_clock(stage) for topic, stage in predict.entities.items()}
        sources: dict[str, Source] = dict(predict.ingest)
        if self.pipeline.learns:
            joined = JoinGround(*ground, self.lists, self.metrics, archive, self.clock.now_ms)
            sources |= label_sources(joined)
            stages[self.topics.learning.hop_join.name] = join_stage(joined)
            stages[self.topics.learning.outcomes.name] = self._learn_stage(settings)
        return sources, stages

    def _by_our_clock(self, stage: Stage) -> Stage:
        return replace(stage, now_ms=self.clock.now_ms) if isinstance(stage, AnsweringStage) else stage

    def _learn_stage(self, settings: Settings) -> LearnStage:
        pipeline, outcomes = self.pipeline, self.topics.learning.outcomes.name
        return LearnStage(
            _Learners(pipeline),
            OutcomeCodec(pipeline),
            self.snapshots,
            Sealing(pipeline.feature_set.hash, KEY),
            dead_letter_writer(pipeline, settings, self.topics, outcomes),
            self.lists,
            self.metrics,
            clock=lambda: 0.0,
            now_ms=self.clock.now_ms,
            publish_every_s=NEVER_S,
        )

    @property
    def _learner(self) -> LearnMemory:
        memory = self._memories[self.topics.learning.outcomes.name, 0]
        assert isinstance(memory, LearnMemory)
        return memory

    def _partitions(self, topic: str) -> int:
        return next(one.partitions for one in self.topics if one.name == topic)


def _fed(topics: PipelineTopics) -> dict[Feed, str]:
    """Where each feed goes."""
    learn = topics.learn
    answers: dict[Feed, str] = (
        {} if learn is None else {"labels": learn.labels.name, "actions": learn.actions.name}
    )
    return {"events": topics.events.name, **answers}


def _shown(topics: PipelineTopics) -> dict[str, str]:
    """What `watch` is shown, by topic: a name without the pipeline's."""
    shown = {topics.predictions.name: "predictions", topics.dead_letters.name: "dead-letters"}
    if topics.learn is not None:
        shown[topics.learn.hop_join.name] = "hop-join"
        shown[topics.learn.outcomes.name] = "outcomes"
    return shown
