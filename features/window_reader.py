"""Checks the windows that a pipeline declares, and collects them into the plans of their entities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from features.durations import duration_us, window_us
from features.entity_builder import EntityBuilder
from features.errors import PipelineError
from features.expressions import CONDITION
from features.feature_set import FeatureSpec
from features.field_use import FieldUse, strictest
from features.label_rows import LabelNames
from features.plan import EntityPlan
from features.schema import Field, Privacy, is_name
from features.windows import DISTINCT_BOUNDS, OVER_LABELS, RULES, Entity, WindowFeatures, tile_us

# Names of entities stand in topics (`hop-<entity>`) and in Redis keys; `hop-join` is the join stage's.
LONGEST_ENTITY = 40
RESERVED_ENTITY = "join"


@dataclass(frozen=True)
class _Input:
    """What a window is fed with: `value` as the plan names it (None: rows are counted), its field where it is one.

    `named`: the value is a name that may stand in the feature's.
    """

    value: str | None
    field: Field | None
    privacy: Privacy
    named: bool = False


class WindowReader:
    """Reads one declaration after another; `plans` and `columns` are settled when all have been read."""

    def __init__(self, fields: FieldUse, label: LabelNames) -> None:
        self.fields = fields
        self.label = label
        self._entities: dict[str, EntityBuilder] = {}
        self._outputs: dict[
            str, tuple[str, int]
        ] = {}  # feature -> its entity, and its index among the outputs

    def read(self, element: WindowFeatures, place: str) -> list[FeatureSpec]:
        """The features of one declaration, one for each of its windows."""
        named = _counting_labels(element, self.label)
        if named.value in self.label.inputs or named.aggregate == "rate":
            return self._read_over_label(named, place)
        entity = self._entity(element.entity, place)
        given = self._input(element, place)
        where, privacy = self._condition(element, place)
        stem, default = _stem(element, given, place), _default(element, place)
        half_life_us = (
            duration_us(element.half_life, f"{place}, half_life") if element.half_life is not None else 0
        )
        bound = _bound(element, place)
        specs = []
        for suffix, width in list(_widths(element, place)):
            low, high = _range(element.aggregate, given.field, width)
            spec = FeatureSpec(
                name=stem + suffix,
                kind="number",
                origin="window",
                declared=element.described,
                unit=_unit(element, given.field),
                default=default,
                low=low,
                high=high,
                privacy=strictest([given.privacy, privacy]),
                entity=entity.name,
                window_us=width,
                tile_us=0 if element.within is not None else tile_us(width),
            )
            at = entity.add(
                spec.name, element.aggregate, given.value, where, width, default, half_life_us, bound
            )
            self._outputs[spec.name] = (entity.name, at)
            specs.append(spec)
        return specs

    def _read_over_label(self, element: WindowFeatures, place: str) -> list[FeatureSpec]:
        """The features of a declaration over the label or one of its values."""
        entity, label = self._entity(element.entity, place), self.label
        _check_over_label(element, label, place)
        stem, default = (
            _stem(element, _Input(element.value, None, "free", named=True), place),
            _default(element, place),
        )
        specs = []
        for suffix, width in list(_widths(element, place)):
            low, high = _label_range(element, label)
            spec = FeatureSpec(
                name=stem + suffix,
                kind="number",
                origin="window",
                declared=element.described,
                unit=element.unit or {"count": "labels", "rate": "share"}.get(element.aggregate, ""),
                default=default,
                low=low,
                high=high,
                privacy="free",
                entity=entity.name,
                window_us=width,
                tile_us=tile_us(width),
            )
            at = entity.add_over_label(spec.name, element.aggregate, str(element.value), width, default)
            self._outputs[spec.name] = (entity.name, at)
            specs.append(spec)
        return specs

    def plans(self) -> tuple[EntityPlan, ...]:
        """The plans of all entities, in the order in which the features first named them."""
        return tuple(builder.plan() for builder in self._entities.values())

    def column(self, feature: str) -> int:
        """The column of a window feature in the window matrix."""
        entity, at = self._outputs[feature]
        names = list(self._entities)
        return at + sum(len(self._entities[name].outputs) for name in names[: names.index(entity)])

    def _entity(self, entity: Entity, place: str) -> EntityBuilder:
        if not is_name(entity.name, LONGEST_ENTITY):
            expected = f"letters, digits and _, at most {LONGEST_ENTITY}"
            raise PipelineError(place, f"the entity's name {entity.name!r}", expected)
        if entity.name == RESERVED_ENTITY:
            raise PipelineError(
                place, f"the entity's name {entity.name!r} is the join stage's", "another name"
            )
        known = self._entities.get(entity.name)
        if known is not None and known.keys != entity.keys:
            seen = f"entity {entity.name} has the keys {entity.keys} here and {known.keys} before"
            raise PipelineError(place, seen, "one name for each entity")
        for key in entity.keys:
            self.fields.key(key, f"{place}, entity {entity.name}")
        if len(set(entity.keys)) != len(entity.keys):
            raise PipelineError(place, f"the keys {entity.keys} name a field twice", "different fields")
        return self._entities.setdefault(
            entity.name, EntityBuilder(entity.name, entity.keys, self.label.inputs)
        )

    def _input(self, element: WindowFeatures, place: str) -> _Input:
        text = element.value
        if element.aggregate in ("count", "since_last"):
            return _Input(None, None, "free")
        if is_name(text) or (text is not None and text in self.fields.schema):
            field = self.fields.usable(text, place)
            self._use(field, element, place)
            return _Input(field.name, field, field.privacy)
        parsed = self.fields.parse(text, self.fields.kinds(), place)
        return _Input(parsed.source, None, self.fields.privacy(parsed.names))

    def _use(self, field: Field, element: WindowFeatures, place: str) -> None:
        if element.aggregate == "distinct" and field.type in (str, int):
            self.fields.as_text(field.name)
        elif field.kind in ("number", "boolean"):
            self.fields.as_number(field.name)
        else:
            kind = "text" if field.kind == "text" else "a time"
            others = " (texts: count, distinct)" if kind == "text" else ""
            expected = f"a number field or an expression of numbers{others}"
            raise PipelineError(place, f"{field.described} is {kind}", expected)

    def _condition(self, element: WindowFeatures, place: str) -> tuple[str | None, Privacy]:
        if element.where is None:
            return None, "free"
        parsed = self.fields.parse(element.where, self.fields.kinds(), f"{place}, where")
        if parsed.kind != "condition":
            raise PipelineError(f"{place}, where", f"{element.where!r} is a {parsed.kind}", CONDITION)
        return parsed.source, self.fields.privacy(parsed.names)


def _counting_labels(element: WindowFeatures, label: LabelNames) -> WindowFeatures:
    """`count("late", "1d")` counts labels: what stands first is no window, but what is counted."""
    first = next(iter(element.windows), None)
    if element.aggregate != "count" or first not in label.inputs:
        return element
    return replace(element, value=first, windows=element.windows[1:])


def _check_over_label(element: WindowFeatures, label: LabelNames, place: str) -> None:
    value, aggregate = element.value, element.aggregate
    if value not in label.inputs:
        expected = f"the label, {label.name!r} (of a field: mean)"
        raise PipelineError(place, f"rate of {value!r}, which is not the label", expected)
    if aggregate not in OVER_LABELS:
        expected = f"one of {', '.join(OVER_LABELS)}: a label may be corrected, and no {aggregate} can take back what it took"
        raise PipelineError(place, f"{aggregate} over labels ({value!r})", expected)
    if element.where is not None:
        seen = f"where={element.where!r} on a window over labels, which come without the event's fields"
        raise PipelineError(
            place, seen, "no where; a number that comes with the label (Label(…, values=…)) can tell"
        )
    if value != label.name:
        if aggregate == "rate":
            raise PipelineError(
                place, f"rate of {value!r}, which is a number beside the label", f"mean({value!r}, …)"
            )
    elif aggregate == "rate" and label.kind != "binary":
        expected = (
            f"mean({value!r}, …)"
            if label.kind == "regression"
            else "count, or a window over a number of its values"
        )
        raise PipelineError(place, f"rate of a {label.kind} label", expected)
    elif aggregate != "count" and label.kind == "multiclass":
        raise PipelineError(
            place, f"{aggregate} of classes", "count, or a window over a number of its values"
        )


def _label_range(element: WindowFeatures, label: LabelNames) -> tuple[float | None, float | None]:
    binary = label.kind == "binary" and element.value == label.name
    high = 1.0 if binary and element.aggregate in ("rate", "mean") else None
    return 0.0 if binary or element.aggregate in ("count", "std") else None, high


def _widths(element: WindowFeatures, place: str) -> Iterator[tuple[str, int]]:
    """(ending of the feature's name, width in microseconds) of each window."""
    if element.aggregate in ("last", "since_last", "ewm"):
        yield "", window_us(element.within, f"{place}, within")
        return
    if not element.windows:
        raise PipelineError(place, "it has no window", "one or more widths, such as '1h', '7d'")
    for window in element.windows:
        yield f"_{window}", window_us(window, place)


def _stem(element: WindowFeatures, given: _Input, place: str) -> str:
    if element.name is not None:
        return element.name
    if given.value is not None and given.field is None and not given.named:
        raise PipelineError(place, "an expression has no name of its own", "name='…' as well")
    parts = [element.entity.name, element.value, element.aggregate, element.half_life]
    return "_".join(part for part in parts if part is not None)


def _bound(element: WindowFeatures, place: str) -> int:
    if element.aggregate != "distinct":
        return 0
    least, most = DISTINCT_BOUNDS
    given: object = element.exact_to
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise PipelineError(place, f"exact_to={given!r}", f"a whole number from {least} to {most}")
    return given


def _default(element: WindowFeatures, place: str) -> float:
    given: object = element.default
    if given is None:
        return RULES[element.aggregate].default
    if isinstance(given, bool) or not isinstance(given, int | float) or math.isinf(given):
        raise PipelineError(place, f"default={given!r}", "a number (float('nan'): missing)")
    return float(given)


def _unit(element: WindowFeatures, field: Field | None) -> str:
    if element.unit is not None:
        return element.unit
    return RULES[element.aggregate].unit or (field.unit if field else "")


def _range(aggregate: str, field: Field | None, width_us: int) -> tuple[float | None, float | None]:
    """The least and the greatest value that the feature can have, as far as that is known."""
    rule = RULES[aggregate]
    if rule.keeps_range:
        return (field.low, field.high) if field else (None, None)
    return 0.0 if rule.at_least_zero else None, width_us / 1e6 if aggregate == "since_last" else None
