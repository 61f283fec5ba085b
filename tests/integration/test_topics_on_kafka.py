"""Topics on a real Kafka: created with their configuration, and told apart when one is made again."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from driftwood.standing import LearnStanding, learn_standing_of
from features.errors import TopicError
from streams.settings import Settings
from streams.topics import PipelineTopics, Topic, TopicAdmin, pipeline_topics
from tests.kafka_records import Sender

WITHIN_S = 120.0


@pytest.fixture
def client(kafka) -> AdminClient:
    """A client beside the code under test; it must live until its answers have come."""
    return AdminClient({"bootstrap.servers": kafka.address})


def test_topics_are_created_as_the_settings_say(kafka, client, unique_name):
    settings = Settings(brokers=kafka.address, partitions=3, max_message_bytes=32 << 20)
    admin = TopicAdmin(settings)
    topics = pipeline_topics(unique_name, ["origin"], settings)
    assert len(admin.create(topics)) == 4 and admin.create(topics) == []
    assert not admin.cluster().embedded
    asked = [
        ConfigResource(ResourceType.TOPIC, f"{unique_name}.{kind}") for kind in ("events", "predictions")
    ]
    events, predictions = (future.result() for future in client.describe_configs(asked).values())
    assert events["max.message.bytes"].value == str(32 << 20)
    assert predictions["max.message.bytes"].value != str(32 << 20)
    assert events["retention.ms"].value == str(7 * 24 * 3600 * 1000)


def test_a_topic_that_is_made_again_has_another_identity(kafka, client, unique_name):
    admin = TopicAdmin(Settings(brokers=kafka.address))
    topic = Topic(unique_name, 2)
    admin.create([topic])
    first = admin.check([topic])
    assert first == admin.check([topic])
    client.delete_topics([unique_name])[unique_name].result()
    deadline = time.monotonic() + WITHIN_S
    while unique_name in admin.cluster().topics:
        assert time.monotonic() < deadline, "the topic is still there"
        time.sleep(0.1)
    admin.create([topic])
    assert admin.check([topic]) != first


def test_more_copies_than_brokers_are_refused_with_the_setting(kafka, unique_name):
    admin = TopicAdmin(Settings(brokers=kafka.address, replication_factor=3))
    with pytest.raises(TopicError, match="replication_factor = 3"):
        admin.create([Topic(unique_name, 1)])


def test_looking_at_topics_creates_none(kafka, unique_name):
    admin = TopicAdmin(Settings(brokers=kafka.address))
    with pytest.raises(TopicError, match="does not exist"):
        admin.check([Topic(unique_name, 1)])
    assert unique_name not in admin.cluster().topics


def test_what_the_learn_road_has_not_read_is_counted_and_told_when_half_of_its_retention_has_passed(
    kafka, unique_name
):
    settings = Settings(brokers=kafka.address, partitions=2)
    topics = pipeline_topics(unique_name, ["origin"], settings, learns=True)
    TopicAdmin(settings).create(topics)
    labels, now_s = topics.learning.labels.name, time.time()
    Sender(kafka.address, labels).send((number % 2, b"{}") for number in range(10))

    def standing(days: float) -> LearnStanding:
        return learn_standing_of(unique_name, topics, settings, now_s + days * 86_400)

    assert standing(3) == LearnStanding({topic.name: 0 for topic in _read_by(topics)} | {labels: 10}, [], 0)
    assert standing(4).aging == [labels]
    group = {"bootstrap.servers": kafka.address, "group.id": f"{unique_name}.learn"}
    consumer = Consumer(group)
    ends = [TopicPartition(labels, number, 5) for number in (0, 1)]
    consumer.commit(offsets=ends, asynchronous=False)
    consumer.close()
    assert standing(4) == LearnStanding({topic.name: 0 for topic in _read_by(topics)}, [], 0)


def _read_by(topics: PipelineTopics) -> tuple[Topic, ...]:
    learning = topics.learning
    return learning.labels, learning.actions, learning.hop_join, learning.outcomes
