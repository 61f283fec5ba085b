"""A whole worker process on the embedded broker: events in and predictions out with plain clients, and its life."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Message

from driftwood.embedded import EmbeddedBroker, EmbeddedRedis, Runtime
from features.errors import OperatorError, SettingError, TopicError, UnreachableError
from models.model_store import ModelStore
from offline.backfill import Backfill, compute_features
from offline.train import train
from streams.run import run_worker
from streams.settings import Settings
from tests.card_payments import (
    CARD,
    HOLDER,
    Payments,
    as_served,
    bits,
    encoded,
    feast_has,
    payments,
    payments_pipeline,
    served,
)
from tests.kafka_records import Reader, Sender, headers
from tests.worker_process import Metrics, Start, WorkerProcess, until, worker_processes

EVENTS = 1500
REPEATS = 40
OPERATOR = OperatorError.exit_code

# On the embedded broker a group stands still for this long, less a second, whenever a member comes later or leaves.
SESSION = "6s"

# Records of a batch: each takes some milliseconds of waiting for Redis and the broker, so that on the quickest machine
# several thousand events take far longer than a test takes to see the first answer.
SMALL = 10


@dataclass(frozen=True)
class Place:
    """A pipeline with its topics on a broker, and the settings of its workers."""

    payments: Payments
    broker: EmbeddedBroker
    settings: dict[str, Any]

    @property
    def partitions(self) -> int:
        return int(self.settings["partitions"])

    def send(self, records: list[bytes]) -> None:
        sender = Sender(self.broker.address, f"{self.payments.name}.events")
        sender.send((number % self.partitions, value) for number, value in enumerate(records))

    def reader(self, kind: str = "predictions") -> Reader:
        return Reader(self.broker.address, f"{self.payments.name}.{kind}", self.partitions)

    def worker(self, start: Start, **settings: object) -> WorkerProcess:
        return start(self.payments.path, **self.settings | settings).started()


def place_on(folder: Path, broker: EmbeddedBroker, redis: EmbeddedRedis, partitions: int = 1) -> Place:
    payments = payments_pipeline(folder)
    for topic in payments.topics(partitions):
        broker.create_topic(topic.name, topic.partitions)
    settings = {
        "brokers": broker.address,
        "redis_url": redis.url,
        "partitions": partitions,
        "models_dir": folder / "models",
        "session_timeout": SESSION,
    }
    return Place(payments, broker, settings)


@pytest.fixture
def place(tmp_path: Path, embedded: Runtime) -> Place:
    return place_on(tmp_path, embedded.broker, embedded.redis)


def documents(messages: list[Message]) -> list[dict[str, Any]]:
    return [json.loads(message.value() or b"") for message in messages]


def backfill(folder: Path, payments: Payments, events: list[dict[str, Any]]) -> Backfill:
    """The features of these events in this order, as training would see them."""
    path = folder / "events.jsonl"
    path.write_bytes(b"".join(encoded(event) + b"\n" for event in events))
    return compute_features(payments.feature_set, path, "as given")[0]


# One run, looked at from several sides.


@dataclass(frozen=True)
class Run:
    place: Place
    events: list[dict[str, Any]]
    bad: list[bytes]
    predictions: list[Message]
    dead_letters: list[Message]
    metrics: Metrics
    exit_code: int
    log: str
    leftovers: list[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, embedded: Runtime) -> Iterator[Run]:
    """Good events with repeated and bad ones among them, through one worker and one partition."""
    folder = tmp_path_factory.mktemp("run")
    place = place_on(folder, embedded.broker, embedded.redis)
    events, random = payments(EVENTS), np.random.default_rng(5)
    bad = [
        b"{",
        encoded(events[3] | {"payment_id": "x1", "amount": f"{HOLDER}"}),
        encoded(events[4] | {"payment_id": "x2", "holder": {"name": HOLDER}}),
        encoded(events[5] | {"payment_id": "x3", "card": [CARD]}),
        encoded(events[6] | {"payment_id": "x4", "at": HOLDER}),
        encoded({name: value for name, value in events[7].items() if name != "terminal"}),
    ]
    records = [encoded(event) for event in events]
    for number in random.choice(EVENTS, REPEATS, replace=False):
        at = records.index(encoded(events[number]))
        records.insert(int(random.integers(at + 1, min(at + 200, len(records)) + 1)), encoded(events[number]))
    for value in bad:
        records.insert(int(random.integers(0, len(records))), value)
    with worker_processes(folder) as start, place.reader() as answers, place.reader("dead-letters") as dead:
        worker = place.worker(start, log_level="debug")
        for first in range(0, len(records), 100):  # several batches
            place.send(records[first : first + 100])
        predictions = answers.wait_for(EVENTS)
        until(
            lambda: worker.metrics().value("driftwood_events_total", stage="ingest") == len(records), "ingest"
        )
        until(lambda: worker.metrics().value("driftwood_rows_total", stage="terminal") == EVENTS, "answers")
        metrics = worker.metrics()
        exit_code = worker.stop()
        leftovers = sorted(str(path.relative_to(worker.folder)) for path in worker.folder.rglob("*"))
        yield Run(
            place,
            events,
            bad,
            predictions,
            dead.wait_for(len(bad)),
            metrics,
            exit_code,
            worker.stderr,
            leftovers,
        )


def test_features_and_scores_equal_the_backfill_of_the_same_events_bit_for_bit(
    run: Run, tmp_path: Path
) -> None:
    payments = run.place.payments
    past = backfill(tmp_path, payments, run.events)
    answered = documents(run.predictions)
    assert [answer["event_id"] for answer in answered] == [event["payment_id"] for event in run.events]
    scorer = ModelStore(tmp_path).load(payments.pipeline, answered[0]["parts"]["fallback"]["version"])
    scores = scorer.score(past.matrix)
    for row, answer in enumerate(answered):
        assert bits(served(payments.feature_set.names, answer)) == bits(as_served(past.matrix, row))
        assert bits([answer["score"]]) == bits([float(scores[row])])
        ages_s = [answer["ages_s"][plan.entity] for plan in payments.feature_set.entities]
        assert bits(ages_s) == bits([None if np.isnan(age) else age for age in past.ages_s[row].tolist()])
        assert ("late" in answer["flags"]) == bool(past.dropped[row] > 0)
        assert "fallback" in answer["flags"]


def test_every_event_has_exactly_one_prediction_that_names_its_record(run: Run) -> None:
    answered = documents(run.predictions)
    assert len({answer["position"] for answer in answered}) == len(answered) == EVENTS
    for message, answer in zip(run.predictions, answered, strict=True):
        assert (message.key() or b"").decode() == answer["event_id"]
        assert headers(message)["position"] == answer["position"]
        assert re.fullmatch(rf"{run.place.payments.name}\.events@[0-9a-f]{{8}}/0/\d+", answer["position"])


def test_bad_records_become_dead_letters_in_their_order_with_their_bytes(run: Run) -> None:
    sent_offsets = [int(headers(letter)["offset"]) for letter in run.dead_letters]
    assert sorted(letter.value() or b"" for letter in run.dead_letters) == sorted(run.bad)
    assert sent_offsets == sorted(sent_offsets)
    reasons = Counter(headers(letter)["reason"] for letter in run.dead_letters)
    assert reasons == {"not_json": 1, "wrong_type": 3, "bad_time": 1, "missing_field": 1}


def test_the_counts_of_the_metrics_add_up(run: Run) -> None:
    metrics = run.metrics
    events = metrics.value("driftwood_events_total", stage="ingest")
    predictions = metrics.value("driftwood_rows_total", stage="terminal")
    dead_letters = metrics.value("driftwood_dead_letters_total")
    repeats = metrics.value("driftwood_repeated_ids_total")
    assert (predictions, dead_letters, repeats) == (EVENTS, len(run.bad), REPEATS)
    assert events == predictions + dead_letters + repeats
    assert metrics.value("driftwood_prediction_latency_seconds_count") == EVENTS
    late = sum("late" in answer["flags"] for answer in documents(run.predictions))
    assert 0 < late <= metrics.value("driftwood_late_events_total")
    assert metrics.value("driftwood_copies_total") == 0
    assert metrics.value("driftwood_lag_records") == 0


def test_the_metrics_say_what_the_worker_is_made_of(run: Run) -> None:
    metrics, events = run.metrics, run.events
    assert metrics.value("driftwood_entities", topic=f"{run.place.payments.name}.hop-terminal") == len(
        {event["terminal"] for event in events}
    )
    assert metrics.value("driftwood_state_bytes") > 0
    assert metrics.value("driftwood_step_seconds_count", stage="card", step="commit") > 1
    assert metrics.value("driftwood_batch_rows_sum", stage="card") == EVENTS
    assert metrics.value("driftwood_feature_age_seconds_count", entity="terminal") > 0
    assert metrics.value("driftwood_model_in_service") == 1
    assert metrics.value("process_cpu_seconds_total") > 0
    assert metrics.value("process_resident_memory_bytes") > 0


def test_feast_reads_back_what_the_worker_wrote_last_of_each_entity(run: Run, tmp_path: Path) -> None:
    payments = run.place.payments
    answers = {answer["event_id"]: answer for answer in documents(run.predictions)}
    newest: dict[str, dict[str, Any]] = {plan.entity: {} for plan in payments.feature_set.entities}
    for event in run.events:
        answer = answers[event["payment_id"]]
        for entity, known in newest.items():
            key = event[entity]
            if key is not None and (key not in known or answer["event_time"] >= known[key]["event_time"]):
                known[key] = answer
    feast_has(tmp_path, payments, run.place.settings["redis_url"], newest)


def test_no_log_line_holds_a_personal_value(run: Run) -> None:
    assert run.exit_code == 0
    assert "streams" in run.log or run.log == ""
    assert HOLDER not in run.log
    assert CARD not in run.log


def test_a_worker_leaves_no_files_where_it_was_started(run: Run) -> None:
    assert run.leftovers == []


# Its life.


def test_a_stop_finishes_the_batch_and_the_next_worker_goes_on_where_it_ended(
    place: Place, start: Start
) -> None:
    count = 4_000  # their predictions, in small batches, are 3.5 MB: less than the embedded broker keeps
    worker = place.worker(start, batch_max_records=SMALL)
    with place.reader() as answers:
        place.send([encoded(event) for event in payments(count)])
        answers.wait_for(100)
        assert worker.stop() == 0
        answered = len(answers.read(1.0))
        assert answered < count, "the stop came too late to say anything"
        follower = place.worker(start)
        answers.wait_for(count)
        assert follower.metrics().value("driftwood_copies_total") == 0
        assert follower.stop() == 0
        positions = [answer["position"].partition("/") for answer in documents(answers.read(1.0))]
    assert [place for _, _, place in positions] == [f"0/{offset}" for offset in range(count)]
    assert len({topic for topic, _, _ in positions}) == 1


# Ending, whatever is gone. A stop may take `stop_timeout` and a half; without that a request to a broker takes 90 s.

STOP_S = 4


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker().start() as running:
        yield running


@pytest.fixture
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis().start() as running:
        yield running


@pytest.fixture
def own_place(tmp_path: Path, broker: EmbeddedBroker, redis: EmbeddedRedis) -> Place:
    """With servers of its own, to be killed."""
    return place_on(tmp_path, broker, redis)


@pytest.fixture
def busy(own_place: Place, start: Start) -> Iterator[WorkerProcess]:
    """A worker that is held in the middle of several thousand events, most of them fetched and unanswered.

    Without a limit of unread bytes: ingest waits for it for as long as it takes, and so would not be in the middle of
    anything when a server goes.
    """
    worker = own_place.worker(
        start, stop_timeout=f"{STOP_S}s", stall_timeout="5s", batch_max_records=SMALL, unread_bytes_max="0B"
    )
    worker.suspend()
    own_place.send([encoded(event) for event in payments(6_000)])
    with own_place.reader() as answers:
        worker.resume()
        answers.wait_for(1)
        worker.suspend()
        assert len(answers.read(1.0)) < 5_000, "it came too far to be busy"
    yield worker
    worker.resume()


def kill(*servers: EmbeddedBroker | EmbeddedRedis) -> None:
    for server in servers:
        os.kill(server.pid, signal.SIGKILL)


@pytest.mark.crash
@pytest.mark.parametrize("redis_too", [False, True])
def test_a_stop_ends_in_time_although_servers_are_gone(
    own_place: Place, redis: EmbeddedRedis, busy: WorkerProcess, redis_too: bool
) -> None:
    kill(own_place.broker, *([redis] if redis_too else []))
    busy.resume()
    busy.terminate()
    busy.ended(within_s=10 * STOP_S)


@pytest.mark.crash
def test_a_worker_whose_redis_is_gone_for_good_says_so_and_ends(
    redis: EmbeddedRedis, busy: WorkerProcess
) -> None:
    kill(redis)
    busy.resume()
    assert busy.ended() == OPERATOR
    last = busy.stderr.strip().splitlines()[-1]
    assert last.startswith(f"driftwood: Redis does not answer at {redis.url} (setting redis_url)")


@pytest.mark.crash
def test_a_worker_whose_broker_is_gone_for_good_says_that_it_stalls_and_ends(
    own_place: Place, busy: WorkerProcess
) -> None:
    kill(own_place.broker)
    busy.resume()
    assert busy.ended() == OPERATOR
    assert f"driftwood: no progress for 5 s in {own_place.payments.name}." in busy.stderr, busy.stderr


@pytest.mark.crash
def test_a_worker_without_redis_and_broker_says_what_is_missing_and_ends(
    own_place: Place, redis: EmbeddedRedis, busy: WorkerProcess
) -> None:
    kill(own_place.broker, redis)
    busy.resume()
    assert busy.ended() == OPERATOR
    assert "driftwood: " in busy.stderr


# What stands in its way at the start: one sentence each.


def refusal(place: Place, stages: tuple[str, ...] = (), **settings: Any) -> OperatorError:
    values = Settings(**(place.settings | settings))
    with pytest.MonkeyPatch.context() as patch:
        # The process that would be ended hard, 45 s from now, is that of the tests.
        patch.setattr("streams.run.end_hard_after", lambda seconds, reason: None)
        with pytest.raises(OperatorError) as caught:
            run_worker(place.payments.pipeline, values, stages)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_missing_topic_is_named_with_the_command_that_creates_it(tmp_path: Path, place: Place) -> None:
    other = Place(payments_pipeline(tmp_path), place.broker, place.settings)
    error, name = refusal(other), other.payments.name
    assert isinstance(error, TopicError)
    assert f"topic {name}.events does not exist; expected one with 1 partitions" in str(error)
    assert f"driftwood topics create {name}" in str(error)


def test_another_number_of_partitions_is_refused(place: Place) -> None:
    error = refusal(place, partitions=3)
    assert isinstance(error, TopicError)
    assert "events has 1 partitions, expected 3 (setting partitions)" in str(error)


def test_an_unreachable_redis_is_said_at_the_start(place: Place) -> None:
    error = refusal(place, redis_url="redis://:hunter2@127.0.0.1:1/0")
    assert isinstance(error, UnreachableError)
    assert "Redis does not answer at redis://:***@127.0.0.1:1/0 (setting redis_url)" in str(error)


def test_an_unreachable_broker_is_said_at_the_start(place: Place) -> None:
    error = refusal(place, brokers="127.0.0.1:1")
    assert isinstance(error, UnreachableError)
    assert "Kafka does not answer at 127.0.0.1:1 (setting brokers)" in str(error)


def test_a_stage_that_the_pipeline_lacks_is_refused_with_those_that_it_has(place: Place) -> None:
    error = refusal(place, ("merchant",))
    assert isinstance(error, SettingError)
    assert "'merchant'" in str(error)
    assert "ingest, card, terminal" in str(error)


def test_a_metrics_port_that_is_taken_is_named(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        error = refusal(place, metrics_port=port)
    assert isinstance(error, SettingError)
    assert f"metrics_port = {port}" in str(error)


def test_a_refused_start_ends_with_its_exit_code_and_one_line(place: Place, start: Start) -> None:
    worker = start(place.payments.path, **place.settings | {"partitions": 2})
    assert worker.ended() == OPERATOR
    assert [line for line in worker.stderr.splitlines() if line.startswith("driftwood: topic ")] == [
        worker.stderr.strip()
    ]


# Models.


def trained(place: Place, seed: int) -> str:
    """Train and save a model; its version."""
    history = pd.DataFrame(payments(1_000, seed))
    history["fraud"] = history["amount"] > 60
    history["at"] = pd.to_datetime(history["at"])
    report = train(
        place.payments.pipeline,
        history,
        store=ModelStore(place.settings["models_dir"]),
        label_gap_us=0,
    )
    return report.version


def part(answer: dict[str, Any]) -> tuple[str, str]:
    [(name, part)] = answer["parts"].items()
    return name, part["version"]


def wait_for_service(worker: WorkerProcess, version: str) -> None:
    until(
        lambda: worker.metrics().value("driftwood_model_in_service", version=version) == 1,
        f"{version} is in service",
    )


def test_a_promoted_model_answers_without_a_restart_and_predictions_say_which_did(
    place: Place, start: Start, tmp_path: Path
) -> None:
    store, name = ModelStore(place.settings["models_dir"]), place.payments.name
    versions = [trained(place, seed) for seed in (11, 12)]
    worker = place.worker(start, champion_poll="100ms")
    events = payments(600)
    with place.reader() as answers:
        for round_, version in enumerate([None, *versions]):
            if version is not None:
                store.promote(name, version)
                wait_for_service(worker, version)
            place.send([encoded(event) for event in events[200 * round_ : 200 * round_ + 200]])
            answers.wait_for(200 * round_ + 200)
        answered = documents(answers.messages)
    fallback = worker.said["model"]
    expected = [("fallback", fallback)] * 200 + [
        ("lightgbm", version) for version in versions for _ in range(200)
    ]
    assert [part(answer) for answer in answered] == expected
    past = backfill(tmp_path, place.payments, events)
    for first, version in zip((0, 200, 400), (fallback, *versions), strict=True):
        scores = store.load(place.payments.pipeline, version).score(past.matrix)
        served_scores = [answer["score"] for answer in answered[first : first + 200]]
        assert bits(served_scores) == bits(scores[first : first + 200].tolist())
    for old, new in zip((fallback, *versions), versions, strict=False):
        assert f"model {new} is in service, after {old}" in worker.stderr
    assert worker.stop() == 0


def test_a_champion_that_cannot_be_used_is_reported_and_the_old_model_stays(
    place: Place, start: Start
) -> None:
    store, name = ModelStore(place.settings["models_dir"]), place.payments.name
    version = trained(place, 11)
    worker = place.worker(start, champion_poll="100ms")
    (store.folder / name / version / "model.txt").write_text("tree\n")
    (store.folder / name / "champion").write_text(f"{version}\n")
    until(lambda: "stays in service" in worker.stderr, "the refusal is logged")
    with place.reader() as answers:
        place.send([encoded(event) for event in payments(5)])
        assert {part(answer)[0] for answer in documents(answers.wait_for(5))} == {"fallback"}
