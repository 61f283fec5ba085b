"""docs/topics.md tells what the code writes: schema, headers, reasons; and its examples work."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import jsonschema
import msgspec
import numpy as np
import pytest
from confluent_kafka import Message

from driftwood import Label, categorical, scaled_logistic
from features import diagnosis
from features.decode import Decoder
from models.drift.alert import Alert
from models.drift.alert import decoded as read_alert
from models.drift.alert import encoded as write_alert
from models.drift.incidents import Incidents, Terms
from models.drift.signals import Signal
from models.drift.titles import RUNBOOKS
from models.model_store import ModelStore
from streams import control, flags
from streams.control import ControlRecord
from streams.dead_letters import DeadLetter, DeadLetterWriter
from streams.frames import Frame, topic_digest
from streams.prediction import Answers, Part, Prediction
from streams.producer import Outgoing
from streams.served import JoinHop, ServedCodec
from streams.serving import Serving
from streams.settings import Settings
from streams.topics import Topic, pipeline_topics
from tests.learnt_snapshots import Shelf
from tests.shop_events import customer, orders, shop

TOPICS = Path("docs/topics.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def without_prose(value: Any) -> Any:
    """A JSON Schema without titles and descriptions: they say no more than the table above it."""
    if isinstance(value, dict):
        prose = {key for key in ("title", "description") if isinstance(value.get(key), str)}
        return {key: without_prose(inner) for key, inner in value.items() if key not in prose}
    return [without_prose(inner) for inner in value] if isinstance(value, list) else value


def documented_schema(what: str = "a prediction") -> Any:
    return json.loads(blocks(TOPICS.partition(f"<!-- schema of {what}")[2], "json")[0])


def test_the_schema_of_a_prediction_is_that_of_the_code():
    expected = without_prose(msgspec.json.schema(Prediction))
    assert documented_schema() == expected, json.dumps(expected, indent=2)


def test_every_field_of_a_prediction_is_explained():
    table = TOPICS.partition("\n| field | what |\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(Prediction.__struct_fields__)
    assert all(f"`{name}`" in table for name in Part.__struct_fields__)


def test_every_flag_is_explained():
    table = TOPICS.partition("\n| flag | what |\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(flags.NAMES.values())


def test_the_example_of_a_prediction_follows_the_schema():
    example = json.loads(blocks(TOPICS.partition("<!-- example of a prediction")[2], "json")[0])
    jsonschema.validate(example, documented_schema())
    assert list(example) == list(Prediction.__struct_fields__)


def test_the_schema_of_an_alert_is_that_of_the_code():
    expected = json.loads(json.dumps(without_prose(msgspec.json.schema(Alert))))  # defaults are tuples
    assert documented_schema("an alert") == expected, json.dumps(expected, indent=2)


def test_every_field_of_an_alert_is_explained():
    table = TOPICS.partition("\n| field of an alert | what |\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(Alert.__struct_fields__)
    told = TOPICS.partition("## Drift alerts")[2].partition("\n## ")[0]
    assert all(f"`{name}`" in told for name in Signal.__struct_fields__)


def test_the_example_of_an_alert_follows_the_schema_and_is_one():
    text = blocks(TOPICS.partition("<!-- example of an alert")[2], "json")[0]
    jsonschema.validate(json.loads(text), documented_schema("an alert"))
    assert list(json.loads(text)) == list(Alert.__struct_fields__)
    assert read_alert(text.encode()).runbook in RUNBOOKS.values()


def test_alerts_as_they_are_raised_follow_the_schema():
    incidents = Incidents(Terms("shop", 10, 1, None, {"data": ["reset"]}))
    [raised] = incidents.hear("served", 1, [Signal("data", "amount", "ks", 1, 0.3, 0.1, 3.0)])
    jsonschema.validate(json.loads(write_alert(raised)), documented_schema("an alert"))


def test_every_kind_of_record_on_control_is_explained_and_the_examples_are_records():
    told = TOPICS.partition("\n## Control\n")[2].partition("\n## ")[0]
    kinds = re.findall(r"^\| `([a-z-]+)` \|", told, re.MULTILINE)
    assert set(kinds) == {"kind", *(one.__struct_config__.tag for one in get_args(ControlRecord))}
    examples = [control.decoded(text.encode()) for text in blocks(told, "json")[0].splitlines()]
    assert None not in examples


EVENT = {"order_id": "f1", "placed_at": "2013-04-01T10:15:00Z", "customer": None, "shop": 7, "amount": None}
FEATURES = ["amount", categorical("country"), customer.count("1d"), shop.mean("amount", "1d")]


def predictions(folder: Path, **more: Any) -> list[Outgoing]:
    """What the last stage writes of two orders: without a customer or an amount, and the second one late."""
    pipeline = orders(FEATURES, **more)
    topics = pipeline_topics(pipeline.name, ["customer", "shop"], Settings(), learns=pipeline.learns)
    join = JoinHop(topics.learning.hop_join, ServedCodec(pipeline), pipeline.version) if more else None
    shelf = Shelf(pipeline)
    shelf.publish(41)
    serving = Serving(pipeline, ModelStore(folder), shelf.feed if more else None)
    asyncio.run(serving.refresh())
    answers = Answers(pipeline, serving, topics.predictions, topics.events.name, join)
    rows = Decoder(pipeline.feature_set).decode([(json.dumps(EVENT).encode(), 0)] * 2).rows
    records: Any = [SimpleNamespace(offset=offset, timestamp=1_364_811_300_412) for offset in (7, 8)]
    frame = Frame.of_events(rows, "orders.events@cluster/topic", 2, records)
    windows = np.full((2, len(pipeline.feature_set.windows)), np.nan)
    for number, plan in enumerate(pipeline.feature_set.entities):
        columns = pipeline.feature_set.window_slice(plan.entity)
        frame = frame.with_entity(
            windows[:, columns], np.array([np.nan, 60.0]), np.array([0, flags.LATE]) * (number == 0)
        )
    written = answers.messages(frame, "hop/0", answers.versions())
    return [message for message in written if message.topic == topics.predictions.name]


def test_predictions_follow_the_schema_and_have_the_headers_of_the_page(tmp_path):
    first, second = predictions(tmp_path)
    for message in (first, second):
        jsonschema.validate(json.loads(message.value), documented_schema())
        assert all(f"`{name}`" in TOPICS for name, _ in message.headers)
        assert message.key == b"f1"
    assert json.loads(first.value)["ages_s"]["customer"] is None
    assert json.loads(second.value)["flags"] == ["late", "fallback", "missing"]
    assert dict(first.headers)["position"] == b"orders.events@%08x/2/7" % topic_digest(
        "orders.events@cluster/topic"
    )


@pytest.mark.parametrize(
    "label",
    [Label("returned"), Label("what", kind="multiclass", classes=("a", "b", "c"))],
)
def test_predictions_of_a_pipeline_that_learns_follow_the_schema_and_have_every_field(tmp_path, label):
    for message in predictions(tmp_path, label=label, online=[scaled_logistic()]):
        one = json.loads(message.value)
        jsonschema.validate(one, documented_schema())
        assert list(one) == list(Prediction.__struct_fields__)
        assert one["snapshot"] == 41 and len(one["uncertainty"]) == 2


def messages(outgoing: list[Outgoing]) -> list[Message]:
    """As confluent-kafka would hand them to a reader."""
    return [
        Message(topic=one.topic, key=one.key, value=one.value, headers=list(one.headers)) for one in outgoing
    ]


def code_of(start: str) -> dict[str, Any]:
    """The names that the Python block of the page which holds `start` defines."""
    names: dict[str, Any] = {}
    [code] = [block for block in blocks(TOPICS, "python") if start in block]
    exec(compile(code, "docs/topics.md", "exec"), names)
    return names


def test_the_reader_on_the_page_drops_copies_also_between_calls(tmp_path):
    once = code_of("def once")["once"]
    first, second = messages(predictions(tmp_path))
    seen: dict[bytes, None] = {}
    read = [prediction["position"] for prediction in once([first, second, first], seen)]
    topic = f"orders.events@{topic_digest('orders.events@cluster/topic'):08x}"
    assert read == [f"{topic}/2/7", f"{topic}/2/8"]
    assert list(once([second], seen)) == []
    assert len(list(once([first, second, first], {}, limit=1))) == 3  # what was forgotten comes again


def test_all_python_on_the_page_compiles():
    for block in blocks(TOPICS, "python"):
        compile(block, "docs/topics.md", "exec")


def dead_letter(
    value: bytes, key: bytes = b"k", reason: str = "wrong_type", path: str = "$.amount"
) -> Outgoing:
    writer = DeadLetterWriter("orders.dead-letters", 4, "orders.events", "v1", max_record_bytes=1 << 20)
    record: Any = SimpleNamespace(offset=3, timestamp=0, key=key, value=value, headers=())
    return writer.message(DeadLetter(1, record, reason, path, "a sentence"))


def test_the_headers_of_dead_letters_are_those_on_the_page():
    table = TOPICS.partition("\n| header | what |\n")[2].partition("\n\n")[0]
    told = set(re.findall(r"`([a-z_0-9]+)`", "".join(row.split("|")[1] for row in table.splitlines())))
    large = dead_letter(bytes(2 << 20), key=bytes(2 << 20))
    assert told == {name for name, _ in large.headers}


def test_the_reasons_of_dead_letters_are_those_on_the_page():
    table = TOPICS.partition("\n| reason | the record |\n")[2].partition("\n\n")[0]
    listed = set(re.findall(r"^    ([a-z_]+) {2,}", str(diagnosis.__doc__), re.MULTILINE))
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == listed | {
        "not_a_frame",
        "known_before_event",
    }


def test_the_example_of_mending_mends():
    mended = code_of("def mended")["mended"]
    [bad, other] = messages(
        [dead_letter(b'{"amount": "12.5", "shop": 7}'), dead_letter(b"{", reason="not_json")]
    )
    assert json.loads(mended(bad)) == {"amount": 12.5, "shop": 7}
    assert mended(other) is None


def test_every_kind_of_topic_is_on_the_page():
    topics = pipeline_topics("flights", ["<entity>"], Settings(), learns=True)
    listed = re.findall(r"^\| \[`([^`]+)`\]", TOPICS, re.MULTILINE)
    every: list[Topic] = list(topics)
    assert sorted(listed) == sorted(topic.name for topic in every)
