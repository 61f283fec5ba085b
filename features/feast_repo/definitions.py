"""What `feast apply` registers: one entity and one feature view for each entity of a pipeline.

The same file serves every pipeline; `views.json` beside it says what they are. It needs Feast and nothing of driftwood,
so a team that only reads features can be given the folder alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

DTYPES = {"Int64": Int64, "Float64": Float64}
VIEWS = Path(__file__).with_name("views.json")


def objects(description: Mapping[str, Any]) -> Iterator[Entity | FeatureView]:
    """The Feast objects of a pipeline described as in `views.json`."""
    for view in description["views"]:
        name = view["entity"]
        entity = Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
        yield entity
        yield FeatureView(
            name=view["name"],
            entities=[entity],
            ttl=timedelta(seconds=view["ttl_s"]),
            schema=[Field(name=name, dtype=String)]
            + [
                Field(name=f["name"], dtype=DTYPES[f["dtype"]], description=f["about"])
                for f in view["features"]
            ],
            source=FileSource(name=view["name"], path=view["offline"], timestamp_field="event_timestamp"),
            description=view["about"],
        )


if not VIEWS.exists():
    raise SystemExit(
        f"{VIEWS} is missing: this folder is the form of a repository. Let driftwood write one of a pipeline."
    )
# Feast collects the objects among a module's names, and looks into no list.
globals().update(
    {f"{type(o).__name__}_{o.name}": o for o in objects(json.loads(VIEWS.read_text(encoding="utf-8")))}
)
