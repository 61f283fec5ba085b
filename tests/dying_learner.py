"""Processes of the learn road that end themselves by SIGKILL at a named point: of the join, of the learner, or of a source.

As `tests/dying_worker.py` has the workers of the predict road. One that `stops` instead stands still at its point, and
goes on when it is woken: a zombie, if another has taken its partitions over meanwhile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tests.dying_worker import (
    LEARNER,
    Death,
    DyingWorkers,
    Scene,
    fork_workers,
    replace_methods,
    set_the_scene,
    watch_stage,
)

JOIN, LABELS = "join", "labels"

# As for the stages of entities; "settle" and "write" are steps of the join alone.
JOIN_POINTS = (
    "before take",
    "after decode",
    "in claim",
    "after claim",
    "after settle",
    "after write",
    "in deliver",
    "unacknowledged",
    "after deliver",
    "in commit",
    "after commit",
    "after ack",
)
# "in seal": the half of a snapshot that scorers load is signed, the learner's own state is not. "in publish": Redis has
# the snapshot, and the learner does not know.
LEARNER_POINTS = ("after step", "in seal", "before publish", "in publish", "after publish", "after ack")
SOURCE_POINTS = ("in deliver", "unacknowledged", "after deliver")

# Snapshots that a learner publishes before it dies, so that it dies with labels that it has learnt itself.
PUBLISHED_BEFORE = 1


class DyingLearners(DyingWorkers):
    """One process of the learn road after another: each works from `begin` until it has died."""

    program: ClassVar[Path] = Path(__file__)


class _LearnScene(Scene):
    """Knows as well how many snapshots this process has published."""

    published = 0

    def is_it(self, stage: str, point: str, memory: Any) -> bool:
        """As in every scene; a learner's points are reached at any time, but not before it has learnt."""
        if stage != LEARNER:
            return super().is_it(stage, point, memory)
        here = (stage, point) == (self.death.stage, self.death.point) and not self.stopped
        return here and self.published >= PUBLISHED_BEFORE


def _set_the_scene(death: Death) -> None:
    from streams.join_stage import JoinBatches
    from streams.learn_road import JoinStage

    scene = _LearnScene(death)
    watch_stage(scene, JoinStage, JoinBatches)
    _watch_sources(scene)
    _watch_learner(scene)
    _watch_snapshots(scene)
    set_the_scene(scene)


def _watch_sources(scene: Scene) -> None:
    from streams.label_ingest import LabelIngest

    process = LabelIngest.process

    async def watched(source: LabelIngest, partition: int, records: Any) -> Any:
        scene.enter(source.feed, None)
        return await process(source, partition, records)

    replace_methods(LabelIngest, process=watched)


def _watch_learner(scene: _LearnScene) -> None:
    from streams.learner import LearnStage
    from streams.learner_states import Sealing

    open_, begin, answered, sealed = LearnStage.open, LearnStage.begin, LearnStage._answered, Sealing.sealed

    async def watched_open(stage: LearnStage, partition: Any) -> Any:
        memory = await open_(stage, partition)
        scene.memories[partition.topic, partition.partition] = memory
        return memory

    async def watched_begin(stage: LearnStage, memory: Any, records: Any) -> Any:
        scene.enter(LEARNER, memory)
        return await begin(stage, memory, records)

    def watched_answered(stage: LearnStage, memory: Any, snapshot: Any, answer: Any) -> None:
        answered(stage, memory, snapshot, answer)
        scene.published += memory.applied == snapshot.version
        scene.reach_of(LEARNER, memory, "after publish")

    def watched_sealed(sealing: Sealing, kind: str, version: int, payload: bytes) -> bytes:
        if kind == "state":
            scene.reach_of(LEARNER, None, "in seal")
        return sealed(sealing, kind, version, payload)

    replace_methods(LearnStage, open=watched_open, begin=watched_begin, _answered=watched_answered)
    replace_methods(Sealing, sealed=watched_sealed)


def _watch_snapshots(scene: Scene) -> None:
    from features.redis_snapshots import RedisSnapshots

    publish = RedisSnapshots.publish

    async def watched(store: RedisSnapshots, snapshot: Any) -> Any:
        scene.reach_of(LEARNER, None, "before publish")
        answer = await publish(store, snapshot)
        scene.reach_of(LEARNER, None, "in publish")
        return answer

    replace_methods(RedisSnapshots, publish=watched)


def main() -> None:
    """Be what forks these processes."""
    import streams.learn_run  # noqa: F401
    from tests import learn_process

    fork_workers(_set_the_scene, learn_process.main)


if __name__ == "__main__":
    main()
