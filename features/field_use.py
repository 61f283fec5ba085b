"""Which fields of the event a pipeline's features may use, and which they do use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from features.errors import PipelineError
from features.expressions import Expression, parse_expression
from features.rows import RowLayout
from features.schema import EventSchema, Field, Kind, Privacy


class FieldUse:
    """Hands out the fields that may be part of a feature, and remembers those that must travel with the event."""

    def __init__(self, schema: EventSchema, label: str, allow_personal: Sequence[str]) -> None:
        self.schema = schema
        self.label = label
        self.allow_personal = allow_personal
        self._numbers: set[str] = set()
        self._texts: set[str] = set()

    def usable(self, name: object, place: str) -> Field:
        """The field, if it may be part of a feature; else a PipelineError that says why not."""
        if name == self.label:
            seen = f"{self.label!r} is the label, which nobody knows at the moment of decision"
            raise PipelineError(place, seen, "fields of the event")
        field = self.schema.find(name, place)
        if field.known_later:
            raise PipelineError(
                place, f"{field.described} is known_later", "fields known at the moment of decision"
            )
        if field.privacy == "personal" and name not in self.allow_personal:
            raise PipelineError(
                place,
                f"{field.described} is personal",
                f"fields that are not, or allow_personal=({name!r},) in the pipeline (a personal field may be a key)",
            )
        return field

    def key(self, name: str, place: str) -> None:
        """Use a field as (part of) an entity's key; personal ones may be."""
        field = self.schema.find(name, place, "key field")
        if field.known_later:
            raise PipelineError(
                place, f"{field.described} is known_later", "keys known at the moment of decision"
            )
        if field.type not in (str, int):
            raise PipelineError(place, f"the key {field.described}", "a text or whole-number field")
        self.as_text(name)

    def as_number(self, name: str) -> None:
        """The field travels as a number."""
        self._numbers.add(name)

    def as_text(self, name: str) -> None:
        """The field travels as a text."""
        self._texts.add(name)

    def watched(self, name: object, place: str) -> None:
        """The field travels because the drift watch looks at it; where a feature needs it, it does so anyhow."""
        field = self.usable(name, place)
        if field.kind == "time":
            raise PipelineError(place, f"{field.described} is a time", "a field whose values come again")
        if field.name in self._numbers or field.name in self._texts:
            return
        (self._texts if field.kind == "text" else self._numbers).add(field.name)

    def segment(self, name: object, place: str) -> None:
        """The field travels because the drift watch tells events apart by it; its values stand in alerts."""
        field = self.usable(name, place)
        if field.kind != "text":
            raise PipelineError(place, field.described, "a text field, such as a country or a producer")
        if field.privacy != "free":
            expected = "a field that is free, as its values stand in alerts"
            raise PipelineError(place, f"{field.described} is {field.privacy}", expected)
        self.as_text(field.name)

    def parse(self, text: object, kinds: Mapping[str, Kind], place: str) -> Expression:
        """Parse an expression over these names, and use the fields in it."""
        parsed = parse_expression(text, kinds, place)
        for name in parsed.names:
            if name in self.schema:
                self.usable(name, place)
                (self._texts if name in parsed.texts else self._numbers).add(name)
        return parsed

    def kinds(self) -> dict[str, Kind]:
        """The kind of every field, for expressions. (Whether one may be used is said when it is.)"""
        return {field.name: field.kind for field in self.schema.fields}

    def privacy(self, names: Iterable[str]) -> Privacy:
        """How private something is that is made of these fields."""
        return strictest(self.schema[name].privacy for name in names)

    def layout(self) -> RowLayout:
        """The fields that are used, in the order of the schema."""
        names = [field.name for field in self.schema.fields]
        return RowLayout(
            tuple(name for name in names if name in self._numbers),
            tuple(name for name in names if name in self._texts),
        )


def strictest(levels: Iterable[Privacy]) -> Privacy:
    """How private something is that is made of parts with these levels.

    Example:
        >>> strictest(["free", "sensitive"]), strictest([])
        ('sensitive', 'free')
    """
    found = set(levels)
    return "personal" if "personal" in found else "sensitive" if "sensitive" in found else "free"
