"""Records on `control`, what they add up to, and how a decision reaches the learner."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from streams.control import (
    COMMAND,
    AlertAck,
    AlertSilence,
    AlertUnsilence,
    ControlState,
    LearnerCommand,
    RetrainRequest,
    ServeModeChange,
    decoded,
    encoded,
    fold,
)
from streams.control_log import ControlLog, ControlWatch, decide
from streams.producer import Outgoing, Publisher, settings_for
from streams.settings import Settings
from streams.topics import pipeline_topics

AT = "2013-04-01T10:15:00Z"
RESET = LearnerCommand("reset", "tree", AT, "ann")


def mode(which: str) -> bytes:
    return encoded(ServeModeChange(which, AT, "ann"))  # type: ignore[arg-type]  # some tests write others


def test_records_are_read_back_as_they_were():
    about_learners = (RESET, LearnerCommand("restore", "t", AT, "b", 7))
    about_alerts = (
        AlertAck("shop/data/amount/1", AT, "ann", "known"),
        AlertSilence(AT, AT, "ann", level="data"),
        AlertUnsilence(AT, "ann", subject="amount"),
        RetrainRequest("shop/data/amount/1", "amounts have grown", AT, "drift watch"),
    )
    for record in (ServeModeChange("champion", AT, "ann"), *about_learners, *about_alerts):
        assert decoded(encoded(record)) == record


@pytest.mark.parametrize(
    "value", [None, b"", b"[]", b'{"kind":"promotion","model":"7"}', mode("sideways"), b"{"]
)
def test_what_this_version_does_not_know_changes_nothing_and_is_passed_over(value):
    state = fold(ControlState(), [(0, mode("champion")), (1, value)])
    assert state == ControlState("champion", 1)


def test_the_state_is_the_fold_and_a_record_that_is_read_twice_changes_nothing():
    first = fold(ControlState(), [(0, mode("fallback")), (1, mode("champion"))])
    assert first == fold(first, [(0, mode("fallback"))]) == ControlState("champion", 1)
    assert fold(first, [(2, encoded(RESET)), (5, mode("blend"))]) == ControlState("blend", 5)


class Broker:
    """Takes messages; the first stands at offset 41 of its topic."""

    def __init__(self) -> None:
        self.messages: list[Outgoing] = []

    async def deliver(self, messages: Sequence[Outgoing]) -> Mapping[tuple[str, int], int]:
        self.messages += messages
        return {(message.topic, message.partition): 40 + len(self.messages) for message in messages}


def test_a_decision_about_a_learner_stands_in_outcomes_with_its_place_in_control():
    broker, topics = Broker(), pipeline_topics("shop", ["card"], Settings(), learns=True).learning
    assert asyncio.run(decide(RESET, topics, "v1", broker)) == 41
    first, second = broker.messages
    assert (first.topic, second.topic) == ("shop.control", "shop.outcomes")
    assert first.value == second.value and dict(second.headers)[COMMAND] == b"41"


@pytest.mark.parametrize(
    "record", [ServeModeChange("champion", AT, "ann"), AlertAck("shop/data/amount/1", AT, "ann")]
)
def test_a_decision_about_what_answers_or_alerts_stands_in_control_alone(record):
    broker, topics = Broker(), pipeline_topics("shop", ["card"], Settings(), learns=True).learning
    asyncio.run(decide(record, topics, "v1", broker))
    assert [message.topic for message in broker.messages] == ["shop.control"]


def test_decisions_about_alerts_change_nothing_of_what_answers():
    ack = encoded(AlertAck("shop/data/amount/1", AT, "ann"))
    assert fold(ControlState(), [(0, mode("champion")), (1, ack)]) == ControlState("champion", 1)


def test_a_worker_begins_in_the_mode_that_was_decided_before_it_and_hears_of_the_next(
    embedded_broker, unique_name
):
    settings = Settings(brokers=embedded_broker.address)
    topics = pipeline_topics(unique_name, ["card"], settings, learns=True).learning
    for topic in topics:
        embedded_broker.create_topic(topic.name, topic.partitions)

    async def body() -> list[str]:
        publisher = Publisher(settings_for(settings.brokers))
        empty = ControlWatch(ControlLog(settings, topics.control))
        await empty.begin()
        await decide(ServeModeChange("champion", AT, "ann"), topics, "v1", publisher)
        watch = ControlWatch(ControlLog(settings, topics.control))
        await watch.begin()
        began = watch.mode
        watching = asyncio.create_task(watch.watch())
        await decide(ServeModeChange("fallback", AT, "ann"), topics, "v1", publisher)
        async with asyncio.timeout(60.0):
            while watch.mode == began:  # noqa: ASYNC110  what is waited for comes from a broker
                await asyncio.sleep(0.01)
        watching.cancel()
        for opened in (empty, watch):
            await opened.aclose()
        await publisher.close(10.0)
        return [empty.mode, began, watch.mode]

    assert asyncio.run(body()) == ["blend", "champion", "fallback"]
