"""From what a pipeline declares to a checked `FeatureSet`. Every mistake is one PipelineError with its place."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import FunctionType, MethodType
from typing import Any

from features.calendar import CalendarPart, check_zone, part_range
from features.durations import duration_us
from features.elements import Categorical, RowExpression
from features.errors import PipelineError
from features.event_times import DEFAULT_EARLIEST, LATEST_US, TimeReading, moment_us, read_time
from features.feature_set import (
    CalendarStep,
    CategoryStep,
    ExpressionStep,
    FeatureSet,
    FeatureSpec,
    FieldStep,
    Step,
    WindowStep,
)
from features.field_use import FieldUse, strictest
from features.label_rows import LabelNames
from features.plan import EntityPlan
from features.rows import RowLayout
from features.schema import EventSchema, Field, Privacy, is_name, read_schema
from features.window_reader import WindowReader
from features.windows import Entity, WindowFeatures

# Raised when the meaning of a declaration changes: a model trained under another meaning is then refused.
SEMANTICS = 1

NAME_RULE = "letters, digits and _, beginning with a letter, at most 100"

ELEMENTS = "a field name, categorical(…), expression(…), hour_of_day(…) or an entity's window such as shop.count('1d')"


@dataclass(frozen=True)
class Declared:
    """What a pipeline says about its events and features, unchecked."""

    place: str  # "pipeline flights"
    event: object
    id: object
    time: object
    features: Sequence[object]
    label: str
    time_unit: object = None
    time_zone: object = None
    earliest: object = DEFAULT_EARLIEST
    max_ahead: object = "1h"
    allow_personal: Sequence[str] = ()
    label_kind: str = "binary"
    label_values: Sequence[str] = ()
    label_definition: str = ""  # all that decides what is known of a label, and when: for the hash
    watched: Sequence[
        object
    ] = ()  # fields that travel although they are no features, and those that tell segments
    segments: Sequence[object] = ()

    @property
    def label_names(self) -> LabelNames:
        """The label as the windows over it know it."""
        return LabelNames(self.label, self.label_kind, tuple(self.label_values), self.label_definition)


def compile_features(declared: Declared) -> FeatureSet:
    """Check and compile; raises PipelineError at the first mistake."""
    place = declared.place
    schema = read_schema(declared.event, place)
    _check_label(schema, declared)
    id_field = _id_field(schema, declared)
    time_field = schema.find(declared.time, f"{place}, time")
    time = read_time(time_field, declared.time_unit, declared.time_zone, place)
    _check_allowed(schema, declared)
    earliest_us = moment_us(declared.earliest, f"{place}, earliest")
    if earliest_us >= LATEST_US:
        raise PipelineError(f"{place}, earliest", f"{declared.earliest!r}", "a date before 2200")
    max_ahead_us = duration_us(declared.max_ahead, f"{place}, max_ahead")
    reader = _FeatureReader(declared, schema)
    reader.read()
    _read_watched(declared, reader.fields)
    layout, plans, steps = reader.fields.layout(), reader.windows.plans(), tuple(reader.steps)
    return FeatureSet(
        schema=schema,
        id_field=id_field.name,
        time_field=time_field.name,
        time=time,
        earliest_us=earliest_us,
        max_ahead_us=max_ahead_us,
        label_fields=(declared.label, "known_at"),
        layout=layout,
        entities=plans,
        windows=tuple(output.name for plan in plans for output in plan.outputs),
        features=tuple(reader.specs),
        steps=steps,
        order=reader.order,
        hash=_hash(schema, layout, time, plans, reader.specs, steps, declared.label_definition),
    )


def _check_label(schema: EventSchema, declared: Declared) -> None:
    for field in schema.fields:
        if field.known_later and field.required:
            place = f"{declared.place}, event {schema.event}, field {field.name}"
            seen = "it is known_later, and yet every event must have it"
            raise PipelineError(place, seen, "a default: Annotated[…, known_later] = None")
    for name in declared.label_names.inputs:
        if name in schema and not schema[name].known_later:
            what = "is the label" if name == declared.label else "comes with the label"
            raise PipelineError(
                f"{declared.place}, event {schema.event}, field {name}",
                f"it {what}, which nobody knows at the moment of decision",
                "no such field, or the tag known_later (Annotated[…, known_later])",
            )


def _id_field(schema: EventSchema, declared: Declared) -> Field:
    place = f"{declared.place}, id"
    field = schema.find(declared.id, place)
    if not field.required or field.nullable:
        raise PipelineError(place, f"{field.described} may be null or absent", "a field that every event has")
    if field.type not in (str, int):
        raise PipelineError(place, field.described, "a text or a whole number")
    return field


def _check_allowed(schema: EventSchema, declared: Declared) -> None:
    place = f"{declared.place}, allow_personal"
    allowed: object = declared.allow_personal
    if isinstance(allowed, str):
        raise PipelineError(place, f"{allowed!r} is one text", f"names in brackets: ({allowed!r},)")
    for name in declared.allow_personal:
        if schema.find(name, place).privacy != "personal":
            raise PipelineError(place, f"{name} is not tagged personal", "only personal fields")


def _read_watched(declared: Declared, fields: FieldUse) -> None:
    for index, name in enumerate(declared.watched):
        fields.watched(name, f"{declared.place}, drift, fields[{index}]")
    for index, name in enumerate(declared.segments):
        fields.segment(name, f"{declared.place}, drift, segments[{index}]")


class _FeatureReader:
    """Reads the features one after another; `specs` and `steps` grow side by side."""

    def __init__(self, declared: Declared, schema: EventSchema) -> None:
        self.declared = declared
        self.schema = schema
        self.fields = FieldUse(schema, declared.label, declared.allow_personal)
        self.windows = WindowReader(self.fields, declared.label_names)
        self.specs: list[FeatureSpec] = []
        self.steps: list[Step] = []
        self.order: tuple[int, ...] = ()
        self.expressions: list[
            tuple[int, RowExpression, str]
        ] = []  # index, declaration, place: parsed at the end

    def read(self) -> None:
        features: object = self.declared.features
        place = f"{self.declared.place}, features"
        if isinstance(features, str) or not isinstance(features, Sequence) or not features:
            seen = f"{features!r}" if features else "there are none"
            raise PipelineError(place, seen, f"a list with at least one of: {ELEMENTS}")
        for index, element in enumerate(features):
            self.read_one(element, f"{place}[{index}] {_described(element)}")
        self.read_expressions()
        for index, spec in enumerate(self.specs):
            if spec.origin == "window":
                self.steps[index] = WindowStep(self.windows.column(spec.name))

    def read_one(self, element: object, place: str) -> None:
        match element:
            case str():
                self.read_field(element, place)
            case Categorical():
                self.read_category(element, place)
            case CalendarPart():
                self.read_calendar(element, place)
            case RowExpression():
                self.expressions.append((len(self.specs), element, place))
                self.add(
                    _spec(element.name, "expression", element.described, unit=element.unit), _LATER, place
                )
            case WindowFeatures():
                for spec in self.windows.read(element, place):
                    self.add(spec, _LATER, place)
            case Entity():
                expected = f"a window of it: {element.name}.count('1d')"
                raise PipelineError(place, "an entity alone is no feature", expected)
            case MethodType() | FunctionType():
                seen = "its brackets are missing, so it was not called"
                raise PipelineError(place, seen, f"a call of it: {_call(element)}")
            case _:
                raise PipelineError(place, f"an element of type {type(element).__name__}", ELEMENTS)

    def read_field(self, name: str, place: str) -> None:
        field = self.fields.usable(name, place)
        if field.kind == "text":
            raise PipelineError(
                place, f"{field.described} is text", f"a number; as a category: categorical({name!r})"
            )
        if field.kind == "time":
            expected = f"a number: hour_of_day(of={name!r}), or a difference by expression"
            raise PipelineError(place, f"{field.described} is a time", expected)
        self.fields.as_number(name)
        spec = _spec(name, "field", name, field.unit, field.low, field.high, field.privacy)
        self.add(spec, FieldStep(name), place, own_field=name)

    def read_category(self, element: Categorical, place: str) -> None:
        field = self.fields.usable(element.field, place)
        if field.type not in (str, int):
            hint = "; write it plainly, it is a number" if field.kind in ("boolean", "number") else ""
            raise PipelineError(place, field.described, f"a text or whole-number field{hint}")
        self.fields.as_text(field.name)
        spec = _spec(element.name or field.name, "field", element.described, privacy=field.privacy)
        self.add(replace(spec, kind="category"), CategoryStep(field.name), place, own_field=field.name)

    def read_calendar(self, element: CalendarPart, place: str) -> None:
        check_zone(element.zone, place)
        of, privacy = element.of, "free"
        if of is not None:
            field = self.fields.usable(of, place)
            if field.kind != "time":
                raise PipelineError(place, field.described, "a datetime or date field")
            of = None if of == self.declared.time else of
            privacy = field.privacy
        if of is not None:
            self.fields.as_number(of)
        low, high = part_range(element.part)
        spec = _spec(element.feature_name, "calendar", element.described, "", low, high, privacy)
        self.add(spec, CalendarStep(element.part, element.zone, of), place)

    def add(self, spec: FeatureSpec, step: Step, place: str, own_field: str | None = None) -> None:
        if not is_name(spec.name):
            raise PipelineError(place, f"the feature's name {spec.name!r}", NAME_RULE)
        for other in self.specs:
            if other.name == spec.name:
                seen = f"two features are named {spec.name!r} (the other is {other.declared}, before it)"
                raise PipelineError(place, seen, "different names: give one of them name='…'")
        if spec.name in self.declared.label_names.inputs:
            raise PipelineError(place, f"the feature's name {spec.name!r} is the label's", "another name")
        if spec.name in self.schema and spec.name != own_field:
            raise PipelineError(
                place, f"the feature's name {spec.name!r} is a field's", "another name: name='…'"
            )
        self.specs.append(spec)
        self.steps.append(step)

    def read_expressions(self) -> None:
        """Parse the expressions, now that every feature has its name, and find the order in which to take the steps."""
        kinds = self.fields.kinds()
        for spec in self.specs:
            kinds.setdefault(spec.name, "text" if spec.kind == "category" else "number")
        places = {spec.name: index for index, spec in enumerate(self.specs)}
        needs: dict[int, list[int]] = {}
        privacy: dict[int, Privacy] = {}
        for index, element, place in self.expressions:
            others = {name: kind for name, kind in kinds.items() if name != element.name}
            parsed = self.fields.parse(element.text, others, place)
            self.steps[index] = ExpressionStep(parsed)
            needs[index] = [places[name] for name in parsed.names if name not in self.schema]
            privacy[index] = self.fields.privacy(name for name in parsed.names if name in self.schema)
        self.order = self.sorted_steps(needs)
        for index in self.order:
            if index in needs:  # all that it needs stands before it in the order
                levels = [privacy[index], *(self.specs[at].privacy for at in needs[index])]
                self.specs[index] = replace(self.specs[index], privacy=strictest(levels))

    def sorted_steps(self, needs: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
        """Every step after those it needs, otherwise in the order of the declaration."""
        order: dict[int, None] = {}
        waiting: list[int] = []

        def visit(index: int) -> None:
            if index in order:
                return
            if index in waiting:
                circle = " -> ".join(self.specs[at].name for at in [*waiting[waiting.index(index) :], index])
                place = next(place for at, _, place in self.expressions if at == index)
                raise PipelineError(place, f"expressions need each other: {circle}", "no circle")
            waiting.append(index)
            for needed in needs.get(index, ()):
                visit(needed)
            waiting.pop()
            order[index] = None

        for index in range(len(self.specs)):
            visit(index)
        return tuple(order)


# Stands in `steps` until all names and windows are known.
_LATER = WindowStep(-1)


def _described(element: object) -> str:
    if isinstance(element, MethodType) and isinstance(element.__self__, Entity):
        return f"{element.__self__.name}.{element.__name__}"
    if isinstance(element, FunctionType):
        return element.__name__
    return str(getattr(element, "described", repr(element)))


def _call(element: MethodType | FunctionType) -> str:
    """How it is called with what it needs: origin.mean('field', '1d')."""
    needed = {"field": "'field'", "label": "'label'", "windows": "'1d'", "half_life": "half_life='1d'"}
    parameters = inspect.signature(element).parameters.values()
    given = [
        needed.get(one.name, "…")
        for one in parameters
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD
    ]
    return f"{_described(element)}({', '.join(given)})"


def _spec(
    name: str,
    origin: Any,
    declared: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    privacy: Any = "free",
) -> FeatureSpec:
    return FeatureSpec(name, "number", origin, declared, unit, math.nan, low, high, privacy)


def _hash(
    schema: EventSchema,
    layout: RowLayout,
    time: TimeReading,
    plans: Sequence[EntityPlan],
    specs: Sequence[FeatureSpec],
    steps: Sequence[Step],
    label_definition: str,
) -> str:
    """16 hex digits over everything that changes a value: not the docs, units or ranges."""
    fields = [schema[name] for name in (*layout.numbers, *layout.texts)]
    content = {
        "semantics": SEMANTICS,
        "fields": [
            (f.name, f.json_name, f.type.__name__, f.nullable, f.required, repr(f.default)) for f in fields
        ],
        "time": asdict(time),
        "entities": [_plan_content(plan) for plan in plans],
        "features": [
            (spec.name, spec.kind, repr(spec.default), type(step).__name__, _step_content(step))
            for spec, step in zip(specs, steps, strict=True)
        ],
    }
    if any(plan.label_inputs for plan in plans):
        content["label"] = label_definition
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _plan_content(plan: EntityPlan) -> dict[str, Any]:
    content = asdict(plan)
    if not plan.label_inputs:
        del content[
            "label_inputs"
        ]  # so that the hash of what has no label windows is what it was before there were any
    return content


def _step_content(step: Step) -> Any:
    return step.expression.source if isinstance(step, ExpressionStep) else asdict(step)
