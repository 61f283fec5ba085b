"""Dead letters hold what was sent, say why it could not be used, and always fit through the broker."""

from __future__ import annotations

import hashlib

import pytest

from streams.dead_letters import HEAD_BYTES, MAX_TEXT_BYTES, DeadLetter, DeadLetterWriter
from streams.producer import Outgoing, partition_of
from tests.in_process import LogRecord

LIMIT = 100_000
WRITER = DeadLetterWriter("orders.dead-letters", 4, "orders.events", "v1", LIMIT)


def letter(
    value: bytes | None, key: bytes | None = b"k", path: str = "$.at", detail: str = "no time"
) -> Outgoing:
    return WRITER.message(DeadLetter(3, LogRecord(17, 1_000, key, value), "bad_time", path, detail))


def headers(message: Outgoing) -> dict[str, bytes]:
    assert len({name for name, _ in message.headers}) == len(message.headers)
    return dict(message.headers)


@pytest.mark.parametrize("value", [b"", b"{", b"\x00\xff" * 40, b"x" * LIMIT])
def test_a_dead_letter_has_the_original_bytes_and_says_where_they_stood_and_what_is_wrong(value):
    message = letter(value)
    assert (message.topic, message.partition, message.key, message.value) == (
        "orders.dead-letters",
        partition_of(b"k", 4),
        b"k",
        value,
    )
    assert headers(message) == {
        "topic": b"orders.events",
        "partition": b"3",
        "offset": b"17",
        "reason": b"bad_time",
        "path": b"$.at",
        "detail": b"no time",
        "pipeline_version": b"v1",
        "ce_specversion": b"1.0",
        "ce_id": b"orders.events/3/17",
        "ce_type": b"driftwood.dead-letter.v1",
        "ce_source": b"orders.events",
    }


def test_a_record_without_value_or_key_is_a_dead_letter_without_them():
    message = letter(None, key=None)
    assert (message.value, message.key) == (b"", None)


def test_of_an_oversized_record_the_head_stays_with_its_length_and_hash():
    value = bytes(range(256)) * 500
    message = letter(value)
    assert message.value == value[:HEAD_BYTES]
    assert headers(message)["length"] == str(len(value)).encode()
    assert headers(message)["sha256"] == hashlib.sha256(value).hexdigest().encode()


def test_whatever_is_wrong_with_a_record_its_dead_letter_is_hardly_larger_than_the_limit():
    message = letter(b"x" * LIMIT, key=b"y" * 10_000_000, path="$." + "é" * 500_000, detail="z" * 500_000)
    size = len(message.value) + len(message.key or b"") + sum(len(text) for _, text in message.headers)
    assert size < LIMIT + HEAD_BYTES + 2 * MAX_TEXT_BYTES + 1_000
    assert headers(message)["key_length"] == b"10000000"
    assert headers(message)["path"].decode(errors="ignore").startswith("$.éé")


def test_half_of_a_surrogate_pair_in_a_path_is_written_as_an_escape():
    assert headers(letter(b"{", path="$.\ud800"))["path"] == b"$.\\ud800"


@pytest.mark.parametrize("key", [None, b""])
def test_dead_letters_without_a_key_take_turns_and_a_copy_comes_to_the_same_partition(key):
    def partition(offset: int) -> int | None:
        record = LogRecord(offset, 1_000, key, b"{")
        return WRITER.message(DeadLetter(3, record, "bad_time", "$", "no time")).partition

    assert [partition(offset) for offset in (17, 18, 19, 20, 17)] == [0, 1, 2, 3, 0]
