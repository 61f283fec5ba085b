"""What operators decide: written down on `control`, with who and when."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from driftwood.cli.options import named

if TYPE_CHECKING:
    from models.pipeline import Pipeline
    from streams.control import ControlRecord
    from streams.settings import Settings


def learning(reference: str) -> Pipeline:
    """The pipeline of this name or path; raises DeveloperError for one that does not learn, and so has no `control`."""
    from driftwood.pipelines import topics_of
    from streams.settings import Settings

    pipeline = named(reference)
    _ = topics_of(pipeline, Settings()).learning
    return pipeline


def time_text(moment: datetime) -> str:
    """RFC 3339, to the second.

    Example:
        >>> time_text(datetime(2024, 5, 1, tzinfo=UTC))
        '2024-05-01T00:00:00Z'
    """
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def now_text() -> str:
    """The wall clock."""
    return time_text(datetime.now(UTC))


def decide(pipeline: Pipeline, settings: Settings, record: ControlRecord) -> None:
    """Write a decision down. Raises TopicError, UnreachableError, DeliveryError."""
    from driftwood.pipelines import topics_of
    from streams import control_log
    from streams.producer import Publisher, settings_for
    from streams.topics import TopicAdmin

    topics = topics_of(pipeline, settings).learning
    TopicAdmin(settings).check([topics.control, topics.outcomes])

    async def written() -> None:
        publisher = Publisher(settings_for(settings.brokers, **settings.kafka_client()))
        try:
            await control_log.decide(record, topics, pipeline.version, publisher)
        finally:
            await publisher.close(settings.stop_timeout.total_seconds())

    asyncio.run(written())
