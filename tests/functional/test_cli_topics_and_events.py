"""The command line on the embedded broker: topics, produce, tail, up."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from driftwood.cli import main

Headers = list[tuple[str, str | bytes | None]]

PIPELINE = """
from datetime import datetime
from typing import Annotated
import msgspec
from driftwood import Entity, Label, Pipeline, personal

class Payment(msgspec.Struct):
    payment_id: str
    at: datetime
    card: Annotated[str, personal]
    shop: str
    amount: float

shop = Entity("shop")
payments = Pipeline("NAME", event=Payment, id="payment_id", time="at", earliest="2024-01-01",
    features=["amount", shop.count("1h")], label=Label("fraud", horizon="1d"))
"""


class Program:
    """`driftwood` in a folder and with an environment of its own: called in this process, or started as one."""

    def __init__(
        self, folder: Path, environment: dict[str, str], patch: pytest.MonkeyPatch, captured: Any
    ) -> None:
        self.folder, self.environment = folder, environment
        self._patch, self._captured = patch, captured
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """What it wrote on stdout and stderr, when it ended with `code`. In this process: imports take seconds."""
        self._captured.readouterr()
        with self._patch.context() as patch:
            patch.chdir(self.folder)
            for name in [name for name in os.environ if name.startswith("DRIFTWOOD_")]:
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["driftwood", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = self._captured.readouterr()
        assert ended.value.code == code, f"{arguments} ended with {ended.value.code}:\n{out}\n{err}"
        return out, err

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A process of its own, for signals."""
        command = [sys.executable, "-m", "driftwood", *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTWOOD_")}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=self.folder, env={**clean, **self.environment}, stdout=pipe, stderr=pipe, text=True
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """A test that failed must leave nothing running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def name(unique_name) -> str:
    return "p" + re.sub(r"[^a-z0-9]", "_", unique_name.lower())[-30:]


@pytest.fixture
def anywhere(tmp_path, monkeypatch, capsys) -> Iterator[Program]:
    """The program with no server named."""
    made = Program(tmp_path, {}, monkeypatch, capsys)
    yield made
    made.end()


@pytest.fixture
def program(anywhere: Program, embedded, name) -> Program:
    """The program beside the embedded servers, with a pipeline in shop.py."""
    (anywhere.folder / "shop.py").write_text(PIPELINE.replace("NAME", name))
    anywhere.environment.update(
        DRIFTWOOD_BROKERS=embedded.broker_address, DRIFTWOOD_REDIS_URL=embedded.redis_url
    )
    return anywhere


def payment(number: int, minute: int) -> dict[str, Any]:
    at = f"2024-03-01T10:{minute:02d}:00Z"
    return {
        "payment_id": f"p{number}",
        "at": at,
        "card": f"4111-{number}",
        "shop": f"s{number % 3}",
        "amount": 1.5,
    }


def write_events(path: Path, minutes: list[int]) -> None:
    path.write_text(
        "".join(json.dumps(payment(number, minute)) + "\n" for number, minute in enumerate(minutes))
    )


def test_topics_are_created_once_and_shown(program, name):
    out, _ = program("topics", "create", "shop.py", "--json")
    assert [topic["created"] for topic in json.loads(out)] == [True] * 4
    out, _ = program("topics", "create", "shop.py", "--json")
    assert not any(topic["created"] for topic in json.loads(out))
    out, _ = program("topics", "show", "shop.py", "--json")
    shown = json.loads(out)
    assert [topic["topic"] for topic in shown] == [
        f"{name}.{kind}" for kind in ("events", "hop-shop", "predictions", "dead-letters")
    ]
    assert {(topic["partitions"], topic["expected_partitions"]) for topic in shown} == {(4, 4)}


def test_missing_topics_end_with_3_and_the_command_that_helps(program, name):
    _, err = program("topics", "show", "shop.py", code=3)
    assert f"topic {name}.events does not exist" in err and "driftwood topics create" in err
    assert "Traceback" not in err
    write_events(program.folder / "events.jsonl", [1])
    program("produce", "shop.py", "events.jsonl", code=3)


def test_what_is_produced_is_read_back_in_order_with_personal_fields_masked(program):
    program("topics", "create", "shop.py")
    minutes = [1, 2, 3, 5, 4, 6, 7]
    write_events(program.folder / "events.jsonl", minutes)
    out, err = program("produce", "shop.py", "events.jsonl", "--json")
    summary = json.loads(out)
    assert (summary["events"], summary["out_of_order"], summary["oldest_s"]) == (7, 1, 60.0)
    assert "older than one before them" in err
    out, _ = program("tail", "events", "shop.py", "--from-start", "--no-follow", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["value"]["card"] for line in lines} == {"•••"} and "4111" not in out
    for shop in ("s0", "s1", "s2"):
        ids = [line["value"]["payment_id"] for line in lines if line["value"]["shop"] == shop]
        assert ids == sorted(ids)
    out, _ = program("tail", "events", "shop.py", "--from-start", "--no-follow", "--json", "--show-personal")
    assert {json.loads(line)["value"]["card"] for line in out.splitlines()} == {f"4111-{n}" for n in range(7)}


def test_sorting_sends_by_event_time(program):
    program("topics", "create", "shop.py")
    write_events(program.folder / "events.jsonl", [9, 8, 7, 6, 5, 4])
    out, err = program("produce", "shop.py", "events.jsonl", "--sort", "--json")
    assert json.loads(out)["out_of_order"] == 0 and "older" not in err
    out, _ = program("tail", "events", "shop.py", "--from-start", "--no-follow", "--json")
    values = [json.loads(line)["value"] for line in out.splitlines()]
    for shop in ("s0", "s1", "s2"):
        times = [value["at"] for value in values if value["shop"] == shop]
        assert times == sorted(times)


def test_records_that_cannot_be_decoded_are_sent_all_the_same(program):
    program("topics", "create", "shop.py")
    (program.folder / "events.jsonl").write_text(json.dumps(payment(1, 1)) + "\nno json\n")
    out, err = program("produce", "shop.py", "events.jsonl", "--json")
    assert json.loads(out)["undecodable"] == 1 and "dead letters" in err
    out, _ = program("tail", "events", "shop.py", "--from-start", "--no-follow")
    assert "no json" not in out and "7 bytes" in out  # nobody knows what such a text holds


def test_without_a_worker_producing_stops_at_the_limit_of_unread_bytes(program, name, embedded):
    program("topics", "create", "shop.py")
    write_events(program.folder / "events.jsonl", [1] * 20_000)
    sending = program.start("produce", "shop.py", "events.jsonl", "--set", "unread_bytes_max=100KiB")
    assert sending.stderr is not None
    line = sending.stderr.readline()
    while "Waiting until" not in line and line:
        line = sending.stderr.readline()
    sending.send_signal(signal.SIGINT)
    sending.communicate(timeout=120)
    assert name in line and sending.returncode == 130
    out, _ = program("tail", "events", "shop.py", "--from-start", "--no-follow", "--json")
    by_partition: dict[int, int] = {}
    for read in map(json.loads, out.splitlines()):
        by_partition[read["partition"]] = by_partition.get(read["partition"], 0) + 100  # about, masked
    # One slice of 500 records and what is on its way may come on top of the limit.
    assert 100 * 1024 / 2 < max(by_partition.values()) < 100 * 1024 + 2 * 500 * 130


def test_copies_of_predictions_are_dropped_and_counted(program, name, embedded):
    program("topics", "create", "shop.py")
    producer = Producer({"bootstrap.servers": embedded.broker_address})
    features = {"amount": 1.5, "shop_count_1h": 0.0}
    for number in (1, 2, 1):
        decision = None if number == 2 else False
        value = {
            "event_id": f"p{number}",
            "event_time": "2024-03-01T10:00:00Z",
            "score": 0.25,
            "decision": decision,
            "features": features,
            "flags": ["fallback"],
        }
        headers: Headers = [("position", f"{name}.events/0/{number}".encode())]
        producer.produce(f"{name}.predictions", json.dumps(value), f"p{number}", 0, headers=headers)
    producer.flush()
    out, err = program("tail", "predictions", "shop.py", "--from-start", "--no-follow", "--json")
    assert [json.loads(line)["event_id"] for line in out.splitlines()] == ["p1", "p2"]
    assert "1 copies of predictions were dropped" in err
    out, _ = program("tail", "predictions", "shop.py", "--from-start", "--no-follow")
    assert out.splitlines() == [
        "2024-03-01T10:00:00Z  p1  score 0.2500  decision no  [fallback]",
        "2024-03-01T10:00:00Z  p2  score 0.2500  no decision  [fallback]",
    ]
    out, _ = program("tail", "predictions", "shop.py", "--from-start", "--limit", "1")
    assert len(out.splitlines()) == 1


def test_dead_letters_say_why_and_mask_what_may_be_personal(program, name, embedded):
    program("topics", "create", "shop.py")
    producer = Producer({"bootstrap.servers": embedded.broker_address})
    headers = {
        "topic": f"{name}.events",
        "partition": "2",
        "offset": "7",
        "reason": "missing_field",
        "path": "$",
        "detail": "d",
    }
    encoded: Headers = [(key, value.encode()) for key, value in headers.items()]
    producer.produce(f"{name}.dead-letters", json.dumps({"card": "4111"}), "4111", headers=encoded)
    producer.produce(
        f"{name}.dead-letters", b"card 4111", headers=[*encoded, ("length", b"10485760"), ("sha256", b"ab")]
    )
    producer.flush()
    out, _ = program("tail", "dead-letters", "shop.py", "--from-start", "--no-follow", "--json")
    letters = [json.loads(line) for line in out.splitlines()]
    assert "4111" not in out
    assert {(letter["partition"], letter["offset"], letter["reason"]) for letter in letters} == {
        (2, 7, "missing_field")
    }
    assert sorted(letter["length"] for letter in letters) == [len('{"card": "4111"}'), 10485760]


def test_reading_from_the_start_says_what_the_log_no_longer_holds(program, name, embedded):
    program("topics", "create", "shop.py")
    _, err = program("tail", "events", "shop.py", "--from-start", "--no-follow", "--json")
    assert "no more" not in err
    producer = Producer({"bootstrap.servers": embedded.broker_address})
    for _ in range(80):  # 8 MB into a partition that keeps 5 MiB
        producer.produce(f"{name}.events", b"x" * 100_000, partition=0)
        producer.flush()
    out, err = program("tail", "events", "shop.py", "--from-start", "--no-follow", "--json")
    read = len(out.splitlines())
    assert 40 < read < 60 and f"{80 - read} older records are in the log no more" in err


def test_an_unknown_topic_names_those_there_are(program):
    _, err = program("tail", "prediction", "shop.py", code=2)
    assert "expected one of events, predictions, dead-letters, hop-shop" in err


def test_up_prints_addresses_creates_topics_and_ends_on_a_signal(anywhere):
    running = anywhere.start("up", "flights", "--json", "--set", "partitions=2")
    assert running.stdout is not None
    addresses = json.loads(running.stdout.readline())
    topics = addresses["topics"]
    single = ("flights.outcomes", "flights.control", "flights.drift-slices", "flights.drift-alerts")
    assert {topics.pop(name) for name in single} == {1}
    assert set(topics.values()) == {2} and "flights.hop-origin" in topics
    anywhere.environment.update(
        DRIFTWOOD_BROKERS=addresses["brokers"], DRIFTWOOD_REDIS_URL=addresses["redis_url"]
    )
    anywhere("topics", "create", "flights", "--set", "partitions=2")
    anywhere("topics", "show", "flights", code=3)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0 and "have ended" in err


def test_run_says_on_stderr_when_it_is_ready_and_nothing_of_the_librarys_own_steps(program, name):
    program("topics", "create", "shop.py")
    program.environment["DRIFTWOOD_SESSION_TIMEOUT"] = "6s"
    worker = program.start("run", "shop.py")
    assert worker.stderr is not None
    said: list[str] = []
    while not (said and "partitions of this worker" in said[-1]):
        said.append(worker.stderr.readline())
        assert said[-1], f"it ended: {said}"
    (ready,) = [line for line in said if "ready: " in line]
    assert f"reads {name}.events, {name}.hop-shop; {name} answers with its fallback" in ready
    assert re.search(r"metrics at http://127\.0\.0\.1:\d+/metrics", ready)
    assert f"{name}.events 0 1 2 3, {name}.hop-shop 0 1 2 3" in said[-1]
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=120)
    assert worker.returncode == 0 and out == ""
    assert not [line for line in [*said, *err.splitlines()] if "Starting..." in line or "Stopping..." in line]
