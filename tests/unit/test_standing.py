"""What is asked of the broker about its partitions."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from driftwood import standing
from streams.topics import Topic

TOPIC = Topic("orders.labels", 1)


class Client:
    """Answers with these, one after another: an error's code, or an offset."""

    def __init__(self, *answers: KafkaError | int) -> None:
        self._answers = iter(answers)

    def list_offsets(self, wanted: Any, request_timeout: float) -> dict[TopicPartition, Future[Any]]:
        answer, told = next(self._answers), Future[Any]()
        if isinstance(answer, KafkaError):
            told.set_exception(KafkaException(answer))
        else:
            told.set_result(SimpleNamespace(offset=answer))
        return dict.fromkeys(wanted, told)

    def describe_consumer_groups(self, groups: list[str], request_timeout: float) -> dict[str, Future[Any]]:
        answer, told = next(self._answers), Future[Any]()
        if isinstance(answer, KafkaError):
            told.set_exception(KafkaException(answer))
        else:
            told.set_result(SimpleNamespace(members=[object()] * answer))
        return {groups[0]: told}


def asked(*answers: KafkaError | int) -> dict[tuple[str, int], int]:
    client: Any = Client(*answers)
    return standing._offsets(client, [TOPIC], standing._specs.latest())


def test_a_partition_that_has_no_leader_yet_is_asked_again() -> None:
    assert asked(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION), 7) == {("orders.labels", 0): 7}


def test_any_other_error_is_told_at_once() -> None:
    with pytest.raises(KafkaException):
        asked(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), 7)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (2, 2),
        (KafkaError(KafkaError.GROUP_ID_NOT_FOUND), 0),
        (KafkaError(KafkaError._UNSUPPORTED_FEATURE), None),
    ],
)
def test_a_group_that_was_never_joined_has_no_members_and_a_broker_that_cannot_say_is_none(
    answer: KafkaError | int, told: int | None
) -> None:
    client: Any = Client(answer)
    assert standing.members(client, "orders.learn") == told
