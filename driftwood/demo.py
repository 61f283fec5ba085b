"""`driftwood demo`: the whole predict road on this machine, from training to the quality of the answers.

Everything the figures are made of comes from outside the worker: predictions from their topic, latencies from the
broker's timestamps, CPU from the operating system, outcomes from the labels that were known afterwards.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from driftwood.demo_stream import DemoStream, Watched
from driftwood.demo_worker import WorkerChild
from driftwood.embedded import Runtime
from driftwood.pipelines import topics_of
from features.errors import DeveloperError
from features.schema import nearest
from models.loading import examples, load_pipeline
from models.model_store import ModelStore
from models.pipeline import Pipeline
from offline.events import event_records
from offline.train import train
from offline.training_report import TrainingReport
from streams.settings import Settings
from streams.topics import PipelineTopics

# One partition a topic: three months pass within half a minute, so two partitions that are a tenth of a second apart
# would be seven hours apart in event time, and the windows of hours would be wrong (docs/decisions/0009).
PARTITIONS = 1

Told = Callable[[str, float], None]


@dataclass(frozen=True)
class DemoResult:
    """What `driftwood demo` prints: `summary` as JSON; for people also how often each outcome came, and the training."""

    summary: dict[str, Any]
    outcomes: dict[str, int]
    training: TrainingReport
    folder: Path


def run_demo(
    name: str, settings: Settings, told: Told, watched: Watched, stage: Callable[[str], None]
) -> DemoResult:
    """Train on the first months, stream the following ones through the topics, and measure what came back.

    `told` hears of the training's progress, `watched` of the streaming, `stage` what is being done in a sentence.
    Raises `DeveloperError` for what is no shipped example, `OperatorError` when a server does not start or the worker ends.
    """
    if name not in examples():
        raise DeveloperError(f"{name} is no shipped example; expected {nearest(name, examples())}")
    data = settings.runs_dir / "data" / name
    example = importlib.import_module(f"examples.{name}.demo")
    pipeline = load_pipeline(name)
    folder = settings.runs_dir / f"demo-{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True)
    stage(
        f"Training LightGBM on the events before {example.TRAIN_UNTIL[:10]}, through the code that serves it"
    )
    report = _trained(pipeline, example, data, folder, told)
    stage("Starting the embedded broker, a Redis and a worker")
    with (
        _surroundings(pipeline, settings, folder) as (local, topics),
        WorkerChild(name, local, folder / "worker.log") as worker,
    ):
        worker.wait_until_ready(PARTITIONS * (1 + len(topics.hops)))
        stage(f"Streaming the events from {example.STREAMED[0]} to {example.STREAMED[1]}")
        stream = DemoStream(pipeline, local, topics, worker)
        events = event_records(_table(example.streamed_events(data)), pipeline.feature_set)
        summary = stream.run(list(events), watched)
    outcomes = example.outcomes(data)
    summary |= stream.answers.quality(outcomes)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2))
    return DemoResult(summary, stream.answers.named(outcomes), report, folder)


def _trained(pipeline: Pipeline, example: ModuleType, data: Path, folder: Path, told: Told) -> TrainingReport:
    store = ModelStore(folder / "models")
    labels = example.prepare(data, told).labels
    events = _table(example.training_events(data))
    trained_at = datetime.now(UTC).isoformat(timespec="seconds")
    report = train(
        pipeline, events, labels, store=store, until=example.TRAIN_UNTIL, trained_at=trained_at, progress=told
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
