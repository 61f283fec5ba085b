"""The label: what became of an event, how it is written, and when it is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from features.durations import duration_us
from features.errors import DeveloperError, PipelineError
from features.plan import Floats
from features.schema import is_name

NO_LABEL = "no label"
"""`when_silent` where silence says nothing: such an event is never learnt from."""

TAKEN = ("event_id", "known_at")
"""Names in a label's record that are no values of it."""

Class = str | int | bool
LabelKind = Literal["binary", "regression", "multiclass"]


@dataclass(frozen=True)
class Label:
    """What is predicted. `name` is its column in the labels file and its field in the labels topic.

    - `kind="binary"` (the default): 1 or true where it happened, 0 or false where it did not. With other words,
      `classes=("no", "yes")`: the second is what is predicted.
    - `kind="multiclass"`: one of `classes`, texts or whole numbers; the scores come in their order.
    - `kind="regression"`: a number.

    A null label means that this event has none (a cancelled flight is neither late nor on time). `horizon` is how long
    after its event a label may still come. `when_silent` says what an event is whose label has not come by then: "no
    label" (nothing is known; it is not learnt from), or a value (a payment that nobody disputed: 0).

    `values` are names of numbers that come with the label (the minutes of delay), for windows over labels: nothing else
    may know them at the moment of decision. `holdout` is the share of events (0 to below 1, chosen by the hash of the id)
    that consumers are asked to let pass whatever the prediction says, so that what actions prevent can be estimated.

    Raises PipelineError for a declaration that makes no sense.

    Example:
        >>> Label("late", horizon="3d").codes([1, False, None]).tolist()
        [1.0, 0.0, nan]
        >>> Label("outcome", kind="binary", classes=("paid", "default"), horizon="180d").codes(["default"]).tolist()
        [1.0]
    """

    name: str
    kind: LabelKind = "binary"
    classes: Sequence[Class] = ()
    horizon: str = "30d"
    when_silent: float | Class = NO_LABEL
    values: Sequence[str] = ()
    holdout: float = 0.0

    def __post_init__(self) -> None:
        place = f"Label({self.name!r})"
        if not is_name(self.name):
            raise PipelineError(
                place, "its name is no name", "letters, digits and _, beginning with a letter"
            )
        if self.kind not in ("binary", "regression", "multiclass"):
            raise PipelineError(place, f"kind={self.kind!r}", "'binary', 'regression' or 'multiclass'")
        object.__setattr__(self, "classes", self._checked_classes(place))
        duration_us(self.horizon, f"{place}, horizon")
        if self.when_silent != NO_LABEL and self.code(self.when_silent) is None:
            raise PipelineError(
                place, f"when_silent={self.when_silent!r}", f"{NO_LABEL!r} or {self.expected}"
            )
        object.__setattr__(self, "values", self._checked_values(place))
        holdout: object = self.holdout
        number = isinstance(holdout, int | float) and not isinstance(holdout, bool)
        if not number or not 0.0 <= self.holdout < 1.0:
            raise PipelineError(place, f"holdout={holdout!r}", "a share from 0.0 to below 1.0")

    @cached_property
    def horizon_us(self) -> int:
        """How long after its event a label may come, in microseconds."""
        return duration_us(self.horizon, f"Label({self.name!r}), horizon")

    @cached_property
    def silent_code(self) -> float:
        """The code of an event whose label did not come within the horizon; NaN: it has none."""
        code = None if self.when_silent == NO_LABEL else self.code(self.when_silent)
        return math.nan if code is None else code

    @property
    def neutral(self) -> float | tuple[float, ...]:
        """The score of somebody who knows nothing: 0.5, 0.0, or every class alike."""
        if self.kind == "multiclass":
            return (1.0 / len(self.classes),) * len(self.classes)
        return 0.5 if self.kind == "binary" else 0.0

    @property
    def definition(self) -> str:
        """All that decides what the rows of windows over this label say, as text."""
        classes = ",".join(repr(value) for value in self.classes)
        return f"{self.name} {self.kind} [{classes}] {self.horizon_us} {self.silent_code!r} {','.join(self.values)}"

    @property
    def expected(self) -> str:
        """What its values may be, for messages."""
        if self.kind == "regression":
            return "a finite number"
        return "one of " + ", ".join(repr(value) for value in self.classes or (0, 1))

    def codes(self, values: Iterable[object], place: Callable[[int], str] = "row {}".format) -> Floats:
        """float64[n] codes of n labels: 0/1, the number itself, or the index of the class; NaN for null (and NaN).

        Raises DeveloperError for a value that the label cannot have, naming it and the `place` of its index.
        """
        codes: list[float] = []
        for index, value in enumerate(values):
            if value is None or (isinstance(value, float) and math.isnan(value)):
                codes.append(math.nan)
                continue
            code = self.code(value)
            if code is None:
                raise DeveloperError(
                    f"label {self.name}, {place(index)}: {value!r}; expected {self.expected} (or null)"
                )
            codes.append(code)
        return np.array(codes, np.float64)

    def code(self, value: object) -> float | None:
        """The code of one label that is not null; None for a value that the label cannot have."""
        if isinstance(value, np.generic):
            value = value.item()
        if self.kind == "regression":
            return _finite(value)
        if self.classes:
            # 1, 1.0 and True are one value: a column of whole numbers with nulls arrives as floats.
            return next((float(code) for code, known in enumerate(self.classes) if known == value), None)
        return float(value) if isinstance(value, int | float) and value in (0, 1) else None

    def _checked_values(self, place: str) -> tuple[str, ...]:
        given: object = self.values
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise PipelineError(place, f"values={given!r}", f"names in brackets: ({given!r},)")
        for name in given:
            if not is_name(name) or name in TAKEN or name == self.name:
                expected = f"names other than the label's, {' and '.join(TAKEN)}: letters, digits and _"
                raise PipelineError(place, f"values={given!r}: {name!r}", expected)
        if len(set(given)) != len(given):
            raise PipelineError(place, f"values={given!r} names one twice", "different names")
        return tuple(given)

    def _checked_classes(self, place: str) -> tuple[Class, ...]:
        classes = tuple(self.classes) if not isinstance(self.classes, str) else (self.classes,)
        if self.kind == "regression":
            if classes:
                raise PipelineError(
                    place, f"classes={classes!r} of a regression", "no classes, or another kind"
                )
            return ()
        if not classes and self.kind == "binary":
            return ()
        kinds = {type(value) for value in classes}
        if len(classes) != len(set(classes)) or kinds not in ({str}, {int}, {bool}) or len(classes) < 2:
            raise PipelineError(
                place, f"classes={classes!r}", "two or more different texts, or whole numbers"
            )
        if self.kind == "binary" and len(classes) != 2:
            raise PipelineError(
                place, f"classes={classes!r} of a binary label", "two, the second one predicted"
            )
        return classes


def _finite(value: object) -> float | None:
    """A number as 64 bits have it; None for anything else, and for whole numbers that are too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
