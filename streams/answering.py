"""The last stage of a pipeline that learns: it says on `hop-join` how far it is, also while no events come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streams.entity_batch import NO_EVENT_US, Memory
from streams.join_frames import NO_MARK, SERVED, Idle, idle_messages
from streams.predict_road import EntityStage
from streams.topics import Topic


@dataclass(frozen=True)
class AnsweringStage(EntityStage):
    """An `EntityStage` that ticks. `join` is the topic `hop-join`; `now_ms` the wall clock, which goes into the frames."""

    join: Topic
    now_ms: Callable[[], float]

    async def tick(self, memory: Memory, *, idle: bool) -> None:
        """Say how far the partition is, to every partition of hop-join. Raises `DeliveryError`.

        Not while batches are in flight: what they serve is behind them, and a mark must not come before it.
        """
        if memory.in_flight:
            return
        mark_us = NO_MARK if memory.watermark_us == NO_EVENT_US else memory.watermark_us
        said = Idle(SERVED, mark_us, int(self.now_ms()), idle)
        await self.publisher.deliver(
            idle_messages(self.join.name, self.join.partitions, memory.upstream, said)
        )
