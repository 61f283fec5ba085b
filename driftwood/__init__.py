"""Driftwood: every event scored as it arrives. These are the names that a pipeline file imports.

    from driftwood import Entity, Label, LightGBM, Pipeline, Threshold, categorical, hour_of_day

They are loaded when first used, so that `import driftwood` (and with it `driftwood --help`) costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msgspec import Meta as Meta

    from features.calendar import day_of_month as day_of_month
    from features.calendar import day_of_week as day_of_week
    from features.calendar import day_of_year as day_of_year
    from features.calendar import hour_of_day as hour_of_day
    from features.calendar import minute_of_day as minute_of_day
    from features.calendar import month as month
    from features.elements import categorical as categorical
    from features.elements import expression as expression
    from features.errors import DriftwoodError as DriftwoodError
    from features.errors import PipelineError as PipelineError
    from features.schema import known_later as known_later
    from features.schema import personal as personal
    from features.schema import sensitive as sensitive
    from features.schema import unit as unit
    from features.windows import Entity as Entity
    from models.blend import Blend as Blend
    from models.decision import CostMatrix as CostMatrix
    from models.decision import DailyCapacity as DailyCapacity
    from models.decision import Threshold as Threshold
    from models.drift.spec import Drift as Drift
    from models.label import Label as Label
    from models.learners import bounded_tree as bounded_tree
    from models.learners import river_model as river_model
    from models.learners import scaled_linear as scaled_linear
    from models.learners import scaled_logistic as scaled_logistic
    from models.lightgbm_spec import LightGBM as LightGBM
    from models.loading import load_pipeline as load_pipeline
    from models.pipeline import Pipeline as Pipeline

_HOMES = {
    "Meta": "msgspec",
    **dict.fromkeys(
        ("day_of_month", "day_of_week", "day_of_year", "hour_of_day", "minute_of_day", "month"),
        "features.calendar",
    ),
    **dict.fromkeys(("categorical", "expression"), "features.elements"),
    **dict.fromkeys(("DriftwoodError", "PipelineError"), "features.errors"),
    **dict.fromkeys(("known_later", "personal", "sensitive", "unit"), "features.schema"),
    "Entity": "features.windows",
    "Blend": "models.blend",
    **dict.fromkeys(("CostMatrix", "DailyCapacity", "Threshold"), "models.decision"),
    "Drift": "models.drift.spec",
    "Label": "models.label",
    **dict.fromkeys(
        ("bounded_tree", "river_model", "scaled_linear", "scaled_logistic"),
        "models.learners",
    ),
    "LightGBM": "models.lightgbm_spec",
    "Pipeline": "models.pipeline",
    "load_pipeline": "models.loading",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605  # the one list of names; the tests compare it with the imports above


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'driftwood' has no attribute {name!r} (there are: {', '.join(sorted(_HOMES))})"
        )
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
