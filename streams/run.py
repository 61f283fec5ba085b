"""The life of a worker process: check the surroundings, join the group, work, and stop within bounds."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import uvloop
from prometheus_client import CollectorRegistry

from features.errors import OperatorError
from features.feast_rows import FeastRows
from features.packing import STORED_HEADER
from features.redis_agreement import RedisAgreement
from features.redis_pressure import RedisPressure
from features.redis_snapshots import RedisSnapshots
from features.redis_store import RedisStore
from features.state import EntityState
from models.model_store import ModelStore
from models.pipeline import Pipeline
from models.snapshot import signing_key
from streams.app import FaustApp, mailbox_limits, make_app
from streams.assembly import Ground, assemble
from streams.control_log import ControlLog, ControlWatch
from streams.entity_batch import stage_plans
from streams.figures import figures, serving_figures
from streams.metrics import Metrics
from streams.pressure import MeasuredPublisher, Pressure
from streams.producer import Publisher, settings_for
from streams.serving import Serving
from streams.settings import Settings
from streams.snapshot_watch import SnapshotFeed
from streams.surroundings import Surroundings
from streams.topics import PipelineTopics, TopicAdmin, pipeline_topics, predict_group
from streams.transport import consumer_of
from streams.worker import Worker

log = logging.getLogger(__name__)

# A stored entity of which only the newest event time is known, so that warming up compiles the reading of states as well.
EMPTY_STATE = STORED_HEADER.pack(0, 0, 8) + bytes(8)

# Between two looks at whether the worker crashed, stalls or should stop.
LOOK_EVERY_S = 0.25


class StalledError(OperatorError):
    """Records waited for longer than `stall_timeout` and nothing moved; a new process may do better."""


@dataclass(frozen=True)
class Started:
    """What a worker says once it has joined its group."""

    pipeline: str
    stages: list[str]
    metrics_url: str
    model: str


def run_worker(
    pipeline: Pipeline,
    settings: Settings,
    stages: Collection[str] = (),
    started: Callable[[Started], None] = lambda _: None,
) -> None:
    """Run stages of a pipeline (all of them by default) until SIGTERM or SIGINT, then stop gracefully.

    Raises `OperatorError` when the surroundings do not allow it, or no longer do. A process whose stop takes longer
    than `stop_timeout` and a half is ended hard, so that it cannot hang.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_WorkerProcess(pipeline, settings, stages, started).main())


class _WorkerProcess:
    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        stages: Collection[str],
        started: Callable[[Started], None],
    ) -> None:
        self._pipeline, self._settings, self._chosen, self._started = pipeline, settings, stages, started
        self._stopping = asyncio.Event()
        self._fatal: BaseException | None = None
        self._control: ControlWatch | None = None
        self._metrics = Metrics(CollectorRegistry(), clock=time.monotonic, now_ms=lambda: time.time() * 1000)

    async def main(self) -> None:
        """Build everything, work, and take it down in the opposite order."""
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, self._stop)
        async with AsyncExitStack() as down:
            reason = ""
            try:
                await self._work(down)
            except OperatorError as error:
                reason = str(error)
                raise
            finally:
                # From here on only taking down is left; a thread that outlives the loop must not keep the process.
                end_hard_after(1.5 * self._settings.stop_timeout.total_seconds(), reason)

    async def _work(self, down: AsyncExitStack) -> None:
        ground, pressure = await self._ground(down)
        stages = assemble(ground, self._chosen)
        warm_up(self._pipeline)
        calm_collector()
        worker = Worker(
            stages,
            pressure,
            limits=mailbox_limits(self._settings),
            grace_s=self._settings.stop_timeout.total_seconds() / 2,
            clock=time.monotonic,
            fatal=self._fail,
        )
        url = self._watch(down, worker, pressure, ground.serving)
        group = predict_group(self._pipeline.name)
        app = make_app(group, stages.topics, worker, self._settings, stages.identities)
        worker.join(consumer_of(app))
        down.push_async_callback(app.stop)
        await app.start()
        self._started(Started(self._pipeline.name, stages.topics, url, ground.serving.in_service))
        await self._until_end(app, worker)

    async def _ground(self, down: AsyncExitStack) -> tuple[Ground, Pressure]:
        """Reach every server, and fail now rather than at the first batch."""
        settings, pipeline = self._settings, self._pipeline
        entities = [plan.entity for plan in stage_plans(pipeline.feature_set)]
        topics = pipeline_topics(pipeline.name, entities, settings, learns=pipeline.learns)
        agreement = RedisAgreement.connect(settings.redis_url, pipeline.name)
        down.push_async_callback(agreement.aclose)
        admin = TopicAdmin(settings)
        begun = await agreement.begun()  # at once whether Redis answers
        identities = await asyncio.to_thread(admin.check, topics, begun)
        self._surroundings = Surroundings(
            topics, identities, pipeline.feature_set.hash, admin.look_at, agreement, time.monotonic
        )
        await self._surroundings.enter()
        store = RedisStore.connect(settings.redis_url, settings.repeat_ids_per_bucket)
        down.push_async_callback(store.aclose)
        ledger = RedisPressure.connect(settings.redis_url, pipeline.name)
        down.push_async_callback(ledger.aclose)
        serving = Serving(pipeline, ModelStore(settings.models_dir), await self._feed(down, topics))
        await serving.look()  # the first batch is answered by the newest snapshot
        troubles = self._metrics.errors
        pressure = Pressure(ledger, uuid.uuid4().hex, settings.unread_bytes_max, troubles.labels("redis").inc)
        client = settings.kafka_client(**{"message.max.bytes": settings.max_message_bytes})
        publisher = Publisher(settings_for(settings.brokers, **client), troubles.labels("kafka").inc)
        down.push_async_callback(publisher.close, settings.stop_timeout.total_seconds() / 4)
        measured = MeasuredPublisher(publisher, pressure, [topic.name for topic in topics.hops.values()])
        return Ground(
            pipeline, settings, topics, identities, store, serving, measured, self._metrics
        ), pressure

    async def _feed(self, down: AsyncExitStack, topics: PipelineTopics) -> SnapshotFeed | None:
        """Where the worker of a pipeline that learns hears of snapshots and of the serve mode."""
        if topics.learn is None:
            return None
        snapshots = RedisSnapshots.connect(self._settings.redis_url)
        down.push_async_callback(snapshots.aclose)
        self._control = control = ControlWatch(ControlLog(self._settings, topics.learn.control))
        down.push_async_callback(control.aclose)
        await control.begin()
        return SnapshotFeed(snapshots, signing_key(self._settings.models_dir), lambda: control.mode)

    def _watch(self, down: AsyncExitStack, worker: Worker, pressure: Pressure, serving: Serving) -> str:
        """Serve the metrics, and look for a new champion and for what stands unread; the metrics' URL."""
        url, stop = self._metrics.serve(self._settings.metrics_host, self._settings.metrics_port)
        down.callback(stop)
        now = figures(worker, pressure, self._surroundings)
        self._metrics.watch([*now, *serving_figures(serving)])
        watches = [
            serving.watch(self._settings.champion_poll.total_seconds()),
            pressure.watch(),
            self._surroundings.watch(),
        ]
        if self._control is not None:
            watches.append(self._control.watch())
        for watch in watches:
            down.callback(asyncio.create_task(self._guarded(watch)).cancel)
        return url

    async def _until_end(self, app: FaustApp, worker: Worker) -> None:
        while not await self._stops_within(LOOK_EVERY_S):
            if (reason := self._fatal or app.crash_reason) is not None:
                raise reason
            patience_s = self._settings.stall_timeout.total_seconds()
            if stalled := worker.stalled(patience_s):
                places = ", ".join(f"{topic}/{number}" for topic, number in stalled)
                raise StalledError(
                    f"no progress for {patience_s:g} s in {places}: is the broker or Redis away? This worker ends, for its "
                    "supervisor to start another (setting stall_timeout)"
                )

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _guarded(self, watch: Awaitable[None]) -> None:
        try:
            await watch
        except Exception as error:  # noqa: BLE001  a watch that ended unseen would leave the worker blind
            self._fail(error)

    def _stop(self) -> None:
        self._stopping.set()

    def _fail(self, error: BaseException) -> None:
        self._fatal = self._fatal or error


def warm_up(pipeline: Pipeline) -> None:
    """Load the compiled code before the first batch waits for it: compiling takes seconds, on its first start ever."""
    for plan in pipeline.feature_set.entities:
        state = EntityState(plan, 1)
        state.load({"": EMPTY_STATE})
        nothing = np.full((1, len(plan.inputs)), np.nan)
        times_us = np.zeros(1, np.int64)
        batch = state.update_batch([""], times_us, nothing, np.zeros((1, len(plan.hashed)), np.uint64))
        FeastRows("", "", plan).rows([""], batch.features, times_us)


def calm_collector() -> None:
    """Let Python's cycle collector leave alone what is loaded by now, and run a hundredth as often.

    A batch makes tens of thousands of short-lived objects, and every collection would walk through all libraries for
    nothing: a fifth of the CPU of flights (60 µs an event with it, 48 without, as much as with no collector at all).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(70_000, 20, 100)


def end_hard_after(seconds: float, reason: str) -> None:
    """End the process then, whatever it is at; with the reason for the end, which nobody else has said yet."""

    def end() -> None:
        if reason:
            sys.stderr.write(f"driftwood: {reason}\n")
            sys.stderr.flush()
        os._exit(OperatorError.exit_code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
