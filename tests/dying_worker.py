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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from tests.worker_process import WorkerProcess

INGEST = "ingest"

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
# finished some batches of the partition before that, so that it dies with batches of its own.
AT_ONCE = ("in claim", "after compute", "in commit")
FINISHED_BEFORE = 3


@dataclass(frozen=True)
class Death:
    """Where a worker dies: at `point` of `stage`."""

    stage: str
    point: str

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


class _Scene:
    """Knows what is worked on, and ends the process when it is what the death asks for."""

    def __init__(self, death: Death) -> None:
        self._death = death
        self._at_work: ContextVar[tuple[str, Any]] = ContextVar("at_work")
        self.memories: dict[tuple[str, int], Any] = {}
        self.finished: Counter[object] = Counter()

    def enter(self, stage: str, memory: Any) -> None:
        """This task works on a batch of the stage from here on."""
        self._at_work.set((stage, memory))
        self.reach("before take")

    def awaits(self, point: str) -> bool:
        """Whether this batch, now, is the one to die with."""
        stage, memory = self._at_work.get()
        return self._is_it(stage, point, memory)

    def reach(self, point: str) -> None:
        """Die here, if it is here."""
        self.reach_of(*self._at_work.get(), point)

    def reach_of(self, stage: str, memory: Any, point: str) -> None:
        """The same, of a batch that another task works on."""
        if self._is_it(stage, point, memory):
            self.die(stage, memory)

    def die(self, stage: str, memory: Any) -> NoReturn:
        """Note what is in flight, and end at once."""
        flying = {f"{topic}/{number}": len(one.in_flight) for (topic, number), one in self.memories.items()}
        mine = None if memory is None else len(memory.in_flight)
        note = {"stage": stage, "point": self._death.point, "in_flight": mine, "all_in_flight": flying}
        Path(NOTE).write_text(json.dumps(note))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody survives a SIGKILL")

    def die_here(self) -> NoReturn:
        """Die in what this task works on."""
        self.die(*self._at_work.get())

    def _is_it(self, stage: str, point: str, memory: Any) -> bool:
        if (stage, point) != (self._death.stage, self._death.point):
            return False
        if self.finished[_lane(stage, memory)] < self._death.finished_before:
            return False
        if memory is None:  # ingest has no batches that overlap: those of the stages behind it shall
            return any(one.in_flight for one in self.memories.values())
        return len(memory.in_flight) >= (2 if point in TWO_IN_FLIGHT else 1)


def _lane(stage: str, memory: Any) -> object:
    return stage if memory is None else (memory.partition.topic, memory.partition.partition)


def _set_the_scene(scene: _Scene) -> None:
    """Put the points of death around the steps of the road."""
    _watch_stages(scene)
    _watch_steps(scene)
    _watch_store(scene)
    _watch_deliveries(scene)
    _watch_acks(scene)


def _watch_stages(scene: _Scene) -> None:
    from streams.entity_batch import EntityBatches
    from streams.predict_road import EntityStage, Ingest

    begin, finish, process = EntityStage.begin, EntityStage.finish, Ingest.process
    remember = EntityBatches.remember

    async def watched_begin(stage: EntityStage, memory: Any, records: Any) -> Any:
        scene.enter(stage.name, memory)
        return await begin(stage, memory, records)

    async def watched_finish(stage: EntityStage, memory: Any, begun: Any) -> Any:
        scene.enter(stage.name, memory)
        return await finish(stage, memory, begun)

    async def watched_process(stage: Ingest, partition: int, records: Any) -> Any:
        scene.enter(INGEST, None)
        return await process(stage, partition, records)

    def watched_remember(batches: EntityBatches, partition: Any, loaded: Any) -> Any:
        memory = remember(batches, partition, loaded)
        scene.memories[partition.topic, partition.partition] = memory
        return memory

    _replace(EntityStage, begin=watched_begin, finish=watched_finish)
    _replace(Ingest, process=watched_process)
    _replace(EntityBatches, remember=watched_remember)


def _watch_steps(scene: _Scene) -> None:
    from streams.metrics import StepTimer

    done = StepTimer.done

    def watched(timer: StepTimer, step: str) -> None:
        done(timer, step)
        scene.reach(f"after {step}")

    _replace(StepTimer, done=watched)


def _watch_store(scene: _Scene) -> None:
    from features.redis_store import RedisStore

    def after(call: Callable[..., Awaitable[Any]], point: str) -> Callable[..., Awaitable[Any]]:
        async def watched(store: RedisStore, asked: Any) -> Any:
            answer = await call(store, asked)
            scene.reach(point)
            return answer

        return watched

    _replace(
        RedisStore, claim=after(RedisStore.claim, "in claim"), commit=after(RedisStore.commit, "in commit")
    )


def _watch_deliveries(scene: _Scene) -> None:
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

    _replace(Publisher, deliver=watched)


def _watch_acks(scene: _Scene) -> None:
    from streams.mailbox import Piece
    from streams.worker import Worker

    ended = Worker._ended

    def watched(worker: Worker, piece: Piece, in_flight: int) -> None:
        ended(worker, piece, in_flight)
        kind = piece.partition[0].partition(".")[2]
        stage = INGEST if kind == "events" else kind.removeprefix("hop-")
        memory = scene.memories.get(piece.partition)
        scene.reach_of(stage, memory, "after ack")
        scene.finished[_lane(stage, memory)] += 1

    _replace(Worker, _ended=watched)


def _replace(owner: type, **methods: object) -> None:
    for name, method in methods.items():
        assert hasattr(owner, name), (
            f"{owner.__name__} has no {name}: the points of death have to move with the code"
        )
        setattr(owner, name, method)


def main() -> None:
    """Fork workers that die, one after another: a line of stdin for each, and a line of stdout with its exit code."""
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
            _be_a_worker(Death(**json.loads(line)))
        os.close(ours)
        _, status = os.waitpid(child, 0)
        os.close(theirs)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _be_a_worker(death: Death) -> NoReturn:
    from tests import worker_process

    _set_the_scene(_Scene(death))
    try:
        worker_process.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:  # noqa: BLE001  # the process must not go on as the one that forked it
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    main()
