"""How far a pipeline's workers have come: records they have yet to read, and dead letters, as the broker counts them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from features.errors import TopicError
from streams.settings import Settings
from streams.topics import ANSWER_WITHIN_S, PipelineTopics, Topic, predict_group

_quiet = logging.getLogger("driftwood.kafka.standing")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass(frozen=True)
class Standing:
    """`behind`: records that the group has not committed, by topic (events and hops). `dead_letters` that are in the log."""

    behind: Mapping[str, int]
    dead_letters: int


def standing_of(pipeline: str, topics: PipelineTopics, settings: Settings) -> Standing:
    """Asks the broker, with three requests of at most `ANSWER_WITHIN_S` each; the topics must exist.

    Of a partition of which the group has committed nothing, everything in the log is to be read. Raises TopicError when
    the broker does not answer.
    """
    config: dict[str, Any] = {**settings.kafka_client(), "error_cb": lambda error: None}
    client = AdminClient(config, logger=_quiet)
    read = (topics.events, *topics.hops.values())
    try:
        # The group first: whatever comes meanwhile is then counted, rather than hidden.
        committed = committed_offsets(client, predict_group(pipeline), read)
        places: Any = OffsetSpec  # its two methods have no types
        counted = (*read, topics.dead_letters)
        begins = _offsets(client, counted, places.earliest())
        ends = _offsets(client, counted, places.latest())
    except KafkaException as error:
        raise TopicError(f"the broker does not say how far it is: {error.args[0].str()}") from error
    behind = {
        topic.name: sum(ends[place] - max(committed.get(place, 0), begins[place]) for place in _places(topic))
        for topic in read
    }
    letters = sum(ends[place] - begins[place] for place in _places(topics.dead_letters))
    return Standing({name: max(count, 0) for name, count in behind.items()}, letters)


def _places(topic: Topic) -> list[tuple[str, int]]:
    return [(topic.name, number) for number in range(topic.partitions)]


def committed_offsets(
    client: AdminClient, group: str, topics: tuple[Topic, ...], identities: Mapping[str, str] | None = None
) -> dict[tuple[str, int], int]:
    """What a group has committed, by topic and partition; nothing where it has not. Raises KafkaException.

    With `identities` an offset that was committed for another topic of the same name does not count.
    """
    wanted = [TopicPartition(*place) for topic in topics for place in _places(topic)]
    asked = client.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, wanted)], request_timeout=ANSWER_WITHIN_S
    )
    found = asked[group].result().topic_partitions
    known = identities or {}
    return {
        (one.topic, one.partition): one.offset
        for one in found
        if one.offset >= 0 and (one.metadata or "") in ("", known.get(one.topic, one.metadata or ""))
    }


def _offsets(client: AdminClient, topics: tuple[Topic, ...], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    wanted = {TopicPartition(*place): spec for topic in topics for place in _places(topic)}
    asked = client.list_offsets(wanted, request_timeout=ANSWER_WITHIN_S)
    return {(one.topic, one.partition): future.result().offset for one, future in asked.items()}
