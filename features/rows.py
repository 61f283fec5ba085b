"""A batch of decoded events in columns, as it travels from stage to stage.

Numbers (booleans as 0 and 1, times as seconds since the Unix epoch) stand in one float64 matrix, NaN for null; texts in
Arrow string arrays, because entity keys and categories leave them only once.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from features.plan import Floats, Ints

KEY_SEPARATOR = "|"


@dataclass(frozen=True)
class RowLayout:
    """Which fields of the event travel, in column order: those that some feature, window or entity key needs."""

    numbers: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """n events. `numbers` is float64[n, len(layout.numbers)]; `texts` holds len(layout.texts) string arrays of n."""

    layout: RowLayout
    event_ids: pa.StringArray
    times_us: Ints
    numbers: Floats
    texts: tuple[pa.StringArray, ...]

    def __len__(self) -> int:
        return len(self.times_us)

    def number(self, field: str) -> Floats:
        """The float64[n] column of a number field."""
        column: Floats = self.numbers[:, self.layout.numbers.index(field)]
        return column

    def text(self, field: str) -> pa.StringArray:
        """The string array of a text field."""
        return self.texts[self.layout.texts.index(field)]

    def take(self, chosen: Ints) -> Rows:
        """The rows at these indices, in this order."""
        indices = pa.array(chosen)
        return Rows(
            self.layout,
            self.event_ids.take(indices),
            self.times_us[chosen],
            self.numbers[chosen],
            tuple(column.take(indices) for column in self.texts),
        )


def entity_keys(rows: Rows, fields: tuple[str, ...]) -> list[str | None]:
    """The key of each row: the field's text, or several joined by '|' ('|' and '\\' inside a value are escaped).

    A row in which any of the fields is null has no key: its features of this entity take their defaults.

    Example:
        >>> import numpy as np
        >>> layout = RowLayout((), ("origin", "destination"))
        >>> texts = (pa.array(["JFK", None]), pa.array(["L|X", "SFO"]))
        >>> rows = Rows(layout, pa.array(["a", "b"]), np.zeros(2, np.int64), np.zeros((2, 0)), texts)
        >>> entity_keys(rows, ("origin", "destination"))
        ['JFK|L\\\\|X', None]
    """
    columns: list[list[str | None]] = [rows.text(field).to_pylist() for field in fields]
    if len(columns) == 1:
        return columns[0]
    return [_joined(values) for values in zip(*columns, strict=True)]


def _joined(values: tuple[str | None, ...]) -> str | None:
    present = [
        value.replace("\\", "\\\\").replace(KEY_SEPARATOR, "\\|") for value in values if value is not None
    ]
    return KEY_SEPARATOR.join(present) if len(present) == len(values) else None
