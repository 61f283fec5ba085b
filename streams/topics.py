"""The topics of a pipeline: their names, how they are created, and what is checked of them at every start.

    <pipeline>.events          raw events, JSON, from producers
    <pipeline>.hop-<entity>    frames for the stage of an entity
    <pipeline>.predictions     answers, JSON, keyed by event id
    <pipeline>.dead-letters    records that could not be used, as they came

and of a pipeline that learns from labels:

    <pipeline>.labels          what became of events, JSON, from producers
    <pipeline>.actions         what was done upon predictions, JSON, from their consumers
    <pipeline>.hop-join        frames for the join stage: what was served, labels and actions, by event id
    <pipeline>.outcomes        frames for the learner; one partition, because one learner owns the models
    <pipeline>.control         what operators decided, JSON; one partition, kept for ever
    <pipeline>.drift-slices    what was counted of spans of event time, for the drift watch; one partition
    <pipeline>.drift-alerts    raised, updated and resolved alerts, JSON; one partition, kept for ever

A topic's *identity* is the cluster's id and the topic's own: positions and state belong to one, and a topic that was
deleted and made again under its old name has another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic, TopicDescription

from features.errors import DeveloperError, TopicError, UnreachableError
from streams.settings import Settings

# One request to a broker that is there takes milliseconds; a cold one that is still electing takes a few seconds.
ANSWER_WITHIN_S = 5.0

# librdkafka's own broker, which the embedded runtime starts, calls its cluster so (rdkafka_mock.c). It knows neither
# CreateTopics nor topic ids.
EMBEDDED_CLUSTER = "mockCluster"

# Counts of a quarter: what the drift report shows, and longer than any trailing reference that is of use. A day of hours of
# thirty features is some MB.
SLICES_KEPT = timedelta(days=90)

# What the embedded broker gives a topic that is created by naming it (rdkafka_mock.c, defaults.partition_cnt).
EMBEDDED_PARTITIONS = 4


@dataclass(frozen=True)
class Topic:
    """A topic as a pipeline needs it; `retention` (None: for ever) and what follows hold at creation.

    `max_message_bytes` None: as the broker has it. `broker_time`: records carry the time at which the broker took them,
    not what their sender says. `single`: it has one partition, whatever the setting `partitions` says.
    """

    name: str
    partitions: int
    retention: timedelta | None = timedelta(days=7)
    max_message_bytes: int | None = None
    broker_time: bool = False
    single: bool = False

    @property
    def config(self) -> dict[str, str]:
        """The topic's configuration at creation, over the broker's."""
        more = {} if self.max_message_bytes is None else {"max.message.bytes": str(self.max_message_bytes)}
        if self.broker_time:
            more["message.timestamp.type"] = "LogAppendTime"
        return {
            "retention.ms": str(_milliseconds(self.retention)),
            "cleanup.policy": "delete",
            **more,
        }


def _milliseconds(retention: timedelta | None) -> int:
    return -1 if retention is None else retention // timedelta(milliseconds=1)


@dataclass(frozen=True)
class LearnTopics:
    """The topics by which a pipeline learns from labels."""

    labels: Topic
    actions: Topic
    hop_join: Topic
    outcomes: Topic
    control: Topic
    drift_slices: Topic
    drift_alerts: Topic

    def __iter__(self) -> Iterator[Topic]:
        streams = (self.labels, self.actions, self.hop_join, self.outcomes)
        return iter((*streams, self.control, self.drift_slices, self.drift_alerts))


@dataclass(frozen=True)
class PipelineTopics:
    """All topics of one pipeline; `hops` by entity, in the order of the stages. `learn` None: it does not learn."""

    events: Topic
    hops: Mapping[str, Topic]
    predictions: Topic
    dead_letters: Topic
    learn: LearnTopics | None = None

    def __iter__(self) -> Iterator[Topic]:
        return iter(
            (self.events, *self.hops.values(), self.predictions, self.dead_letters, *(self.learn or ()))
        )

    @property
    def learning(self) -> LearnTopics:
        """The topics by which it learns. Raises `DeveloperError` for a pipeline that does not."""
        if self.learn is None:
            raise DeveloperError(
                f"pipeline {self.events.name.partition('.')[0]} does not learn from labels: it declares neither online "
                "learners (online=[…]) nor windows over its label"
            )
        return self.learn


@dataclass(frozen=True)
class SeenTopic:
    """A topic as the broker has it; `problem` is the broker's word when it cannot serve it."""

    name: str
    partitions: int
    identity: str
    problem: str | None = None


@dataclass(frozen=True)
class Cluster:
    """The Kafka that answered. `embedded` means librdkafka's in-process broker, with its limits."""

    identity: str
    embedded: bool
    brokers: Sequence[str]
    topics: Mapping[str, SeenTopic] = field(default_factory=dict)


def pipeline_topics(
    pipeline: str, entities: Iterable[str], settings: Settings, *, learns: bool = False
) -> PipelineTopics:
    """The topics of a pipeline whose stages belong to these entities; `learns`: with those of the learn road.

    Example:
        >>> [topic.name for topic in pipeline_topics("flights", ["origin"], Settings())]
        ['flights.events', 'flights.hop-origin', 'flights.predictions', 'flights.dead-letters']
    """

    def topic(kind: str, **more: Any) -> Topic:
        return Topic(f"{pipeline}.{kind}", settings.partitions, settings.events_retention, **more)

    large = settings.max_message_bytes
    return PipelineTopics(
        # By the broker's clock, because event times are checked against it: with its own, a sender whose clock is a year
        # ahead would pass, and would end the memory of repeated ids and of its entities' windows.
        topic("events", max_message_bytes=large, broker_time=True),
        {entity: topic(f"hop-{entity}") for entity in entities},
        topic("predictions"),
        topic("dead-letters", max_message_bytes=large),
        _learn_topics(pipeline, topic, settings) if learns else None,
    )


def _learn_topics(pipeline: str, topic: Callable[..., Topic], settings: Settings) -> LearnTopics:
    outcomes = replace(topic("outcomes"), partitions=1, single=True)
    return LearnTopics(
        # By the broker's clock: a label's own time is checked against it, as an event's is.
        topic("labels", broker_time=True),
        topic("actions", broker_time=True),
        topic("hop-join"),
        outcomes,
        replace(outcomes, name=f"{pipeline}.control", retention=None),
        replace(
            outcomes,
            name=f"{pipeline}.drift-slices",
            retention=max(settings.events_retention, SLICES_KEPT),
        ),
        replace(outcomes, name=f"{pipeline}.drift-alerts", retention=None),
    )


def learn_group(pipeline: str) -> str:
    """The consumer group of the processes of a pipeline's learn road."""
    return f"{pipeline}.learn"


def predict_group(pipeline: str) -> str:
    """The consumer group of the workers of a pipeline's predict road."""
    return f"{pipeline}.predict"


def monitor_group(pipeline: str) -> str:
    """The consumer group of the monitors of a pipeline."""
    return f"{pipeline}.monitor"


class TopicAdmin:
    """Looks at topics and creates them. Every method blocks for at most some `ANSWER_WITHIN_S`.

    Raises:
        UnreachableError: no broker answers at `brokers`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._said: list[str] = []
        self._last = Cluster("", embedded=True, brokers=())
        config: dict[str, Any] = {**settings.kafka_client(), "error_cb": self._heard}
        self._client = AdminClient(config, logger=_quiet)

    def cluster(self) -> Cluster:
        """The cluster and all its topics, by name; topics of a real Kafka with their identities."""
        metadata = self._metadata()
        identity, brokers = _cluster_of(metadata)
        embedded = identity.startswith(EMBEDDED_CLUSTER)
        names = [name for name in metadata.topics if not name.startswith("__")]
        described = {} if embedded or not names else self._described(names)
        ids = {name: _topic_id(topic) for name, topic in described.items()}
        topics = {
            name: SeenTopic(
                name,
                len(metadata.topics[name].partitions),
                f"{identity}/{ids.get(name, name)}",
                None if metadata.topics[name].error is None else str(metadata.topics[name].error),
            )
            for name in names
        }
        self._last = Cluster(identity, embedded, brokers, topics)
        return self._last

    def look_at(self, names: Sequence[str]) -> dict[str, SeenTopic]:
        """These topics of the cluster that was seen last, by name; those that it lacks are left out.

        One small request to a real Kafka, however many topics others have there.
        """
        if self._last.embedded:
            topics = self.cluster().topics
            return {name: topics[name] for name in names if name in topics}
        return {
            name: SeenTopic(name, len(topic.partitions), f"{self._last.identity}/{_topic_id(topic)}")
            for name, topic in self._described(names).items()
        }

    def create(self, topics: Iterable[Topic]) -> list[str]:
        """Create those that are missing, and wait until all are there; returns the names of the new ones.

        Raises:
            TopicError: the broker refused one, or one exists with another number of partitions.
        """
        wanted = list(topics)
        cluster = self.cluster()
        missing = [topic for topic in wanted if topic.name not in cluster.topics]
        if missing and cluster.embedded:
            self._create_by_naming(missing)
        elif missing:
            self._create(missing)
        self._wait_for(missing)
        self.check(wanted)
        return [topic.name for topic in missing]

    def check(self, topics: Iterable[Topic], begun: Mapping[str, int] | None = None) -> dict[str, str]:
        """The identities of the topics by name, when all are there with the right number of partitions.

        `begun`, the numbers with which the pipeline began, by topic and identity: a topic that has more now is as good
        as it was, as long as no row goes to the others.

        Raises:
            TopicError: one is missing or has another number; it names the topic, what was seen and the remedy.
        """
        cluster = self.cluster()
        return {topic.name: _checked(topic, cluster, begun or {}) for topic in topics}

    def _metadata(self, topic: str | None = None) -> Any:
        try:
            # A topic that is named in the request may be created by it, so none is, except on purpose.
            return self._client.list_topics(*([topic] if topic else []), timeout=ANSWER_WITHIN_S)
        except KafkaException as error:
            raise self._unreachable(error) from error

    def _described(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        asked = self._client.describe_topics(TopicCollection(list(names)), request_timeout=ANSWER_WITHIN_S)
        found = ((name, self._description(future)) for name, future in asked.items())
        return {name: description for name, description in found if description is not None}

    def _description(self, future: Future[TopicDescription]) -> TopicDescription | None:
        try:
            return future.result()
        except KafkaException as error:
            if error.args[0].code() in (
                KafkaError.UNKNOWN_TOPIC_OR_PART,
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
            ):
                return None  # deleted since the metadata came, or none of ours: whoever needs it gets a clear refusal
            raise self._unreachable(error) from error

    def _create(self, topics: Sequence[Topic]) -> None:
        copies = self._settings.replication_factor
        new = [NewTopic(topic.name, topic.partitions, copies, config=topic.config) for topic in topics]
        for name, future in self._client.create_topics(new, operation_timeout=ANSWER_WITHIN_S).items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    continue  # another worker was quicker; `check` sees whether it made it as we would
                raise TopicError(
                    f"topic {name} could not be created: {_words(error)}{_hint(error, copies)}"
                ) from error

    def _wait_for(self, topics: Sequence[Topic]) -> None:
        """A broker that has acknowledged a topic may not show it yet, or without leaders; `check` says what is wrong."""
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while time.monotonic() < deadline:
            seen = self.cluster().topics
            if all(topic.name in seen and seen[topic.name].problem is None for topic in topics):
                return
            time.sleep(0.05)

    def _create_by_naming(self, topics: Sequence[Topic]) -> None:
        """The embedded broker has no CreateTopics: it makes a topic when metadata is asked for it, with 4 partitions."""
        for topic in topics:
            if topic.single:
                raise TopicError(
                    f"topic {topic.name} does not exist, and the embedded broker creates topics with {EMBEDDED_PARTITIONS} "
                    "partitions only while it runs; this one must have 1: start it with 'driftwood up "
                    f"{topic.name.partition('.')[0]}', which creates all topics of the pipeline"
                )
            if topic.partitions != EMBEDDED_PARTITIONS:
                raise TopicError(
                    f"topic {topic.name} does not exist, and the embedded broker creates topics with "
                    f"{EMBEDDED_PARTITIONS} partitions only while it runs; expected {topic.partitions} (setting "
                    f"partitions): start it with 'driftwood up {topic.name.partition('.')[0]} --set "
                    f"partitions={topic.partitions}', or leave the setting at {EMBEDDED_PARTITIONS}"
                )
            self._metadata(topic.name)

    def _heard(self, error: KafkaError) -> None:
        self._said.append(error.str())

    def _unreachable(self, error: KafkaException) -> UnreachableError:
        self._client.poll(0)  # what was heard of connections is handed over by poll alone
        said = next((text for text in reversed(self._said) if "brokers are down" not in text), _words(error))
        remedy = f"start it (driftwood up, docker compose up), or set brokers to where it is. librdkafka says: {said}"
        return UnreachableError("Kafka", "brokers", self._settings.brokers, remedy)


def _cluster_of(metadata: Any) -> tuple[str, list[str]]:
    brokers = [f"{broker.host}:{broker.port}" for _, broker in sorted(metadata.brokers.items())]
    identity = str(metadata.cluster_id)
    # The embedded broker's id is an address in its memory; with its port two runs are never taken for one another.
    return (f"{identity}@{brokers[0]}" if identity.startswith(EMBEDDED_CLUSTER) else identity), brokers


def _topic_id(topic: TopicDescription) -> str:
    # As Kafka's own tools write it: librdkafka's base64 has '/', which separates parts of a position.
    return str(topic.topic_id).replace("/", "_").replace("+", "-")


def _checked(topic: Topic, cluster: Cluster, begun: Mapping[str, int]) -> str:
    seen = cluster.topics.get(topic.name)
    pipeline = topic.name.partition(".")[0]
    if seen is None:
        raise TopicError(
            f"topic {topic.name} does not exist; expected one with {topic.partitions} partitions: "
            f"create it with 'driftwood topics create {pipeline}' (a pipeline of your own: the path of its file)"
        )
    if seen.problem is not None:
        raise TopicError(f"topic {topic.name} cannot be used, the broker says: {seen.problem}")
    grown = seen.partitions > topic.partitions == begun.get(f"{topic.name}@{seen.identity}")
    if topic.single and seen.partitions != topic.partitions and not grown:
        raise TopicError(
            f"topic {topic.name} has {seen.partitions} partitions, expected 1 whatever the setting partitions says: one "
            f"learner owns the models of a pipeline. Delete it, and let 'driftwood topics create {pipeline}' make it"
        )
    if seen.partitions != topic.partitions and not grown:
        raise TopicError(
            f"topic {topic.name} has {seen.partitions} partitions, expected {topic.partitions} (setting partitions): "
            f"set partitions to {seen.partitions}, or begin afresh under new topics. But leave it where partitions were added "
            "to a pipeline that runs: its workers know with how many it began, and go on with those (docs/operations.md, topics)"
        )
    return seen.identity


def _words(error: KafkaException) -> str:
    return str(error.args[0].str())


def _hint(error: KafkaException, copies: int) -> str:
    if error.args[0].code() == KafkaError.INVALID_REPLICATION_FACTOR:
        return f". The cluster has fewer brokers than setting replication_factor = {copies} asks for"
    return ""


# librdkafka reports connection troubles as log lines on stderr; what matters of them stands in the error we raise.
_quiet = logging.getLogger("driftwood.kafka.admin")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
