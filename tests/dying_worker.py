"""Workers that end themselves by SIGKILL at a named point of the batch protocol, with batches in flight.

Run as a script this file imports all that a worker needs, and forks one worker after another, as it is told to on stdin:
that spares each of them some seconds of CPU. They are workers like any other, except that each delivery takes a little
longer, so that batches overlap, and that they die. Before that they note what was in flight.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from tests.worker_process import Metrics, WorkerProcess

INGEST, LEARNER = "ingest", "learner"
OF_TOPIC = {"events": INGEST, "outcomes": LEARNER}  # stages that have not the name of their topic

# The points at which a worker can die, in the order of the steps. "in deliver": some of the messages are published, the
# others are not. "unacknowledged": all were handed over, and nobody knows which of them the broker has. "in claim" and
# "in commit": Redis has done it, and the worker does not know.
INGEST_POINTS = ("before take", "after decode", "in deliver", "unacknowledged", "after deliver", "after ack")
ENTITY_POINTS = (
    "before take",
    "after decode",
    "in claim",
    "after claim",
    "after compute",
    "after score",
    "in deliver",
    "unacknowledged",
    "after deliver",
    "in commit",
    "after commit",
    "after ack",
)

# How many batches of the partition are in flight when it dies: while one is finished (steps 6 and 7) the next has begun;
# before and after that the other one alone. A worker goes on until it is so.
TWO_IN_FLIGHT = ("in deliver", "unacknowledged", "after deliver", "in commit")

# Seconds that a delivery takes longer, before it and after it: some times what the next batch takes to begin.
SLOWED_S = 0.03

NOTE = "note.json"


# Where a worker dies with the first batch that it can: one that the worker before it had in flight. Elsewhere it has
# finished some batches of the partition before that, so that it dies with batches of its own; and it has answered an event
# under the versions of now, so that every model in force has answered something, however quick the machine.
AT_ONCE = ("in claim", "after compute", "in commit")
FINISHED_BEFORE = 3


@dataclass(frozen=True)
class Death:
    """Where a worker dies: at `point` of `stage`. `stops`: it stands still there (SIGSTOP) until somebody wakes it."""

    stage: str
    point: str
    stops: bool = False

    @property
    def finished_before(self) -> int:
        """Batches that it finishes first: of the partition, or of the whole stage where that is ingest."""
        return 0 if self.point in AT_ONCE else FINISHED_BEFORE


class DyingWorkers(WorkerProcess):
    """One worker after another: each works from `begin` until it has died."""

    program: ClassVar[Path] = Path(__file__)

    def begin(self, death: Death) -> None:
        """Another worker begins."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(death)).encode() + b"\n")
        self.process.stdin.flush()

    def exit_code(self, within_s: float) -> int | None:
        """The exit code of the worker when it has ended within so many seconds."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], within_s)[0]:
            return None
        line = self.process.stdout.readline()
        assert line, f"what forks the workers has ended:\n{self.stderr}"
        return int(line)

    @property
    def note(self) -> dict[str, Any]:
        """What the one that died last wrote before it did."""
        return dict(json.loads((self.folder / NOTE).read_text()))

    def metrics_of_last(self) -> Metrics:
        """The metrics of the worker that began last."""
        [*_, said] = [line for line in self.stderr.splitlines() if line.startswith('{"pipeline"')]
        self.said = json.loads(said)
        return self.metrics()


class Scene:
    """Knows what is worked on, and ends the process when it is what the death asks for."""

    def __init__(self, death: Death) -> None:
        self.death, self.stopped = death, False
        # None: a task that works on no batch, such as one that says how far a partition is.
        self._at_work: ContextVar[tuple[str, Any] | None] = ContextVar("at_work", default=None)
        self.memories: dict[tuple[str, int], Any] = {}
        self.finished: Counter[object] = Counter()

    def enter(self, stage: str, memory: Any) -> None:
        """This task works on a batch of the stage from here on."""
        self._at_work.set((stage, memory))
        self.reach("before take")

    def awaits(self, point: str) -> bool:
        """Whether this batch, now, is the one to die with."""
        at_work = self._at_work.get()
        return at_work is not None and self.is_it(at_work[0], point, at_work[1])

    def reach(self, point: str) -> None:
        """Die here, if it is here."""
        at_work = self._at_work.get()
        if at_work is not None:
            self.reach_of(*at_work, point)

    def reach_of(self, stage: str, memory: Any, point: str) -> None:
        """The same, of a batch that another task works on."""
        if not self.is_it(stage, point, memory):
            return
        if not self.death.stops:
            self.die(stage, memory)
        self._note(stage, memory)
        self.stopped = True
        os.kill(os.getpid(), signal.SIGSTOP)

    def die(self, stage: str, memory: Any) -> NoReturn:
        """Note what is in flight, and end at once."""
        self._note(stage, memory)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody survives a SIGKILL")

    def _note(self, stage: str, memory: Any) -> None:
        flying = {f"{topic}/{number}": len(one.in_flight) for (topic, number), one in self.memories.items()}
        mine = None if memory is None else len(memory.in_flight)
        note = {"stage": stage, "point": self.death.point, "in_flight": mine, "all_in_flight": flying}
        written = Path(f"{NOTE}.part")
        written.write_text(json.dumps({**note, "pid": os.getpid()}))
        written.rename(NOTE)

    def die_here(self) -> NoReturn:
        """Die in what this task works on."""
        at_work = self._at_work.get()
        assert at_work is not None
        self.die(*at_work)

    def is_it(self, stage: str, point: str, memory: Any) -> bool:
        """Whether this is where it ends, and in the middle of as much as it should be."""
        if self.stopped or (stage, point) != (self.death.stage, self.death.point):
            return False
        if self.finished[_lane(stage, memory)] < self.death.finished_before:
            return False
        if memory is None:  # ingest has no batches that overlap: those of the stages behind it shall
            return any(one.in_flight for one in self.memories.values())
        return len(memory.in_flight) >= (2 if point in TWO_IN_FLIGHT else 1)


class AnsweringScene(Scene):
    """Knows as well whether this worker has answered anything that no other versions were pinned to."""

    def __init__(self, death: Death) -> None:
        super().__init__(death)
        self._own: set[bytes] = set()
        self._answered = False

    def made(self, values: Iterable[bytes]) -> None:
        """These were made under the versions in force."""
        self._own.update(values)

    def delivered(self, values: Iterable[bytes]) -> None:
        """The broker has these."""
        self._answered = self._answered or not self._own.isdisjoint(values)

    def is_it(self, stage: str, point: str, memory: Any) -> bool:
        """As in every scene, but not before it has answered."""
        answered = self._answered or not self.death.finished_before
        return answered and super().is_it(stage, point, memory)


def _lane(stage: str, memory: Any) -> object:
    return stage if memory is None else (memory.partition.topic, memory.partition.partition)


def set_the_scene(scene: Scene) -> None:
    """Put the points of death around the steps of the road, but for what begins and ends a stage."""
    _watch_steps(scene)
    _watch_store(scene)
    _watch_deliveries(scene)
    _watch_acks(scene)


def _watch_stages(scene: Scene) -> None:
    from streams.entity_batch import EntityBatches
    from streams.predict_road import EntityStage, Ingest

    process = Ingest.process

    async def watched_process(stage: Ingest, partition: int, records: Any) -> Any:
        scene.enter(INGEST, None)
        return await process(stage, partition, records)

    watch_stage(scene, EntityStage, EntityBatches)
    replace_methods(Ingest, process=watched_process)


def _watch_answers(scene: AnsweringScene) -> None:
    from streams.prediction import Answers
    from streams.producer import Outgoing, Publisher

    messages, deliver = Answers.messages, Publisher.deliver

    def watched_messages(answers: Answers, frame: Any, upstream: str, versions: str) -> list[Outgoing]:
        made = messages(answers, frame, upstream, versions)
        if versions == answers.versions():
            scene.made(message.value for message in made)
        return made

    async def watched_deliver(publisher: Publisher, outgoing: Sequence[Outgoing]) -> Mapping[Any, int]:
        offsets = await deliver(publisher, outgoing)
        scene.delivered(message.value for message in outgoing)
        return offsets

    replace_methods(Answers, messages=watched_messages)
    replace_methods(Publisher, deliver=watched_deliver)


def watch_stage(scene: Scene, stages: Any, batches: Any) -> None:
    """Know which batch of these stages a task is at, and their memories, which `batches.remember` makes."""
    begin, finish, remember = stages.begin, stages.finish, batches.remember

    async def watched_begin(stage: Any, memory: Any, records: Any) -> Any:
        scene.enter(stage.name, memory)
        return await begin(stage, memory, records)

    async def watched_finish(stage: Any, memory: Any, begun: Any) -> Any:
        scene.enter(stage.name, memory)
        return await finish(stage, memory, begun)

    def watched_remember(batches: Any, partition: Any, loaded: Any) -> Any:
        memory = remember(batches, partition, loaded)
        scene.memories[partition.topic, partition.partition] = memory
        return memory

    replace_methods(stages, begin=watched_begin, finish=watched_finish)
    replace_methods(batches, remember=watched_remember)


def _watch_steps(scene: Scene) -> None:
    from streams.metrics import StepTimer

    done = StepTimer.done

    def watched(timer: StepTimer, step: str) -> None:
        done(timer, step)
        scene.reach(f"after {step}")

    replace_methods(StepTimer, done=watched)


def _watch_store(scene: Scene) -> None:
    from features.redis_store import RedisStore

    def after(call: Callable[..., Awaitable[Any]], point: str) -> Callable[..., Awaitable[Any]]:
        async def watched(store: RedisStore, asked: Any) -> Any:
            answer = await call(store, asked)
            scene.reach(point)
            return answer

        return watched

    replace_methods(
        RedisStore, claim=after(RedisStore.claim, "in claim"), commit=after(RedisStore.commit, "in commit")
    )


def _watch_deliveries(scene: Scene) -> None:
    from streams.producer import Outgoing, Publisher

    deliver = Publisher.deliver

    async def watched(publisher: Publisher, messages: Sequence[Outgoing]) -> Mapping[Any, int]:
        await asyncio.sleep(SLOWED_S)
        if len(messages) > 1 and scene.awaits("in deliver"):
            await deliver(publisher, messages[: len(messages) // 2])
            scene.die_here()
        if messages and scene.awaits("unacknowledged"):
            task = asyncio.create_task(deliver(publisher, messages))
            await asyncio.sleep(0.001)  # long enough for librdkafka to begin, and no test of anything
            assert task is not None
            scene.die_here()
        offsets = await deliver(publisher, messages)
        await asyncio.sleep(SLOWED_S)
        return offsets

    replace_methods(Publisher, deliver=watched)


def _watch_acks(scene: Scene) -> None:
    from streams.mailbox import Piece
    from streams.worker import Worker

    ended = Worker._ended

    def watched(worker: Worker, piece: Piece, in_flight: int) -> None:
        ended(worker, piece, in_flight)
        kind = piece.partition[0].partition(".")[2]
        stage = OF_TOPIC.get(kind, kind.removeprefix("hop-"))
        memory = scene.memories.get(piece.partition)
        scene.reach_of(stage, memory, "after ack")
        scene.finished[_lane(stage, memory)] += 1

    replace_methods(Worker, _ended=watched)


def replace_methods(owner: type, **methods: object) -> None:
    """Put these in place of the methods of their names."""
    for name, method in methods.items():
        assert hasattr(owner, name), (
            f"{owner.__name__} has no {name}: the points of death have to move with the code"
        )
        setattr(owner, name, method)


def main() -> None:
    """Be what forks the workers of the predict road."""
    from tests import worker_process

    def scene(death: Death) -> None:
        made = AnsweringScene(death)
        _watch_answers(made)
        _watch_stages(made)
        set_the_scene(made)

    fork_workers(scene, worker_process.main)


def fork_workers(scene: Callable[[Death], None], work: Callable[[], None]) -> None:
    """Fork workers that die, one after another: a line of stdin for each, and a line of stdout with its exit code.

    Each sets its `scene` and begins to `work`.
    """
    # Imported before the first fork, with all that they take.
    import faust  # noqa: F401

    import streams.run
    from models.loading import load_pipeline

    streams.run.warm_up(load_pipeline(sys.argv[1]))
    # Workers say that they have started on stdout: that is nobody's business here.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            # It ends when its stdin closes: when it dies, or when this process does.
            os.dup2(ours, 0)
            os.close(theirs)
            _be_a_worker(partial(scene, Death(**json.loads(line))), work)
        os.close(ours)
        _, status = os.waitpid(child, 0)
        os.close(theirs)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _be_a_worker(*steps: Callable[[], None]) -> NoReturn:
    try:
        for step in steps:
            step()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:  # noqa: BLE001  # the process must not go on as the one that forked it
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
