"""Topic names, creation and checks, against the embedded broker."""

from __future__ import annotations

import pytest

from driftwood.embedded.redis import free_port
from features.errors import DeveloperError, TopicError, UnreachableError
from streams.settings import Settings
from streams.topics import Topic, TopicAdmin, pipeline_topics


@pytest.fixture
def admin(embedded_broker):
    return TopicAdmin(Settings(brokers=embedded_broker.address))


def wanted(name, **settings):
    return pipeline_topics(name, ["origin", "carrier"], Settings(**settings))


def test_a_pipeline_has_its_topics_in_the_order_of_the_road():
    assert [topic.name for topic in wanted("flights")] == [
        "flights.events",
        "flights.hop-origin",
        "flights.hop-carrier",
        "flights.predictions",
        "flights.dead-letters",
    ]


def test_only_topics_with_original_bytes_take_large_messages():
    topics = wanted("flights", max_message_bytes=32 << 20)
    assert (
        topics.events.config["max.message.bytes"]
        == topics.dead_letters.config["max.message.bytes"]
        == "33554432"
    )
    assert "max.message.bytes" not in topics.predictions.config
    assert topics.events.config["retention.ms"] == str(7 * 24 * 3600 * 1000)


def test_the_broker_stamps_events_whatever_their_senders_say():
    topics = wanted("flights")
    assert topics.events.config["message.timestamp.type"] == "LogAppendTime"
    assert "message.timestamp.type" not in topics.hops["origin"].config


def learning(name, **settings):
    return pipeline_topics(name, ["origin"], Settings(**settings), learns=True)


def test_a_pipeline_that_learns_has_the_topics_of_the_learn_road_behind_the_others():
    topics = learning("flights", partitions=8)
    assert [topic.name for topic in topics][-7:] == [
        "flights.labels",
        "flights.actions",
        "flights.hop-join",
        "flights.outcomes",
        "flights.control",
        "flights.drift-slices",
        "flights.drift-alerts",
    ]
    assert [topic.partitions for topic in topics.learning] == [8, 8, 8, 1, 1, 1, 1]


def test_decisions_and_alerts_are_kept_for_ever_and_outcomes_as_long_as_events():
    learn = learning("flights", events_retention="30d").learning
    assert learn.control.config["retention.ms"] == learn.drift_alerts.config["retention.ms"] == "-1"
    assert learn.outcomes.config["retention.ms"] == str(30 * 24 * 3600 * 1000)


def test_slices_of_the_drift_watch_are_kept_for_a_quarter_or_as_long_as_events():
    for retention, days in (("7d", 90), ("200d", 200)):
        learn = learning("flights", events_retention=retention).learning
        assert learn.drift_slices.config["retention.ms"] == str(days * 24 * 3600 * 1000)


def test_the_topics_of_the_learn_road_of_a_pipeline_that_has_none_are_an_error_with_the_reason():
    with pytest.raises(DeveloperError, match=r"pipeline flights does not learn.*online"):
        _ = wanted("flights").learning


def test_topics_of_one_partition_are_created_by_the_runtime_of_the_embedded_broker(
    admin, embedded_broker, unique_name
):
    topics = learning(unique_name)
    with pytest.raises(TopicError, match=rf"{unique_name}\.outcomes .*must have 1.*driftwood up"):
        admin.create(topics)
    for topic in topics:
        if topic.single:
            embedded_broker.create_topic(topic.name, topic.partitions)
    admin.create(topics)
    admin.check(topics)


def test_a_second_partition_of_outcomes_is_refused_although_the_setting_would_have_it(
    admin, embedded_broker, unique_name
):
    outcomes = learning(unique_name, partitions=2).learning.outcomes
    embedded_broker.create_topic(outcomes.name, 2)
    with pytest.raises(
        TopicError, match=r"has 2 partitions, expected 1 whatever the setting partitions says"
    ):
        admin.check([outcomes])


def test_what_is_missing_is_created_once(admin, unique_name):
    topics = wanted(unique_name)
    assert admin.create(topics) == [topic.name for topic in topics]
    assert admin.create(topics) == []
    identities = admin.check(topics)
    assert len(set(identities.values())) == 5
    assert admin.cluster().embedded


def test_looking_creates_nothing(admin, unique_name):
    with pytest.raises(TopicError, match="does not exist"):
        admin.check(wanted(unique_name))
    assert f"{unique_name}.events" not in admin.cluster().topics


def test_a_missing_topic_names_itself_and_the_command(admin, unique_name):
    with pytest.raises(TopicError) as caught:
        admin.check(wanted(unique_name))
    assert f"{unique_name}.events" in str(caught.value)
    assert f"driftwood topics create {unique_name}" in str(caught.value)


def test_another_number_of_partitions_names_topic_seen_expected_and_remedy(
    admin, embedded_broker, unique_name
):
    embedded_broker.create_topic(unique_name, 2)
    with pytest.raises(TopicError) as caught:
        admin.check([Topic(unique_name, 3)])
    for part in (unique_name, "has 2 partitions", "expected 3", "set partitions to 2"):
        assert part in str(caught.value)


def test_the_embedded_broker_cannot_create_other_numbers_of_partitions_later(admin, unique_name):
    with pytest.raises(TopicError, match="driftwood up"):
        admin.create([Topic(unique_name, 3)])


def test_two_embedded_brokers_are_two_identities(admin, unique_name):
    from driftwood.embedded import EmbeddedBroker

    admin.create([Topic(unique_name, 4)])
    with EmbeddedBroker().start() as other:
        there = TopicAdmin(Settings(brokers=other.address))
        there.create([Topic(unique_name, 4)])
        assert there.check([Topic(unique_name, 4)]) != admin.check([Topic(unique_name, 4)])


def test_a_broker_that_is_away_is_one_sentence_with_the_setting(unique_name):
    with pytest.raises(UnreachableError) as caught:
        TopicAdmin(Settings(brokers=f"127.0.0.1:{free_port()}")).cluster()
    assert "setting brokers" in str(caught.value) and "driftwood up" in str(caught.value)
    assert "\n" not in str(caught.value)
