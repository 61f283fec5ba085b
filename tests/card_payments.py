"""A small pipeline of two entities as a user would write it, awkward events for it, and what they must come to.

What is expected is worked out here without the road: rows are put in an order, and go through the kernel in one piece.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from features.feast_objects import apply_repository, write_repository
from features.feature_set import FeatureMatrix, FeatureSet
from features.inputs import entity_inputs
from features.plan import EntityPlan, Floats
from features.rows import Rows, entity_keys
from features.state import EntityState
from models.loading import load_pipeline
from models.pipeline import Pipeline
from streams.entity_batch import stage_plans
from streams.settings import Settings
from streams.topics import PipelineTopics, pipeline_topics

PIPELINE = """
from datetime import datetime
from typing import Annotated

import msgspec
from driftwood import Entity, Label, LightGBM, Meta, Pipeline, categorical, hour_of_day, personal


class Payment(msgspec.Struct):
    payment_id: str
    at: datetime
    terminal: str
    amount: Annotated[float, Meta(ge=0, le=10_000)]
    holder: Annotated[str, personal]
    card: Annotated[str, personal] | None = None
    country: str | None = None


card, terminal = Entity("card"), Entity("terminal")

payments = Pipeline(
    "{name}",
    event=Payment,
    id="payment_id",
    time="at",
    earliest="2024-01-01",
    label=Label("fraud", horizon="7d"),
    features=[
        "amount",
        categorical("country"),
        hour_of_day("UTC"),
        card.count("1h", "1d"),
        card.mean("amount", "1d"),
        card.std("amount", "1d"),
        card.distinct("terminal", "1d"),
        card.since_last(),
        terminal.count("30m"),
        terminal.max("amount", "12h"),
        terminal.ewm("amount", half_life="1h", within="12h"),
    ],
    batch=LightGBM(rounds=10, num_leaves=7, min_data_in_leaf=20),
    fallback="card_count_1d / 100",
)
"""

START_US = 1_714_521_600_000_000  # 2024-05-01T00:00:00Z
HOLDER, CARD = "Ada Lovelace", "4929-1108"  # every holder and card begins so: they must stand in no log line


@dataclass(frozen=True)
class Payments:
    """The pipeline under a name of its own, so that tests share a broker."""

    path: Path
    pipeline: Pipeline

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.pipeline.name

    @property
    def feature_set(self) -> FeatureSet:
        """Its features."""
        return self.pipeline.feature_set

    def topics(self, partitions: int) -> PipelineTopics:
        """Its topics, all with this number of partitions."""
        entities = [plan.entity for plan in stage_plans(self.feature_set)]
        return pipeline_topics(self.name, entities, Settings(partitions=partitions))


def payments_pipeline(folder: Path) -> Payments:
    """Write the pipeline file into `folder`."""
    name = f"payments_{uuid.uuid4().hex[:12]}"
    path = folder / f"{name}.py"
    path.write_text(PIPELINE.replace("{name}", name))
    return Payments(path, load_pipeline(str(path)))


def payments(count: int, seed: int = 1, first: int = 0) -> list[dict[str, Any]]:
    """Events: few entities, some without a card, times that jump back, tie and leave gaps."""
    random = np.random.default_rng(seed)
    steps_us = random.choice([0, 1_000_000, 40_000_000, 1_800_000_000], count, p=[0.2, 0.4, 0.395, 0.005])
    late_us = np.where(random.random(count) < 0.1, random.integers(0, 4 * 3_600_000_000, count), 0)
    times_us = START_US + 86_400_000_000 + np.cumsum(steps_us) - late_us
    texts = np.datetime_as_string(times_us.astype("datetime64[us]"), timezone="UTC").tolist()
    return [
        {
            "payment_id": f"p{first + number}",
            "at": texts[number],
            "terminal": f"t{random.integers(0, 20)}",
            "amount": round(float(random.gamma(2.0, 30.0)), 2),
            "holder": f"{HOLDER} {random.integers(0, 1000)}",
            "card": None if random.random() < 0.05 else f"{CARD}-{random.integers(0, 60)}",
            "country": ("DE", "FR", None)[random.integers(3)],
        }
        for number in range(count)
    ]


def encoded(event: Mapping[str, Any]) -> bytes:
    """The record of an event."""
    return json.dumps(event).encode()


class EntityFeatures(NamedTuple):
    """`features` float64[n, outputs]; `newest` has each entity's key and the row of its newest event."""

    features: Floats
    newest: list[tuple[str, int]]


def entity_features(plan: EntityPlan, rows: Rows) -> EntityFeatures:
    """The features of one entity when these rows come in this order, each as of before it is added."""
    state = EntityState(plan, len(rows) + 1)
    keys = entity_keys(rows, plan.keys)
    state.load(dict.fromkeys(state.missing(keys)))
    batch = state.update_batch(keys, rows.times_us, *entity_inputs(plan, rows))
    newest = zip((key for key, _ in batch.changes), batch.newest_rows.tolist(), strict=True)
    return EntityFeatures(batch.features, list(newest))


def served(names: Sequence[str], prediction: Mapping[str, Any]) -> list[Any]:
    """The features of a prediction in the model's order."""
    assert sorted(prediction["features"]) == sorted(names)
    return [prediction["features"][name] for name in names]


def as_served(matrix: FeatureMatrix, row: int) -> list[Any]:
    """How a row of features stands in JSON: missing is null, categories are texts."""
    values: list[Any] = [None if np.isnan(value) else float(value) for value in matrix.values[row]]  # noqa: PD011
    for column, texts in matrix.categories.items():
        values[column] = texts[row].as_py()
    return values


def bits(values: Sequence[Any]) -> list[Any]:
    """The values with floats as their bits: == takes -0.0 for 0.0."""
    return [value.hex() if isinstance(value, float) else value for value in values]


def feast_has(
    folder: Path, payments: Payments, redis_url: str, newest: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Assert that Feast reads, for each entity and key, what the prediction of its newest event was served with."""
    from feast import FeatureStore

    write_repository(folder, payments.name, payments.feature_set.entities, redis_url)
    apply_repository(folder)
    store = FeatureStore(repo_path=str(folder))
    for plan in payments.feature_set.entities:
        answers = newest[plan.entity]
        names, view = [output.name for output in plan.outputs], f"{payments.name}_{plan.entity}"
        response = store.get_online_features(
            [f"{view}:{name}" for name in names], [{plan.entity: key} for key in answers]
        )
        read = response.to_dict()
        for name in names:
            assert read[name] == [answer["features"][name] for answer in answers.values()], name
        results = dict(zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True))
        stamps_us = [stamp.ToMicroseconds() for stamp in results[names[0]].event_timestamps]
        times_us = [pd.Timestamp(answer["event_time"]).value // 1000 for answer in answers.values()]
        assert stamps_us == times_us
