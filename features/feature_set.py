"""A pipeline's features, compiled: what the stages, the model, the store and the command line are told.

The windows are worked out stage by stage, entity by entity; everything else (fields, categories, calendar parts,
expressions) in the last stage, by `FeatureSet.assemble`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from features.calendar import part_of
from features.errors import DeveloperError
from features.event_times import TimeReading
from features.expressions import Expression
from features.plan import EntityPlan, Floats
from features.rows import RowLayout, Rows
from features.schema import MASK, EventSchema, Privacy


@dataclass(frozen=True)
class FeatureSpec:
    """One input of the model. `default` (NaN: missing) is its value when nothing was seen; `low`, `high` its range."""

    name: str
    kind: Literal["number", "category"]
    origin: Literal["field", "calendar", "expression", "window"]
    declared: str  # as the pipeline wrote it
    unit: str
    default: float
    low: float | None
    high: float | None
    privacy: Privacy  # the strictest of the fields it is made of
    entity: str | None = None  # of a window
    window_us: int = 0
    tile_us: int = 0


@dataclass(frozen=True)
class FieldStep:
    """Copy a number field."""

    field: str


@dataclass(frozen=True)
class CategoryStep:
    """Hand on a text field."""

    field: str


@dataclass(frozen=True)
class CalendarStep:
    """A calendar part of a time field, or of the event time (None)."""

    part: str
    zone: str
    of: str | None


@dataclass(frozen=True)
class WindowStep:
    """Copy a column of the window matrix."""

    column: int


@dataclass(frozen=True)
class ExpressionStep:
    """Evaluate an expression over fields and other features."""

    expression: Expression


Step = FieldStep | CategoryStep | CalendarStep | WindowStep | ExpressionStep


@dataclass(frozen=True)
class FeatureMatrix:
    """n events as a model sees them: `values` float64[n, F], NaN where missing (and in category columns).

    `categories` maps the index of each category column to its n texts.
    """

    names: tuple[str, ...]
    values: Floats
    categories: Mapping[int, pa.StringArray]

    def __len__(self) -> int:
        return len(self.values)

    def number(self, name: str) -> Floats:
        """The float64[n] column of a feature."""
        column: Floats = self.values[:, self.names.index(name)]
        return column

    def text(self, name: str) -> pa.StringArray:
        """The texts of a category feature."""
        return self.categories[self.names.index(name)]


@dataclass(frozen=True)
class FeatureSet:
    """The compiled declaration; made by `features.compiler.compile_features`.

    `entities` are in stage order (the order in which the features first name them); an entity's stage fills the
    columns `window_slice(entity)` of the window matrix, whose names are `windows`. `features` is the model's input, in
    the order of the declaration. `hash` changes with everything that changes a value.
    """

    schema: EventSchema
    id_field: str
    time_field: str
    time: TimeReading
    earliest_us: int
    max_ahead_us: int
    label_fields: tuple[str, str]  # by which a label's record is known where an event belongs
    layout: RowLayout
    entities: tuple[EntityPlan, ...]
    windows: tuple[str, ...]
    features: tuple[FeatureSpec, ...]
    steps: tuple[Step, ...]  # aligned with `features`
    order: tuple[int, ...]  # in which to take the steps: an expression after the features it names
    hash: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features' names, in the model's order."""
        return tuple(feature.name for feature in self.features)

    def window_slice(self, entity: str) -> slice:
        """The columns of the window matrix that the stage of this entity fills."""
        start = 0
        for plan in self.entities:
            if plan.entity == entity:
                return slice(start, start + len(plan.outputs))
            start += len(plan.outputs)
        raise KeyError(entity)

    def masked(self, features: Mapping[str, object]) -> dict[str, object]:
        """Features as served (by name), as they may be shown: what is made of personal or sensitive fields is hidden."""
        hidden = {feature.name for feature in self.features if feature.privacy != "free"}
        return {
            name: MASK if name in hidden and value is not None else value for name, value in features.items()
        }

    def assemble(self, rows: Rows, windows: Floats) -> FeatureMatrix:
        """The model's input for n events: `windows` is float64[n, len(self.windows)], in stage order."""
        if windows.shape != (len(rows), len(self.windows)):
            expected = (len(rows), len(self.windows))
            raise DeveloperError(f"assemble: a window matrix of shape {windows.shape}, expected {expected}")
        values = np.full((len(rows), len(self.features)), np.nan)
        categories = {
            index: rows.text(step.field)
            for index, step in enumerate(self.steps)
            if isinstance(step, CategoryStep)
        }
        matrix = FeatureMatrix(self.names, values, categories)
        targets, sources = self._window_columns
        values[:, targets] = windows[:, sources]
        for index in self.order:
            step = self.steps[index]
            if isinstance(step, FieldStep):
                values[:, index] = rows.number(step.field)
            elif isinstance(step, CalendarStep):
                values[:, index] = _calendar(step, rows)
            elif isinstance(step, ExpressionStep):
                values[:, index] = step.expression.evaluate(_FieldsAndFeatures(rows, matrix))
        return matrix

    @cached_property
    def _window_columns(self) -> tuple[list[int], list[int]]:
        found = [
            (index, step.column) for index, step in enumerate(self.steps) if isinstance(step, WindowStep)
        ]
        return [index for index, _ in found], [column for _, column in found]


@dataclass(frozen=True)
class _FieldsAndFeatures:
    """Where an expression finds its columns: a field by its name, else the feature of that name."""

    rows: Rows
    matrix: FeatureMatrix

    def number(self, name: str) -> Floats:
        return self.rows.number(name) if name in self.rows.layout.numbers else self.matrix.number(name)

    def text(self, name: str) -> pa.StringArray:
        return self.rows.text(name) if name in self.rows.layout.texts else self.matrix.text(name)


def _calendar(step: CalendarStep, rows: Rows) -> Floats:
    if step.of is None:
        return part_of(step.part, rows.times_us, step.zone)
    moments = rows.number(step.of)
    present = ~np.isnan(moments)
    values = np.full(len(rows), np.nan)
    values[present] = part_of(step.part, np.rint(moments[present] * 1e6).astype(np.int64), step.zone)
    return values
