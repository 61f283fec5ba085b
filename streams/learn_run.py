"""The process of the learn road: labels and actions come in, meet what was served, and are learnt.

    labels, actions ─> LabelIngest ─> hop-join ─> JoinStage ─> outcomes ─> LearnStage ─> snapshots in Redis

One consumer group, `<pipeline>.learn`: several processes share the partitions of labels, actions and hop-join; outcomes
has one partition, so one of them owns the learners, and another takes over when it ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from models.learning import Learning
from models.model_store import ModelStore
from models.pipeline import Pipeline
from models.snapshot import WARM_START
from streams.assembly import dead_letter_writer
from streams.batch import Partition
from streams.entity_batch import stage_plans
from streams.figures import learner_figures
from streams.foundation import Foundation, shared_key
from streams.join_assembly import JoinGround, join_stage, label_sources
from streams.learner import LearnStage
from streams.learner_states import Sealing
from streams.metrics import Now
from streams.outcomes import OutcomeCodec
from streams.run import Crew, Started, run_process
from streams.served_rows import Archive
from streams.settings import Settings
from streams.snapshot_copies import SnapshotCopies
from streams.topic_log import TopicLog
from streams.topics import learn_group
from streams.worker import Stages, Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PipelineLearners:
    """Makes the learners that a pipeline declares. `models` has those that were taught with a model; `afresh` leaves them."""

    pipeline: Pipeline
    models: ModelStore
    sealing: Sealing
    afresh: bool = False

    def new(self) -> Learning:
        """Learners as they were taught with the champion of this moment; else such as have seen nothing.

        Raises `SnapshotError` for bytes beside the champion that are not ours.
        """
        name = self.pipeline.name
        champion = None if self.afresh else self.models.champion(name)
        data = None if champion is None else self.models.learners(name, champion)
        if data is None:
            return Learning(self.pipeline)
        log.info("the learners begin with what they were taught with model %s", champion)
        return Learning.restore(self.pipeline, self.sealing.opened(WARM_START, data))

    def restored(self, state: bytes) -> Learning:
        """Learners as they were when they gave this state."""
        return Learning.restore(self.pipeline, state)


def run_learner(
    pipeline: Pipeline,
    settings: Settings,
    started: Callable[[Started], None] = lambda _: None,
    *,
    afresh: bool = False,
    archive: Archive | None = None,
) -> None:
    """Run the learn road of a pipeline until SIGTERM or SIGINT, then stop gracefully; as `streams.run.run_worker`.

    `afresh`: where the newest snapshot cannot be used (another pipeline version, another key), go on behind it with
    learners that have seen nothing. `archive` keeps what is too old for the ledger. Raises `DeveloperError` for a pipeline
    that does not learn.
    """

    async def role(ground: Foundation, down: AsyncExitStack) -> Crew:
        return learning_crew(ground, afresh=afresh, archive=archive)

    run_process(pipeline, settings, role, started)


def learning_crew(ground: Foundation, *, afresh: bool, archive: Archive | None = None) -> Crew:
    """The learn road: the sources, the join, and the learner."""
    pipeline, topics = ground.pipeline, ground.topics
    learning = topics.learning
    joined = JoinGround(
        *(pipeline, ground.settings, topics, ground.identities, ground.store),
        *(ground.publisher, ground.metrics, archive),
    )
    stages = Stages(
        pipeline.name,
        label_sources(joined),
        {
            learning.hop_join.name: join_stage(joined),
            learning.outcomes.name: learn_stage(ground, afresh=afresh),
        },
        ground.identities,
    )

    def figures(worker: Worker) -> Sequence[Now]:
        return learner_figures(worker.memories, time.monotonic)

    return Crew(learn_group(pipeline.name), stages, (), figures, lambda: "")


def learn_stage(ground: Foundation, *, afresh: bool) -> LearnStage:
    """The learner, which reads outcomes."""
    pipeline = ground.pipeline
    outcomes = ground.topics.learning.outcomes.name
    sealing = Sealing(pipeline.feature_set.hash, shared_key(ground.settings))
    models = ModelStore(ground.settings.models_dir)
    return LearnStage(
        PipelineLearners(pipeline, models, sealing, afresh),
        OutcomeCodec(pipeline),
        ground.snapshots,
        sealing,
        dead_letter_writer(pipeline, ground.settings, ground.topics, outcomes),
        ground.publisher,
        ground.metrics,
        afresh,
        answering=answering(ground),
        copies=SnapshotCopies(models, sealing),
        oldest=lambda place: TopicLog(ground.settings).bounds(place)[0],
    )


def answering(ground: Foundation) -> list[Partition]:
    """The partitions whose batches are answered by snapshots: those of the last stage."""
    hop = ground.topics.hops[stage_plans(ground.pipeline.feature_set)[-1].entity]
    return [(hop.name, number) for number in range(hop.partitions)]
