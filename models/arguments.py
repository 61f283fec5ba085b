"""What a call in a pipeline file should have looked like, where Python only says that it does not fit."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from features import calendar
from features.elements import categorical, expression
from features.schema import nearest, unit
from features.windows import RULES, Entity
from models.blend import Blend
from models.decision import CostMatrix, DailyCapacity, Threshold
from models.label import Label
from models.learners import bounded_tree, river_model, scaled_linear, scaled_logistic
from models.lightgbm_spec import DECIDED_ELSEWHERE, LightGBM
from models.pipeline import Pipeline

_CALENDAR = ("hour_of_day", "minute_of_day", "day_of_week", "day_of_month", "day_of_year", "month")

_LEARNERS = (bounded_tree, river_model, scaled_linear, scaled_logistic)

# By the name that Python's TypeError gives them.
_CALLED: Mapping[str, Callable[..., Any]] = {
    **{
        f"{made.__name__}.__init__": made
        for made in (Pipeline, Entity, Label, Blend, LightGBM, Threshold, CostMatrix, DailyCapacity)
    },
    **{made.__name__: made for made in (categorical, expression, unit, *_LEARNERS)},
    **{name: getattr(calendar, name) for name in _CALENDAR},
    **{f"Entity.{name}": getattr(Entity, name) for name in RULES},
}


def expected_call(error: BaseException) -> str | None:
    """What was expected where one of our own was called wrongly; None for every other error.

    Example:
        >>> expected_call(TypeError("Label.__init__() got an unexpected keyword argument 'horizn'"))
        "'horizon' (there are: name, kind, classes, horizon, when_silent, values, holdout)"
    """
    found = re.match(r"([\w.]+)\(\) ", str(error)) if isinstance(error, TypeError) else None
    called = _CALLED.get(found[1]) if found else None
    if called is None:
        return None
    parameters = [name for name in inspect.signature(called).parameters if name != "self"]
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return f"{called.__name__}({', '.join(parameters)})"
    if called is LightGBM:
        return _lightgbm(unknown[1], parameters)
    return nearest(unknown[1], parameters)


def _lightgbm(name: str, parameters: list[str]) -> str:
    there = f"(there are: {', '.join(parameters)})"
    if name not in DECIDED_ELSEWHERE:
        return f"{nearest(name, parameters)}; LightGBM's other parameters go into parameters={{{name!r}: …}}"
    decided = DECIDED_ELSEWHERE[name]
    return f"{decided!r} {there}" if decided in parameters else f"it not here: {decided} decides it {there}"
