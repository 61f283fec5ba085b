"""Bad input on a real Kafka: every kind becomes one dead letter with all that its sender needs, and nothing else stops."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message

from deploy.kafka.real_kafka import RealKafka
from driftwood.embedded import EmbeddedRedis
from streams.dead_letters import HEAD_BYTES
from streams.frames import FrameCodec
from streams.settings import Settings
from streams.topics import TopicAdmin, pipeline_topics
from tests.card_payments import Payments, encoded, payments, payments_pipeline
from tests.kafka_records import Reader, Sender, headers
from tests.worker_process import Metrics, WorkerProcess, until, worker_processes

PARTITIONS = 2
TEN_MEGABYTES = 10_000_000
GOOD = payments(400)
WITH_MORE = "more"  # the id of a good event with a field that nobody declared


def at(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def event(**changes: Any) -> bytes:
    return encoded({**GOOD[0], "payment_id": "bad", **changes})


def without(name: str) -> bytes:
    return encoded({key: value for key, value in GOOD[0].items() if key != name})


def raw(field: str, text: str) -> bytes:
    """An event with this text, which need not be JSON, as the value of a field."""
    return event(**{field: "@"}).replace(b'"@"', text.encode())


def now() -> datetime:
    return datetime.now(UTC)


# Name: the record, the reason and the path that its dead letter must have.
BAD: dict[str, tuple[bytes | None, str, str]] = {
    "tombstone": (None, "empty", "$"),
    "no bytes": (b"", "empty", "$"),
    "not JSON": (b"payment 17", "not_json", "$"),
    "cut off": (event()[:-9], "not_json", "$"),
    "two records": (event() + event(), "not_json", "$"),
    "not UTF-8": (event(holder="@").replace(b"@", b"\xff\xfe"), "not_json", "$"),
    "an array": (b"[1, 2]", "not_an_object", "$"),
    "a number": (b"17", "not_an_object", "$"),
    "nested deeply": (b'{"more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep", "$"),
    "wrong type": (event(amount="12.50"), "wrong_type", "$.amount"),
    "null where none may be": (event(terminal=None), "wrong_type", "$.terminal"),
    "missing field": (without("amount"), "missing_field", "$.amount"),
    "missing id": (without("payment_id"), "missing_field", "$.payment_id"),
    "NaN": (raw("amount", "NaN"), "not_finite", "$.amount"),
    "Infinity": (raw("amount", "-Infinity"), "not_finite", "$.amount"),
    "too large for a float": (raw("amount", "1e999"), "not_finite", "$.amount"),
    "over its range": (event(amount=10_000.5), "out_of_range", "$.amount"),
    "below its range": (event(amount=-1), "out_of_range", "$.amount"),
    "an id without end": (event(payment_id="x" * 300), "key_too_long", "$.payment_id"),
    "name twice": (event()[:-1] + b', "amount": 2.0}', "duplicate_field", "$.amount"),
    "no time": (event(at="yesterday"), "bad_time", "$.at"),
    "nobody's time": (event(at="2024-05-02T00:00:00"), "bad_time", "$.at"),
    "before the earliest": (event(at="2023-12-31T23:59:59Z"), "time_too_early", "$.at"),
    "year 9999": (event(at="9999-12-31T23:59:59Z"), "time_too_late", "$.at"),
    "more than an hour ahead": (event(at=at(now() + timedelta(hours=2))), "time_ahead", "$.at"),
    "a label": (
        json.dumps({"payment_id": "bad", "fraud": True, "known_at": "2024-05-09T00:00:00Z"}).encode(),
        "label_in_events",
        "$",
    ),
    "above the limit of a record": (event(holder="x" * (1 << 20)), "too_large", "$"),
    "ten megabytes": (b"x" * TEN_MEGABYTES, "too_large", "$"),
}


@dataclass(frozen=True)
class Run:
    """Good and bad records, alternating, and what became of them; the bad ones by their place in the topic."""

    payments: Payments
    bad: dict[tuple[int, int], str]
    dead_letters: list[Message]
    answers: list[dict[str, Any]]
    hop: list[Message]
    metrics: Metrics
    worker: WorkerProcess


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, kafka: RealKafka, embedded_redis: EmbeddedRedis
) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("bad")
    payments = payments_pipeline(folder)
    TopicAdmin(Settings(brokers=kafka.address)).create(payments.topics(PARTITIONS))
    name, bad = payments.name, {}
    sender = Sender(kafka.address, f"{name}.events")
    with (
        worker_processes(folder) as start,
        Reader(kafka.address, f"{name}.predictions", PARTITIONS) as predictions,
        Reader(kafka.address, f"{name}.dead-letters", PARTITIONS) as dead,
        Reader(kafka.address, f"{name}.hop-card", PARTITIONS) as hop,
    ):
        worker = start(
            payments.path,
            brokers=kafka.address,
            redis_url=embedded_redis.url,
            partitions=PARTITIONS,
            models_dir=folder / "models",
        ).started()
        names, ends = iter(BAD), [0] * PARTITIONS
        for number, good in enumerate(GOOD):
            partition = number % PARTITIONS
            sender.produce(partition, encoded(good))
            ends[partition] += 1
            if number % 10 == 5 and (case := next(names, None)) is not None:
                sender.produce(partition, BAD[case][0])
                bad[partition, ends[partition]] = case
                ends[partition] += 1
        sender.produce(0, encoded(GOOD[0]))  # its id was there before
        sender.produce(1, encoded(GOOD[1] | {"payment_id": WITH_MORE, "loyalty": 3}))
        sender.flush()
        assert len(bad) == len(BAD)
        predictions.wait_for(len(GOOD) + 1)
        dead.wait_for(len(BAD))
        until(lambda: worker.metrics().value("driftwood_rows_total", stage="terminal") > len(GOOD), "answers")
        until(lambda: worker.metrics().value("driftwood_repeated_ids_total") == 1, "the repeat")
        answers = [json.loads(message.value() or b"") for message in predictions.read(1.0)]
        hop_records = hop.wait_for(hop.end())
        yield Run(payments, bad, dead.read(1.0), answers, hop_records, worker.metrics(), worker)


def test_every_bad_record_has_one_dead_letter_that_says_where_it_stood_and_why(run: Run) -> None:
    found = {}
    for letter in run.dead_letters:
        said = headers(letter)
        assert said["topic"] == f"{run.payments.name}.events"
        assert said["ce_id"] == f"{said['topic']}/{said['partition']}/{said['offset']}"
        found[int(said["partition"]), int(said["offset"])] = (said["reason"], said["path"])
        assert said["detail"]
    assert len(found) == len(run.dead_letters)
    assert found == {place: BAD[case][1:] for place, case in run.bad.items()}


def test_a_dead_letter_has_the_original_bytes_or_head_length_and_hash(run: Run) -> None:
    for letter in run.dead_letters:
        said = headers(letter)
        sent = BAD[run.bad[int(said["partition"]), int(said["offset"])]][0] or b""
        if len(sent) <= 1 << 20:
            assert (letter.value() or b"") == sent
            assert "length" not in said
        else:
            assert letter.value() == sent[:HEAD_BYTES]
            assert (said["length"], said["sha256"]) == (str(len(sent)), hashlib.sha256(sent).hexdigest())


def test_the_good_records_around_them_are_answered_once_and_keep_their_order(run: Run) -> None:
    assert sorted(answer["event_id"] for answer in run.answers) == sorted(
        [WITH_MORE, *(good["payment_id"] for good in GOOD)]
    )
    codec = FrameCodec(run.payments.feature_set, 0)
    last: dict[tuple[int, int], int] = {}
    for message in run.hop:
        frame = codec.decode(message.value() or b"")
        for origin, offset in zip(
            frame.origin_partitions.tolist(), frame.origin_offsets.tolist(), strict=True
        ):
            place = (message.partition() or 0, origin)
            assert offset > last.get(place, -1)
            last[place] = offset


def test_the_worker_goes_on_and_counts_them_by_reason(run: Run) -> None:
    assert run.worker.process.poll() is None
    reasons = [reason for _, reason, _ in BAD.values()]
    for reason in set(reasons):
        assert run.metrics.value("driftwood_dead_letters_total", reason=reason) == reasons.count(reason)
    assert run.metrics.value("driftwood_events_total", stage="ingest") == len(GOOD) + len(BAD) + 2
    assert run.metrics.value("driftwood_rows_total", stage="terminal") == len(GOOD) + 1
    assert run.metrics.value("driftwood_repeated_ids_total") == 1
    assert run.metrics.value("driftwood_unknown_fields_total", field="loyalty") == 1
    assert run.worker.stop() == 0


MILLISECONDS = """
import msgspec
from driftwood import Entity, Label, Pipeline


class Reading(msgspec.Struct):
    id: str
    at: int
    sensor: str


readings = Pipeline(
    "{name}", event=Reading, id="id", time="at", time_unit="ms", label=Label("broken", horizon="1d"),
    features=[Entity("sensor").count("1h")],
)
"""


def test_times_in_another_unit_and_unknown_fields_where_they_are_refused(
    kafka: RealKafka, embedded_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    name = f"readings_{uuid.uuid4().hex[:12]}"
    path = tmp_path / f"{name}.py"
    path.write_text(MILLISECONDS.replace("{name}", name))
    settings: dict[str, Any] = {"brokers": kafka.address, "partitions": 1}
    TopicAdmin(Settings(**settings)).create(pipeline_topics(name, ["sensor"], Settings(**settings)))
    now_s = int(now().timestamp())
    records: dict[str, tuple[dict[str, Any], str, str, str]] = {
        "seconds": ({"at": now_s}, "time_too_early", "$.at", "look like seconds"),
        "microseconds": ({"at": now_s * 1_000_000}, "time_too_late", "$.at", "look like microseconds"),
        "more": ({"at": now_s * 1000, "unit": "V"}, "unknown_field", "$.unit", "no field of Reading"),
        "good": ({"at": now_s * 1000}, "", "", ""),
    }
    with (
        worker_processes(tmp_path / "workers") as start,
        Reader(kafka.address, f"{name}.predictions", 1) as predictions,
        Reader(kafka.address, f"{name}.dead-letters", 1) as dead,
    ):
        worker = start(path, redis_url=embedded_redis.url, unknown_fields="dead-letter", **settings).started()
        values = [encoded({"id": case, "sensor": "s", **record[0]}) for case, record in records.items()]
        Sender(kafka.address, f"{name}.events").send((0, value) for value in values)
        [answer] = predictions.wait_for(1)
        assert json.loads(answer.value() or b"")["event_id"] == "good"
        for letter, (_, reason, path_, words) in zip(dead.wait_for(3), records.values(), strict=False):
            said = headers(letter)
            assert (said["reason"], said["path"]) == (reason, path_)
            assert words in said["detail"]
        assert worker.stop() == 0
