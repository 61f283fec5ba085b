"""A stage that answers nothing: it takes records and keeps its state as ever, and publishes none of what they become.

For records whose outputs stand in the topics already, when the state that they led to was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.store import EmptiableStore
from models.pipeline import Pipeline
from streams.assembly import dead_letter_writer, entity_batches
from streams.batch import Partition
from streams.entity_batch import stage_plans
from streams.frames import Frame
from streams.metrics import Metrics
from streams.predict_road import EntityStage
from streams.producer import Outgoing
from streams.settings import Settings
from streams.topics import PipelineTopics


class Mute:
    """Takes the place of what answers, and of the publisher."""

    def versions(self) -> str:
        """Nothing is scored, so there are no versions; the pins that this leaves go with the commit."""
        return "{}"

    async def ready(self, versions: str) -> None:
        """Nothing is scored, so nothing has to be there."""

    def messages(self, frame: Frame, upstream: str, versions: str) -> list[Outgoing]:
        """None."""
        return []

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[Partition, int]:
        """Publish nothing, not even dead letters."""
        return {}


def mute_stage(
    pipeline: Pipeline,
    settings: Settings,
    topics: PipelineTopics,
    number: int,
    store: EmptiableStore,
    metrics: Metrics,
) -> EntityStage:
    """The stage of this number (0 = the first entity's) without a voice."""
    hop = topics.hops[stage_plans(pipeline.feature_set)[number].entity]
    mute = Mute()
    return EntityStage(
        entity_batches(pipeline, settings, number),
        mute,
        store,
        dead_letter_writer(pipeline, settings, topics, hop.name),
        mute,
        metrics,
        answers=False,
    )
