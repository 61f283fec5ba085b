"""Small LightGBM models for pipelines of tests: trained in a blink on made-up rows, saved and promotable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from driftwood import LightGBM, Pipeline
from features.feature_set import FeatureMatrix
from models.lightgbm_model import fit
from models.model_card import FeatureEntry, ModelCard, TrainingRecord
from models.model_store import ModelStore


def save_model(
    store: ModelStore, pipeline: Pipeline, seed: int = 1, categories: Sequence[str] = ("DE", "FR")
) -> str:
    """Train on 300 random rows, save, and return the version."""
    matrix = random_rows(pipeline, seed, categories)
    label, classes = pipeline.label, len(pipeline.label.classes)
    targets = np.nan_to_num(matrix.values).sum(axis=1) % (classes or 2)
    targets = targets if label.kind == "regression" else np.floor(targets)
    spec = LightGBM(rounds=4, min_data_in_leaf=5, seed=seed, parameters={"feature_fraction": 0.6})
    fitted = fit(spec, label.kind, matrix, targets, classes or 1)
    record = TrainingRecord(
        since="", until="", validation_since=None, gap_s=0.0, events=300, rows=300, labels={}, left_out={}
    )
    entries = []
    for column, name in enumerate(matrix.names):
        if column in matrix.categories:
            texts = fitted.encoding.vocabularies[column].texts
            entries.append(FeatureEntry(name=name, kind="category", categories=texts))
        else:
            fill = float(fitted.encoding.fills[column])
            entries.append(FeatureEntry(name=name, kind="number", fill=None if math.isnan(fill) else fill))
    card = ModelCard(
        pipeline=pipeline.name,
        pipeline_version=pipeline.version,
        feature_hash=pipeline.feature_set.hash,
        label=label.name,
        label_kind=label.kind,
        classes=tuple(label.classes),
        features=tuple(entries),
        parameters={"seed": seed},
        threshold=None if pipeline.decide is None else 0.5,
        decision=repr(pipeline.decide),
        training=record,
        metrics={},
    )
    return store.save(fitted.text, card)


def random_rows(pipeline: Pipeline, seed: int, categories: Sequence[str] = ("DE", "FR")) -> FeatureMatrix:
    """300 made-up rows of the pipeline's features."""
    source = np.random.default_rng(seed)
    features = pipeline.feature_set.features
    values = source.uniform(0.0, 100.0, (300, len(features)))
    texts = {
        column: pa.array(source.choice(np.array(categories), 300).tolist(), pa.string())
        for column, feature in enumerate(features)
        if feature.kind == "category"
    }
    values[:, list(texts)] = np.nan
    return FeatureMatrix(pipeline.feature_set.names, values, texts)
