"""A pipeline's features as a table for people and programs: what `driftwood features` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from features.durations import duration_text
from features.feature_set import FeatureSet, FeatureSpec
from features.layout import bytes_per_entity, stored_bytes_per_entity

MISSING = "missing"


@dataclass(frozen=True)
class FeatureRow:
    """One feature. Texts are ready to print; empty where they do not apply."""

    name: str
    kind: str  # number, category
    origin: str  # field, calendar, expression, window
    declared: str  # as the pipeline wrote it
    entity: str
    unit: str
    window: str  # "7d"; of last, since_last and ewm: within
    tile: str  # the window's beginning is exact to this much
    default: str  # the value when nothing was seen; "missing"
    range: str  # "0 .. 23", "0 ..", ".. 1"
    privacy: str  # free, personal, sensitive


@dataclass(frozen=True)
class EntityRow:
    """What one known entity costs, at most. `memory_bytes` in a worker, `stored_bytes` in Redis (Feast's row beside)."""

    name: str
    keys: str
    features: int
    memory_bytes: int
    stored_bytes: int


def feature_table(feature_set: FeatureSet) -> Sequence[FeatureRow]:
    """One row for each feature, in the model's order.

    Example:
        >>> import msgspec
        >>> from features.compiler import Declared, compile_features
        >>> from features.windows import Entity
        >>> class Payment(msgspec.Struct):
        ...     id: str
        ...     at: int
        ...     card: str
        >>> features = [Entity("card").count("7d")]
        >>> declared = Declared("pipeline payments", Payment, "id", "at", features, "fraud", time_unit="s")
        >>> row = feature_table(compile_features(declared))[0]
        >>> row.name, row.unit, row.window, row.tile, row.default, row.range
        ('card_count_7d', 'events', '7d', '1h', '0', '0 ..')
    """
    return [_row(feature) for feature in feature_set.features]


def entity_table(feature_set: FeatureSet) -> Sequence[EntityRow]:
    """One row for each entity, in the order of the stages."""
    return [
        EntityRow(
            plan.entity,
            " | ".join(plan.keys),
            len(plan.outputs),
            bytes_per_entity(plan),
            stored_bytes_per_entity(plan),
        )
        for plan in feature_set.entities
    ]


def _row(feature: FeatureSpec) -> FeatureRow:
    return FeatureRow(
        name=feature.name,
        kind=feature.kind,
        origin=feature.origin,
        declared=feature.declared,
        entity=feature.entity or "",
        unit=feature.unit,
        window=duration_text(feature.window_us) if feature.window_us else "",
        tile=duration_text(feature.tile_us) if feature.tile_us else "",
        default=MISSING if math.isnan(feature.default) else f"{feature.default:g}",
        range=_range(feature.low, feature.high),
        privacy=feature.privacy,
    )


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"{'' if low is None else f'{low:g}'} .. {'' if high is None else f'{high:g}'}".strip()
