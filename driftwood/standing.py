"""How far a pipeline's processes have come: records they have yet to read, and dead letters, as the broker counts them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from features.errors import TopicError
from streams.settings import Settings
from streams.topics import ANSWER_WITHIN_S, PipelineTopics, Topic, learn_group, predict_group

_quiet = logging.getLogger("driftwood.kafka.standing")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False

_specs: Any = OffsetSpec  # its methods have no types

# A partition that was just made, or that moves to another broker, is led by none for a moment.
LED_SOON = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
ASK_AGAIN_S = 0.1

Place = tuple[str, int]


@dataclass(frozen=True)
class Standing:
    """`behind`: records that the group has not committed, by topic (events and hops). `dead_letters` that are in the log."""

    behind: Mapping[str, int]
    dead_letters: int


@dataclass(frozen=True)
class LearnStanding:
    """`behind` as in `Standing`, of the topics that the learn road reads. `aging`: those of them in which a record that was
    not read is older than half of the retention. `members`: processes in the group; None where the broker does not tell.
    """

    behind: Mapping[str, int]
    aging: Sequence[str]
    members: int | None


@dataclass(frozen=True)
class _Read:
    """By partition: the offset from which on all is to be read, and the end of the log."""

    topics: Sequence[Topic]
    reached: Mapping[Place, int]
    ends: Mapping[Place, int]

    @property
    def behind(self) -> dict[str, int]:
        return {
            topic.name: sum(max(self.ends[at] - self.reached[at], 0) for at in _places(topic))
            for topic in self.topics
        }

    def older(self, younger: Mapping[Place, int]) -> list[str]:
        """The topics with something to read before the first offset that is younger (-1: none is)."""

        def old(at: Place) -> bool:
            end = self.ends[at] if younger[at] < 0 else min(younger[at], self.ends[at])
            return self.reached[at] < end

        return [topic.name for topic in self.topics if any(old(at) for at in _places(topic))]


def standing_of(pipeline: str, topics: PipelineTopics, settings: Settings) -> Standing:
    """Asks the broker, with a few requests of at most `ANSWER_WITHIN_S` each; the topics must exist.

    Of a partition of which the group has committed nothing, everything in the log is to be read. Raises TopicError when
    the broker does not answer.
    """
    with _asked(settings) as client:
        read = _read(client, predict_group(pipeline), (topics.events, *topics.hops.values()))
        letters = (topics.dead_letters,)
        begins, ends = (
            _offsets(client, letters, _specs.earliest()),
            _offsets(client, letters, _specs.latest()),
        )
    return Standing(read.behind, sum(ends.values()) - sum(begins.values()))


def learn_standing_of(
    pipeline: str, topics: PipelineTopics, settings: Settings, now_s: float
) -> LearnStanding:
    """As `standing_of`, of the group that learns; the pipeline must be one that does. `now_s` is the wall clock.

    The embedded broker knows neither who is in a group nor how old a record is.
    """
    learning, group = topics.learning, learn_group(pipeline)
    half_ms = int((now_s - settings.events_retention.total_seconds() / 2) * 1e3)
    with _asked(settings) as client:
        read = _read(client, group, (learning.labels, learning.actions, learning.hop_join, learning.outcomes))
        there = members(client, group)
        if there is None:
            return LearnStanding(read.behind, (), None)
        younger = _offsets(client, read.topics, _specs.for_timestamp(half_ms))
    return LearnStanding(read.behind, read.older(younger), there)


def committed_offsets(
    client: AdminClient, group: str, topics: Sequence[Topic], identities: Mapping[str, str] | None = None
) -> dict[Place, int]:
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


@contextmanager
def _asked(settings: Settings) -> Iterator[AdminClient]:
    """A client; that the broker does not answer it is a TopicError."""
    config: dict[str, Any] = {**settings.kafka_client(), "error_cb": lambda error: None}
    try:
        yield AdminClient(config, logger=_quiet)
    except KafkaException as error:
        raise TopicError(f"the broker does not say how far it is: {error.args[0].str()}") from error


def _read(client: AdminClient, group: str, topics: Sequence[Topic]) -> _Read:
    # The group first: whatever comes meanwhile is then counted, rather than hidden.
    committed = committed_offsets(client, group, topics)
    begins = _offsets(client, topics, _specs.earliest())
    reached = {place: max(committed.get(place, 0), begin) for place, begin in begins.items()}
    return _Read(topics, reached, _offsets(client, topics, _specs.latest()))


def members(client: AdminClient, group: str) -> int | None:
    """How many members a consumer group has; None where the broker (the embedded one) cannot say. Raises KafkaException."""
    try:
        found = client.describe_consumer_groups([group], request_timeout=ANSWER_WITHIN_S)[group].result()
    except KafkaException as error:
        code = error.args[0].code()
        if (
            code == KafkaError.GROUP_ID_NOT_FOUND
        ):  # newer brokers do not call a group that was never joined dead
            return 0
        if code == KafkaError._UNSUPPORTED_FEATURE:  # noqa: SLF001  # so librdkafka calls its own codes
            return None
        raise
    return len(found.members)


def _offsets(client: AdminClient, topics: Sequence[Topic], spec: OffsetSpec) -> dict[Place, int]:
    wanted = {TopicPartition(*place): spec for topic in topics for place in _places(topic)}
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        asked = client.list_offsets(wanted, request_timeout=ANSWER_WITHIN_S)
        try:
            return {(one.topic, one.partition): future.result().offset for one, future in asked.items()}
        except KafkaException as error:
            if error.args[0].code() not in LED_SOON or time.monotonic() > deadline:
                raise
        time.sleep(ASK_AGAIN_S)


def _places(topic: Topic) -> list[Place]:
    return [(topic.name, number) for number in range(topic.partitions)]
