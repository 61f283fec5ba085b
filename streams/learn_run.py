"""The process of the learn road: labels and actions come in, meet what was served, and are learnt.

    labels, actions ─> LabelIngest ─> hop-join ─> JoinStage ─> outcomes ─> LearnStage ─> snapshots in Redis

One consumer group, `<pipeline>.learn`: several processes share the partitions of labels, actions and hop-join; outcomes
has one partition, so one of them owns the learners, and another takes over when it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from models.learning import Learning
from models.pipeline import Pipeline
from streams.assembly import dead_letter_writer
from streams.figures import learner_figures
from streams.foundation import Foundation, shared_key
from streams.join_assembly import JoinGround, join_stage, label_sources
from streams.learner import LearnStage, Sealing
from streams.metrics import Now
from streams.outcomes import OutcomeCodec
from streams.run import Crew, Started, run_process
from streams.served_rows import Archive
from streams.settings import Settings
from streams.topics import learn_group
from streams.worker import Stages, Worker


@dataclass(frozen=True)
class PipelineLearners:
    """Makes the learners that a pipeline declares."""

    pipeline: Pipeline

    def new(self) -> Learning:
        """Learners that have seen nothing."""
        return Learning(self.pipeline)

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
    return LearnStage(
        PipelineLearners(pipeline),
        OutcomeCodec(pipeline),
        ground.snapshots,
        Sealing(pipeline.feature_set.hash, shared_key(ground.settings)),
        dead_letter_writer(pipeline, ground.settings, ground.topics, outcomes),
        ground.publisher,
        ground.metrics,
        afresh,
    )
