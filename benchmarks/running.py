"""One real worker beside a broker and a Redis of its own: what the benchmarks of the whole road measure.

Beside the worker of a pipeline that learns runs its learner: what was served has a reader then, and snapshots come.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psutil

from benchmarks.printing import say
from benchmarks.servers import LogEnds, Servers, servers
from benchmarks.watching import Watch
from benchmarks.workloads import Keyed, Workload, chunked
from driftwood.demo_worker import WorkerChild
from driftwood.pipelines import topics_of
from driftwood.produce import Production, Schedule
from features.errors import OperatorError
from streams.settings import Settings
from streams.topics import PipelineTopics, learn_group

LOOK_EVERY_S = 0.1
SILENT_S = 60.0  # nothing was answered for this long: something is wrong

# While it stands still a worker sends no heartbeats; a million events take some ten seconds to send.
SESSION_TIMEOUT = timedelta(seconds=60)


@dataclass(frozen=True)
class Running:
    """A worker beside its servers, ready for events. `learner` is there where the pipeline learns."""

    workload: Workload
    settings: Settings
    topics: PipelineTopics
    worker: WorkerChild
    watch: Watch
    ends: LogEnds
    learner: WorkerChild | None = None

    def send(self, made: Sequence[Keyed]) -> None:
        """As fast as the broker takes them, within `unread_bytes_max`."""
        production = Production(self.workload.pipeline.name, self.topics.events, self.settings)
        production.run(chunked(made), Schedule())

    def send_labels(self, labels: Sequence[Keyed]) -> None:
        """Likewise."""
        if labels:
            name = self.workload.pipeline.name
            topic = self.topics.learning.labels
            Production(name, topic, self.settings, group=learn_group(name)).run(chunked(labels), Schedule())

    def wait_for(self, answers: int) -> None:
        """Until so many predictions are there."""
        known, since = self.ends.total(), time.monotonic()
        while known < answers:
            self.worker.check()
            if self.learner is not None:
                self.learner.check()
            time.sleep(LOOK_EVERY_S)
            seen = self.ends.total()
            if seen > known:
                known, since = seen, time.monotonic()
            elif time.monotonic() - since > SILENT_S:
                raise OperatorError(f"nothing was answered for {SILENT_S:g} s: {known:,} of {answers:,}")


@contextmanager
def standing_still(worker: WorkerChild) -> Iterator[None]:
    """The worker does nothing meanwhile, and does not know."""
    process = psutil.Process(worker.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def running(
    workload: Workload,
    broker: str,
    partitions: int,
    folder: Path,
    training_events: int = 0,
    session_timeout: timedelta = SESSION_TIMEOUT,
) -> Iterator[tuple[Running, Servers]]:
    """Train, start everything, and wait until every partition flows."""
    say(f"training the model of {workload.reference}")
    workload.save_model(folder / "models", training_events)
    settings = Settings(partitions=partitions, models_dir=folder / "models", session_timeout=session_timeout)
    if broker == "kafka":
        settings = settings.model_copy(update={"unread_bytes_max": 0})
    topics = topics_of(workload.pipeline, settings)
    # By the broker's clock, as `events` are: latencies are differences of the two.
    topics = replace(topics, predictions=replace(topics.predictions, broker_time=True))
    say(f"starting {broker}, Redis and a worker")
    with servers(broker, folder, topics) as started:
        local = settings.model_copy(update=started.addresses)
        with (
            WorkerChild(workload.reference, local, folder / "worker.log") as worker,
            _learner(workload, local, topics, folder) as learner,
        ):
            worker.wait_until_ready(partitions * (1 + len(topics.hops)))
            beside = started.pids if learner is None else {**started.pids, "learner": learner.pid}
            ends = LogEnds(started.brokers, topics.predictions)
            yield Running(workload, local, topics, worker, Watch(worker, beside), ends, learner), started


@contextmanager
def _learner(
    workload: Workload, settings: Settings, topics: PipelineTopics, folder: Path
) -> Iterator[WorkerChild | None]:
    if topics.learn is None:
        yield None
        return
    with WorkerChild(workload.reference, settings, folder / "learner.log", command="learn") as learner:
        read = (topics.learn.labels, topics.learn.actions, topics.learn.hop_join, topics.learn.outcomes)
        learner.wait_until_ready(sum(topic.partitions for topic in read))
        yield learner
