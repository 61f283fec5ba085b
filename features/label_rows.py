"""Rows of labels, as the windows over labels take them: what became known of an entity's events, and when.

A label row adds its values to the tile of the time at which they became **known**. A correction is one row: it takes what
it replaces out of the tile in which that stood, and adds what is right now to the tile of its own time. Such rows are no
events: they change no window over events, no `last`, no age, and never make an entity newer. A window over labels begins
and ends where one over events would; what lives in its ring is decided by the newest time at which a label became known.
A row without a value (the event has no label) takes out what it replaces and else changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from features.plan import Floats, Ints

NO_TIME: Final = -(2**63)
"""`replaced_known_us` of a row that replaces nothing."""


@dataclass(frozen=True)
class LabelNames:
    """The label as windows over labels know it: its name, its kind ("binary", "regression", "multiclass"), the names of
    the numbers that come with it, and all that decides what its rows say (for the hash of the features)."""

    name: str
    kind: str = "binary"
    values: tuple[str, ...] = ()
    definition: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a window can be over: the label's name, then its values."""
        return (self.name, *self.values)


@dataclass(frozen=True)
class LabelRows:
    """n rows in their order, each for one entity.

    `keys` are the entities', as in `features.rows.entity_keys`; an event whose key is absent has no label row. `known_us`
    int64[n]: when the label became known, in microseconds. `values` float64[n, L] in the order of `EntityPlan.label_inputs`
    (NaN: there is none). `replaced_known_us` int64[n] and `replaced` float64[n, L]: what the same event's row had said
    before, `NO_TIME` and anything where it had said nothing.

    Example:
        >>> first = LabelRows.of(["JFK"], [100], [[1.0, 32.0]])
        >>> corrected = LabelRows.of(["JFK"], [260], [[0.0, 4.0]], replaced_known_us=[100], replaced=[[1.0, 32.0]])
        >>> len(first), bool(first.replaced_known_us[0] == NO_TIME), corrected.replaced.tolist()
        (1, True, [[1.0, 32.0]])
    """

    keys: Sequence[str]
    known_us: Ints
    values: Floats
    replaced_known_us: Ints
    replaced: Floats

    @classmethod
    def of(
        cls,
        keys: Sequence[str],
        known_us: Sequence[int] | Ints,
        values: Sequence[Sequence[float]] | Floats,
        replaced_known_us: Sequence[int] | Ints | None = None,
        replaced: Sequence[Sequence[float]] | Floats | None = None,
    ) -> LabelRows:
        """Rows from anything that NumPy takes; without `replaced_known_us` they replace nothing."""
        added = np.array(values, np.float64).reshape(len(keys), -1)
        before = np.full(len(keys), NO_TIME) if replaced_known_us is None else replaced_known_us
        gone = np.full(added.shape, np.nan) if replaced is None else np.array(replaced, np.float64)
        return cls(
            keys, np.array(known_us, np.int64), added, np.array(before, np.int64), gone.reshape(added.shape)
        )

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, chosen: Ints) -> LabelRows:
        """The rows at these indices, in this order."""
        return LabelRows(
            [self.keys[row] for row in chosen],
            self.known_us[chosen],
            self.values[chosen],
            self.replaced_known_us[chosen],
            self.replaced[chosen],
        )


def join(parts: Sequence[LabelRows]) -> LabelRows:
    """Several in one, in order; at least one."""
    return LabelRows(
        [key for part in parts for key in part.keys],
        np.concatenate([part.known_us for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.replaced_known_us for part in parts]),
        np.concatenate([part.replaced for part in parts]),
    )
