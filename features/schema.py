"""What an event is: the fields of a pipeline's `msgspec.Struct`, their ranges, and who may see them.

A field is a plain Python type (`str`, `int`, `float`, `bool`, `datetime`, `date`, a `Literal` of texts or of whole
numbers), `| None` where it may be null, with a default where it may be absent. What else is known about it is written
beside the type: `Annotated[float, Meta(ge=0), unit("EUR"), sensitive]`.
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from features.errors import PipelineError

Kind = Literal["number", "boolean", "text", "time"]
Privacy = Literal["free", "personal", "sensitive"]

personal = Meta(extra={"privacy": "personal"})
"""Tag of a field that names or finds a person. No feature unless `allow_personal` names it; masked wherever shown."""

sensitive = Meta(extra={"privacy": "sensitive"})
"""Tag of a field that may be a feature but is nobody's business: masked in logs and views."""

known_later = Meta(extra={"known": "later"})
"""Tag of a field that nobody knows yet at the moment of decision: refused as a feature, a key or a window's input."""

MASK = "•••"
"""What stands in logs and views for the value of a personal or sensitive field."""

SUPPORTED = (
    "str, int, float, bool, datetime, date, or a Literal of texts or of whole numbers, each perhaps | None"
)

_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_KINDS: Mapping[type, Kind] = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "text",
    datetime: "time",
    date: "time",
}


def unit(name: str) -> Meta:
    """A tag that says in what a number is measured: `Annotated[float, unit("km")]`.

    Example:
        >>> unit("km").extra
        {'unit': 'km'}
    """
    return Meta(extra={"unit": name})


@dataclass(frozen=True)
class Field:
    """One field of the event. `name` is the Python name, used in declarations; `json_name` what stands in the record."""

    name: str
    json_name: str
    kind: Kind
    type: type  # the bare Python type
    choices: tuple[object, ...]  # of a Literal, else empty
    constraints: tuple[Meta, ...]
    required: bool
    nullable: bool
    default: object  # of a field that may be absent
    unit: str
    low: float | None  # inclusive or not: see `constraints`
    high: float | None
    privacy: Privacy
    known_later: bool

    @property
    def integer(self) -> bool:
        """Whether its values are whole numbers."""
        return self.type is int

    @property
    def described(self) -> str:
        """The field as an error names it: `carrier (str)`."""
        return f"{self.name} ({self.type.__name__})"

    @property
    def limits(self) -> dict[str, Any]:
        """The constraints that msgspec checks, by their names in `Meta` (empty for a Literal)."""
        names = () if self.choices else _LIMITS
        return {
            name: value
            for meta in self.constraints
            for name in names
            if (value := getattr(meta, name)) is not None
        }

    def decode_type(self, limits: Mapping[str, Any]) -> Any:
        """The type that msgspec decodes: choices, constraints and null, none of the user's own annotations."""
        bare: Any = Literal[self.choices] if self.choices else self.type
        constrained = Annotated[bare, Meta(**limits)] if limits else bare
        return constrained | None if self.nullable else constrained


@dataclass(frozen=True)
class EventSchema:
    """The fields of an event, in the order in which they are declared."""

    event: str  # the struct's name
    fields: tuple[Field, ...]

    def __contains__(self, name: str) -> bool:
        return any(field.name == name for field in self.fields)

    def __getitem__(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)

    def find(self, name: object, place: str, role: str = "field") -> Field:
        """The field of this name, or a PipelineError that names the nearest one there is."""
        if isinstance(name, str) and name in self:
            return self[name]
        raise PipelineError(
            place, f"{self.event} has no {role} {name!r}", nearest(name, [f.name for f in self.fields])
        )

    def masked(self, record: Mapping[str, object]) -> dict[str, object]:
        """The record (by JSON names) as it may be shown: personal and sensitive values are replaced by `MASK`.

        Example:
            >>> class Payment(msgspec.Struct):
            ...     card: Annotated[str, personal]
            ...     amount: float
            >>> read_schema(Payment, "pipeline payments").masked({"card": "4111", "amount": 3.5, "note": "?"})
            {'card': '•••', 'amount': 3.5, 'note': '?'}
        """
        hidden = {field.json_name for field in self.fields if field.privacy != "free"}
        return {
            name: MASK if name in hidden and value is not None else value for name, value in record.items()
        }

    def masked_json(self, value: bytes) -> str:
        """A record as it may be shown, whatever its bytes hold: what cannot be read cannot be masked, so is not shown.

        Example:
            >>> class Payment(msgspec.Struct):
            ...     card: Annotated[str, personal]
            >>> schema = read_schema(Payment, "pipeline payments")
            >>> print(schema.masked_json(b'{"card": "4111", "amount": "?"}'))
            {"card": "•••", "amount": "?"}
            >>> print(schema.masked_json(b'{"card": "4111'))
            (14 bytes that are no JSON object)
        """
        try:
            record = json.loads(value)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            return f"({len(value):,} bytes that are no JSON object)"
        shown = json.dumps(self.masked(record), ensure_ascii=False)
        return shown.encode(errors="replace").decode()  # half of a surrogate pair cannot be printed


def is_name(value: object, longest: int = 100) -> bool:
    """Whether it is a text that may name a feature, an entity or a label.

    Example:
        >>> is_name("card_count_1d"), is_name("1st"), is_name("amount (EUR)"), is_name(None)
        (True, False, False, False)
    """
    return isinstance(value, str) and len(value) <= longest and _NAME.fullmatch(value) is not None


def nearest(name: object, names: Iterable[str]) -> str:
    """What was expected where an unknown name stands: the names there are, the nearest first.

    Example:
        >>> nearest("carier", ["distance_km", "carrier"])
        "'carrier' (there are: distance_km, carrier)"
    """
    known = list(names)
    close = difflib.get_close_matches(str(name), known, n=1)
    listed = ", ".join(known) if len(known) <= 40 else ", ".join(known[:40]) + ", …"
    return f"{close[0]!r} (there are: {listed})" if close else f"one of: {listed}"


def read_schema(event: object, place: str) -> EventSchema:
    """The schema of a `msgspec.Struct` class.

    Raises PipelineError where the class is no plain Struct, or a field's type is not one of `SUPPORTED`.

    Example:
        >>> class Departure(msgspec.Struct):
        ...     carrier: str
        ...     wind_kmh: Annotated[float, Meta(ge=0), unit("km/h")] | None = None
        >>> wind = read_schema(Departure, "pipeline flights")["wind_kmh"]
        >>> wind.kind, wind.nullable, wind.required, wind.low, wind.unit
        ('number', True, False, 0, 'km/h')
    """
    if not (isinstance(event, type) and issubclass(event, msgspec.Struct)):
        raise PipelineError(f"{place}, event", f"{event!r} is no event class", "a subclass of msgspec.Struct")
    _check_plain(event, f"{place}, event {event.__name__}")
    try:
        infos = msgspec.structs.fields(event)
    except NameError as error:
        raise PipelineError(
            f"{place}, event {event.__name__}",
            f"a field's type cannot be resolved: {error}",
            "types that are imported",
        ) from error
    fields = tuple(_read_field(info, f"{place}, event {event.__name__}, field {info.name}") for info in infos)
    if not fields:
        raise PipelineError(
            f"{place}, event {event.__name__}", "it has no fields", "an id and an event time at least"
        )
    return EventSchema(event.__name__, fields)


def _check_plain(event: type[msgspec.Struct], place: str) -> None:
    config = event.__struct_config__
    if config.tag is not None:
        raise PipelineError(
            place, f"it is tagged ({config.tag_field}={config.tag!r})", "a plain struct, without tag="
        )
    if config.array_like:
        raise PipelineError(place, "it is array_like", "a plain struct: events are JSON objects")
    if hasattr(event, "__post_init__"):
        raise PipelineError(
            place, "it has __post_init__, which columns never call", "ranges by Meta(ge=…, le=…) instead"
        )


def _read_field(info: msgspec.structs.FieldInfo, place: str) -> Field:
    bare, metas, nullable = _unwrap(info.type, place)
    choices = typing.get_args(bare) if typing.get_origin(bare) is Literal else ()
    python_type = _type_of_choices(choices, place) if choices else bare
    if python_type not in _KINDS:
        raise PipelineError(place, f"its type is {_type_name(info.type)}", SUPPORTED)
    extra: dict[str, Any] = {}
    for meta in metas:
        extra |= meta.extra or {}
    field = Field(
        name=info.name,
        json_name=info.encode_name,
        kind=_KINDS[python_type],
        type=python_type,
        choices=choices,
        constraints=metas,
        required=info.required,
        nullable=nullable,
        default=_default(info),
        unit=str(extra.get("unit", "")),
        low=0 if python_type is bool else _bound(metas, "ge", "gt"),
        high=1 if python_type is bool else _bound(metas, "le", "lt"),
        privacy=extra.get("privacy", "free"),
        known_later=extra.get("known") == "later",
    )
    _check_decodes(field, place)
    return field


def _unwrap(annotation: Any, place: str) -> tuple[Any, tuple[Meta, ...], bool]:
    """Take `Annotated` and `| None` off, in whatever order they were put on."""
    metas: tuple[Meta, ...] = ()
    nullable = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            metas += tuple(tag for tag in annotation.__metadata__ if isinstance(tag, Meta))
            annotation = annotation.__origin__
        elif origin in (typing.Union, types.UnionType):
            members = [member for member in typing.get_args(annotation) if member is not type(None)]
            if len(members) != 1:
                raise PipelineError(place, f"its type is {_type_name(annotation)}", SUPPORTED)
            annotation, nullable = members[0], True
        else:
            return annotation, metas, nullable


def _type_of_choices(choices: tuple[object, ...], place: str) -> type:
    kinds = {type(choice) for choice in choices}
    if kinds in ({str}, {int}):
        return kinds.pop()
    raise PipelineError(
        place, f"its choices are {list(choices)}", "a Literal of texts only, or of whole numbers only"
    )


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _default(info: msgspec.structs.FieldInfo) -> object:
    if info.default_factory is not msgspec.NODEFAULT:
        return info.default_factory()
    return None if info.default is msgspec.NODEFAULT else info.default


def _bound(metas: tuple[Meta, ...], inclusive: str, exclusive: str) -> float | None:
    values = [getattr(meta, name) for meta in metas for name in (inclusive, exclusive)]
    present = [value for value in values if value is not None]
    return present[-1] if present else None


def _check_decodes(field: Field, place: str) -> None:
    """Let msgspec judge the constraints, and the default against them, while somebody is there to read about it."""
    try:
        msgspec.json.Decoder(field.decode_type(field.limits))
    except (TypeError, ValueError) as error:
        raise PipelineError(
            place, f"msgspec refuses it ({error})", "constraints that fit the type"
        ) from error
    if field.required:
        return
    try:
        msgspec.convert(field.default, field.decode_type(field.limits))
    except msgspec.ValidationError as error:
        raise PipelineError(
            place, f"its default {field.default!r} is refused ({error})", "a default of its type"
        ) from error
