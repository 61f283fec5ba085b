"""An event that is too large to travel becomes a dead letter at the door; the largest that is taken goes all the way."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driftwood import Entity, Label, Pipeline, categorical
from features.decode import MAX_TEXT_CHARS, MAX_TEXTS_BYTES
from features.errors import SettingError
from features.memory_store import MemoryStore
from streams.dead_letters import HEAD_BYTES, DeadLetter, DeadLetterWriter
from streams.producer import _size
from streams.settings import LETTER_BYTES, Settings
from tests.in_process import LogRecord, Road

TEXTS = [f"text_{number}" for number in range(170)]
# What a broker takes by default in a topic (`max.message.bytes` 1,048,588), less what it adds for a batch of one record.
BROKER_TAKES = 1_048_588 - 70

owner = Entity("owner")
Form = msgspec.defstruct(
    "Form",
    [("form_id", str), ("at", datetime), ("owner", str), *((name, str | None, None) for name in TEXTS)],
)
FORMS = Pipeline(
    "forms",
    event=Form,
    id="form_id",
    time="at",
    label=Label("accepted"),
    features=[*(categorical(name) for name in TEXTS), owner.count("1h")],
    fallback=0.5,
)


def form(name: str, text: str, texts: int = len(TEXTS), **more: Any) -> bytes:
    event = {
        "form_id": name,
        "at": "2024-05-01T00:00:00Z",
        "owner": "ann",
        **dict.fromkeys(TEXTS[:texts], text),
    }
    return json.dumps({**event, **more}, ensure_ascii=False).encode()


def sent(*events: bytes) -> Road:
    road = Road(FORMS, MemoryStore(), Path("no-models-here"), 1)
    road.send(events)
    road.run()
    return road


# A character of one byte, of four, of one byte that JSON writes with two, and of one that it writes with six.
@pytest.mark.parametrize("character", ["x", "\N{GRINNING FACE}", '"', "\x01"])
def test_an_event_with_more_text_than_travels_is_a_dead_letter_and_its_neighbours_are_answered(
    character: str,
) -> None:
    size = len(msgspec.json.encode(character)) - 2
    most = (MAX_TEXTS_BYTES - 1_000) // (size * MAX_TEXT_CHARS)
    fits, too_much = (
        form(name, character * MAX_TEXT_CHARS, texts) for name, texts in (("a", most), ("b", most + 1))
    )
    if most >= len(TEXTS):
        road = sent(form("a", character * MAX_TEXT_CHARS))
        assert set(road.predictions()) == {"a"} and road.dead() == []
        return
    road = sent(form("first", "x"), fits, too_much, form("last", "x"))
    assert set(road.predictions()) == {"first", "a", "last"}
    [dead] = road.dead()
    assert (dead.header("reason"), dead.header("path"), dead.header("offset")) == (
        b"texts_too_long",
        b"$",
        b"2",
    )
    assert dead.value == too_much


@pytest.mark.parametrize("character", ["x", "\N{GRINNING FACE}", '"', "\x01"])
def test_whatever_is_taken_makes_records_that_a_broker_takes(character: str) -> None:
    size = len(msgspec.json.encode(character)) - 2
    most = min((MAX_TEXTS_BYTES - 1_000) // (size * MAX_TEXT_CHARS), len(TEXTS))
    road = sent(*(form(name, character * MAX_TEXT_CHARS, most) for name in "abc"))
    assert set(road.predictions()) == set("abc")
    written = [
        len(record.value or b"") + sum(len(name) + len(value) + 9 for name, value in record.headers)
        for topic in (*road.topics.hops.values(), road.topics.predictions)
        for record in road.log.topic(topic.name)
    ]
    assert len(written) > 3 and max(written) < BROKER_TAKES


def test_a_large_event_of_which_little_travels_is_answered() -> None:
    road = sent(form("a", "x", undeclared="y" * (MAX_TEXTS_BYTES + 10_000)))
    assert set(road.predictions()) == {"a"}


def test_a_dead_letter_of_the_largest_record_fits_into_its_topic() -> None:
    settings = Settings(max_message_bytes=1 << 20, max_record_bytes=(1 << 20) - LETTER_BYTES)
    writer = DeadLetterWriter("t.dead-letters", 4, "t" * 249, "v" * 64, settings.max_record_bytes)
    record = LogRecord(2**62, 0, bytes(HEAD_BYTES + 1), bytes(settings.max_record_bytes))
    letter = writer.message(DeadLetter(999, record, "not_json", "$" * 2_000, "d" * 2_000))
    assert letter.value == record.value
    assert _size(letter) < settings.max_message_bytes


def test_a_limit_of_records_that_leaves_no_room_for_dead_letters_is_refused() -> None:
    with pytest.raises(
        SettingError, match=r"max_record_bytes.*at most max_message_bytes \(1MiB\) less 128KiB"
    ):
        Settings(max_message_bytes=1 << 20, max_record_bytes=(1 << 20) - LETTER_BYTES + 1)
