"""Reading the log of a partition on the embedded broker: from here to there, a batch at a time, or a named error."""

from __future__ import annotations

from datetime import timedelta

import pytest

from driftwood.embedded import EmbeddedBroker
from driftwood.embedded.redis import free_port
from features.errors import PositionError, TopicError, UnreachableError
from streams.settings import Settings
from streams.topic_log import TopicLog
from tests.kafka_records import Sender


@pytest.fixture
def topic(embedded_broker: EmbeddedBroker, unique_name: str) -> str:
    """Ten records in partition 1 of two."""
    embedded_broker.create_topic(unique_name, 2)
    Sender(embedded_broker.address, unique_name).send((1, b"%d" % number) for number in range(10))
    return unique_name


@pytest.fixture
def log(embedded_broker: EmbeddedBroker) -> TopicLog:
    return TopicLog(Settings(brokers=embedded_broker.address, batch_max_records=4))


def test_bounds_are_the_oldest_record_and_the_next_one(log: TopicLog, topic: str) -> None:
    assert log.bounds((topic, 1)) == (0, 10)
    assert log.bounds((topic, 0)) == (0, 0)


@pytest.mark.parametrize(
    ("first", "end", "found"),
    [
        (0, 10, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
        (3, 8, [[3, 4, 5, 6], [7]]),
        (9, 10, [[9]]),
        (10, 10, []),
        (6, 3, []),
        (8, 40, [[8, 9]]),  # to the end that there is
    ],
)
def test_records_come_in_order_from_the_first_to_before_the_end(
    log: TopicLog, topic: str, first: int, end: int, found: list[list[int]]
) -> None:
    batches = list(log.read((topic, 1), first, end))
    assert [[record.offset for record in batch] for batch in batches] == found
    assert all(record.value == b"%d" % record.offset for batch in batches for record in batch)
    assert all(record.timestamp > 0 and record.headers == [] for batch in batches for record in batch)


def test_batches_are_bounded_in_bytes(embedded_broker: EmbeddedBroker, topic: str) -> None:
    settings = Settings(brokers=embedded_broker.address, batch_max_bytes=64 * 1024)
    Sender(embedded_broker.address, topic).send((0, b"x" * 40_000) for _ in range(4))
    batches = list(TopicLog(settings).read((topic, 0), 0, 4))
    assert [len(batch) for batch in batches] == [2, 2]


def test_a_position_that_the_log_does_not_hold_is_a_named_error(log: TopicLog, topic: str) -> None:
    with pytest.raises(
        PositionError, match=f"{topic}/1: records were removed from the log while it was read"
    ):
        list(log.read((topic, 1), 50, 60))


def test_a_topic_that_is_not_there_is_a_named_error(log: TopicLog, unique_name: str) -> None:
    with pytest.raises(TopicError, match=f"{unique_name}-none/7 cannot be read"):
        log.bounds((f"{unique_name}-none", 7))


def test_a_broker_that_is_away_is_waited_for_until_the_stall_timeout() -> None:
    settings = Settings(brokers=f"127.0.0.1:{free_port()}", stall_timeout=timedelta(seconds=10))
    with pytest.raises(UnreachableError, match="nothing came for 10 s"):
        list(TopicLog(settings).read(("shop.events", 0), 0, 10))
