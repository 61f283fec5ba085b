"""What the commands need of a pipeline beside its declaration: its topics, and an example's own data."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from features.errors import DeveloperError, OperatorError
from models.loading import examples
from models.pipeline import Pipeline
from streams.entity_batch import stage_plans
from streams.settings import Settings
from streams.topics import PipelineTopics, pipeline_topics

Progress = Callable[[str, float], None]


def topics_of(pipeline: Pipeline, settings: Settings) -> PipelineTopics:
    """The topics of a pipeline: one hop for each of its stages, and those of the learn road where it learns."""
    entities = [plan.entity for plan in stage_plans(pipeline.feature_set)]
    return pipeline_topics(pipeline.name, entities, settings, learns=pipeline.learns)


def example_files(reference: str, settings: Settings, progress: Progress | None = None) -> tuple[Path, Path]:
    """The events and labels of a shipped example as Parquet files under `runs_dir`, made when they are not there.

    Raises:
        DeveloperError: `reference` is no example, so its files must be named.
        OperatorError: the package that the example's data comes from is not installed.
    """
    if reference not in examples():
        raise DeveloperError(
            f"which events? {reference} is no shipped example, so name a Parquet or JSON Lines file"
        )
    data = importlib.import_module(f"examples.{reference}.data")
    try:
        made = data.prepare(settings.runs_dir / "data" / reference, progress)
    except FileNotFoundError as error:
        raise OperatorError(f"the data of the example {reference} is not installed: {error}") from error
    return made.events, made.labels
