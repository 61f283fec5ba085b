"""The headers that driftwood writes on its records, and how one is read."""

from __future__ import annotations

from streams.batch import Record

UPSTREAM = "upstream"  # of a frame: the upstream partition that its rows come from, with the topic's identity
FRAME = "frame"  # of a frame: the version of its columns
POSITION = "position"  # of a prediction: the event's topic, partition and offset
PIPELINE_VERSION = "pipeline_version"


def header(record: Record, name: str) -> bytes | None:
    """The value of the first header of this name, or None."""
    return next((value for key, value in record.headers if key == name), None)
