"""A hop: the way from one stage to the next, a topic that driftwood keys by the next stage's entity."""

from __future__ import annotations

import json
from dataclasses import dataclass

from features.plan import EntityPlan, Ints
from features.rows import entity_keys
from streams.frames import Frame, FrameCodec
from streams.headers import FRAME, PIPELINE_VERSION, UPSTREAM
from streams.producer import Outgoing, partitions_of


@dataclass(frozen=True)
class Hop:
    """The hop topic of `plan`'s entity, and how frames are written on it."""

    topic: str
    partitions: int
    codec: FrameCodec
    plan: EntityPlan
    pipeline_version: str

    def versions(self) -> str:
        """What a stage that sends along this hop pins: no model has a say here."""
        return json.dumps({"pipeline": self.pipeline_version})

    async def ready(self, versions: str) -> None:
        """Nothing: a hop needs no models."""

    def messages(self, frame: Frame, upstream: str, versions: str) -> list[Outgoing]:
        """The frame as one or more records for each partition. `upstream` names the partition its rows come from."""
        headers = [
            (UPSTREAM, upstream.encode()),
            (FRAME, self.codec.version),
            (PIPELINE_VERSION, self.pipeline_version.encode()),
        ]
        pieces = self.codec.split(frame, self.targets(frame))
        return [Outgoing(self.topic, partition, None, value, headers) for partition, value in pieces]

    def targets(self, frame: Frame) -> Ints:
        """int64[n]: the partition that each row is bound for."""
        # A row without a key belongs to no entity: the event id spreads such rows instead of heaping them up.
        names = frame.rows.event_ids.to_pylist()
        if self.plan.keys:
            keys = entity_keys(frame.rows, self.plan.keys)
            names = [name if key is None else key for key, name in zip(keys, names, strict=True)]
        return partitions_of(names, self.partitions)
