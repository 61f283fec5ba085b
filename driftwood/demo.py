"""`driftwood demo`: both roads on this machine, from training to the quality of the answers, labels as they come.

Everything the figures are made of comes from outside the workers: predictions and outcomes from their topics, latencies
from the broker's timestamps, CPU from the operating system, the truth from the labels that were known afterwards.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from driftwood.answers import Answers
from driftwood.by_period import Judged, Period
from driftwood.demo_monitor import WATCHED_TOPICS
from driftwood.demo_sender import Timed
from driftwood.demo_stream import DemoStream, Watched, Workers
from driftwood.demo_why import explained
from driftwood.demo_worker import WorkerChild
from driftwood.embedded import Runtime
from driftwood.picture import draw
from driftwood.pipelines import topics_of
from driftwood.produce import chunks
from features.errors import DeveloperError
from features.schema import nearest
from models.loading import examples, load_pipeline
from models.model_store import ModelStore
from models.pipeline import Pipeline
from models.snapshot import signing_key
from offline.events import event_records
from offline.label_records import label_records
from offline.train import train
from offline.training_report import TrainingReport
from streams.settings import Settings
from streams.topic_log import TopicLog
from streams.topics import PipelineTopics

# One partition a topic: three months pass within half a minute, so two partitions that are a tenth of a second apart
# would be seven hours apart in event time, and the windows of hours would be wrong (docs/decisions/0009).
PARTITIONS = 1

# Those that a learn process reads: labels, actions, hop-join, outcomes.
LEARNT_TOPICS = 4

Told = Callable[[str, float], None]

Data = tuple[Any, ...]
"""The folder of an example's data, and the world that stands in it where it is another than the example's own."""


@dataclass(frozen=True)
class DemoResult:
    """What `driftwood demo` prints: `summary` as JSON; for people also what became of the events, how good each model was
    by these `figures` in each period and in `all` of them, and the training."""

    summary: dict[str, Any]
    outcomes: dict[str, int]
    figures: Sequence[str]
    periods: Sequence[Period]
    all: Period
    training: TrainingReport
    folder: Path

    @property
    def picture(self) -> Path:
        """The models side by side, period by period."""
        return self.folder / "models.png"


def run_demo(
    name: str,
    settings: Settings,
    told: Told,
    watched: Watched,
    stage: Callable[[str], None],
    drift: str | None = None,
) -> DemoResult:
    """Train on the first months, stream the following ones through the topics, and measure what came back.

    `told` hears of the training's progress, `watched` of the streaming, `stage` what is being done in a sentence. `drift` names
    another world than the example's own. Raises `DeveloperError` for what is no shipped example or world, `OperatorError` when a server does not start or the worker ends.
    """
    if name not in examples():
        raise DeveloperError(f"{name} is no shipped example; expected {nearest(name, examples())}")
    example = importlib.import_module(f"examples.{name}.demo")
    data, world = _world(example, name, settings.runs_dir / "data", drift)
    pipeline = load_pipeline(name)
    folder = settings.runs_dir / f"demo-{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True)
    stage(
        f"Training LightGBM on the events before {example.TRAIN_UNTIL[:10]}, through the code that serves it"
    )
    report = _trained(pipeline, example, (data, *world), folder, told)
    stage("Starting the embedded broker, a Redis and the workers")
    with (
        _surroundings(pipeline, settings, folder) as (local, topics),
        _workers(name, local, topics, folder, watched=example.WATCHED) as workers,
    ):
        stage(
            f"Streaming the events from {example.STREAMED[0]} to {example.STREAMED[1]}, and labels as they came"
        )
        stream = DemoStream(pipeline, local, topics, workers, example.actor())
        summary = stream.run(*_streams(pipeline, topics, example, (data, *world)), watched)
        truth, answers = example.outcomes(data, *world), stream.answers
        account = explained(pipeline, topics, TopicLog(local), answers, truth["label"], stream.learnt)
    if account is not None:
        (folder / "why.txt").write_text(account)
    title = example.TITLE if drift is None else f"drift: {drift}"
    return _judged(example, title, answers, truth.reindex(answers.ids), summary, report, folder)


def _world(example: ModuleType, name: str, folder: Path, drift: str | None) -> tuple[Path, Data]:
    """The folder of the data, and the world of this name, if one is named."""
    if drift is None:
        return folder / name, ()
    if drift not in example.DRIFTS:
        known = ", ".join(example.DRIFTS) or "none: the data of this example are what they are"
        raise DeveloperError(f"{name} has no drift {drift!r}; expected {known}")
    return folder / f"{name}-{drift}", (example.DRIFTS[drift],)


def _judged(
    example: ModuleType,
    title: str,
    answers: Answers,
    truth: pd.DataFrame,
    summary: dict[str, Any],
    report: TrainingReport,
    folder: Path,
) -> DemoResult:
    judged = Judged(answers.times, answers.parts, truth)
    whole, periods = judged.whole(), judged.by(example.EVERY)
    summary |= {**whole.figures, f"by_{example.EVERY}": [asdict(period) for period in periods]}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2))
    named = {str(name): int(count) for name, count in truth["outcome"].value_counts().items()}
    result = DemoResult(summary, named, example.FIGURES, periods, whole, report, folder)
    draw(
        periods,
        example.FIGURES,
        f"{summary['pipeline']}, by {example.EVERY}: {title}",
        result.picture,
    )
    return result


@contextmanager
def _workers(
    name: str, settings: Settings, topics: PipelineTopics, folder: Path, *, watched: bool
) -> Iterator[Workers]:
    with ExitStack() as stack:
        predict = stack.enter_context(WorkerChild(name, settings, folder / "worker.log"))
        learn = None
        if topics.learn is not None:
            learn = stack.enter_context(WorkerChild(name, settings, folder / "learner.log", command="learn"))
            learn.wait_until_ready(LEARNT_TOPICS)
        monitor = None
        if watched:
            log = folder / "monitor.log"
            monitor = stack.enter_context(WorkerChild(name, settings, log, command="monitor"))
            monitor.wait_until_ready(WATCHED_TOPICS)
        predict.wait_until_ready(PARTITIONS * (1 + len(topics.hops)))
        yield Workers(predict, learn, monitor)


def _streams(
    pipeline: Pipeline, topics: PipelineTopics, example: ModuleType, data: Data
) -> tuple[Timed, Timed | None]:
    records = event_records(_table(example.streamed_events(*data)), pipeline.feature_set)
    read = list(chunks(records, pipeline, lambda: time.time() * 1000))
    times_us = np.concatenate([chunk.times_s for chunk in read]) * 1e6
    times_us = np.maximum.accumulate(
        np.nan_to_num(times_us, nan=-np.inf)
    )  # undecodable ones where they stand
    values = [value for chunk in read for value in chunk.values]  # noqa: PD011  a chunk is no frame
    keys = [key or b"" for chunk in read for key in chunk.keys]
    events = Timed(topics.events, times_us.astype(np.int64), values, keys)
    if topics.learn is None:
        return events, None
    made = label_records(pipeline, _table(example.streamed_labels(*data)))
    ids = [event_id.encode() for event_id in made.event_ids]
    return events, Timed(topics.learn.labels, made.known_us, made.values, ids)


def _trained(pipeline: Pipeline, example: ModuleType, data: Data, folder: Path, told: Told) -> TrainingReport:
    store = ModelStore(folder / "models")
    key = signing_key(store.folder)
    path, *world = data
    labels = example.prepare(path, told, *world).labels
    events = _table(example.training_events(*data))
    trained_at = datetime.now(UTC).isoformat(timespec="seconds")
    report = train(
        pipeline,
        events,
        labels,
        store=store,
        until=example.TRAIN_UNTIL,
        trained_at=trained_at,
        progress=told,
        signing_key=key,
    )
    store.promote(pipeline.name, report.version)
    return report


@contextmanager
def _surroundings(
    pipeline: Pipeline, settings: Settings, folder: Path
) -> Iterator[tuple[Settings, PipelineTopics]]:
    chosen = {"partitions": PARTITIONS, "models_dir": folder / "models"}
    topics = topics_of(pipeline, settings.model_copy(update=chosen))
    with Runtime().start({topic.name: topic.partitions for topic in topics}) as runtime:
        servers = {"brokers": runtime.broker_address, "redis_url": runtime.redis_url}
        yield settings.model_copy(update=chosen | servers), topics


def _table(frame: Any) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)
