"""What may stand in a pipeline's `features` beside windows and calendar parts: fields, categories, expressions."""

from __future__ import annotations

from dataclasses import dataclass

from features.calendar import CalendarPart
from features.windows import WindowFeatures


@dataclass(frozen=True)
class Categorical:
    """A field whose values are names, not amounts."""

    field: str
    name: str | None = None

    @property
    def described(self) -> str:
        """The declaration as the user wrote it."""
        return f"categorical({self.field!r})"


@dataclass(frozen=True)
class RowExpression:
    """A feature worked out from the event's fields and from other features."""

    name: str
    text: str
    unit: str = ""

    @property
    def described(self) -> str:
        """The declaration as the user wrote it."""
        return f"expression({self.name!r}, {self.text!r})"


Element = str | Categorical | RowExpression | CalendarPart | WindowFeatures


def categorical(field: str, *, name: str | None = None) -> Categorical:
    """A text or whole-number field as a category: its values are names, not amounts.

    The model learns about the values it saw in training; any other is treated as missing.

    Example:
        >>> categorical("carrier").described
        "categorical('carrier')"
    """
    return Categorical(field, name)


def expression(name: str, text: str, *, unit: str = "") -> RowExpression:
    """A number worked out from fields of the event and from other features, by their names.

    Example:
        >>> expression("speed", "distance_km / (minutes / 60)", unit="km/h").name
        'speed'
    """
    return RowExpression(name, text, unit)
