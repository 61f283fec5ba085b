"""Redis hangs, is gone for a minute, comes back without its last commands, or is lost: on a real Kafka, under traffic.

At the end every event has one answer, and answers, state and Feast rows are what the order of the hop topics gives.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from deploy.kafka.real_kafka import RealKafka
from driftwood.rebuilding import members
from features.errors import OperatorError
from tests.own_redis import OwnRedis
from tests.payments_on_kafka import PARTITIONS, Place, Traffic, assert_nothing_lost_or_double, payments_place
from tests.supervisor import Supervisor, last_words
from tests.worker_process import ROOT, Start, WorkerProcess, until

OPERATOR = OperatorError.exit_code

# Longer than a client waits for an answer (`ANSWER_WITHIN_S`), so that calls do fail.
HANGS_S = 11.0
GONE_S = 60.0


@pytest.fixture
def place(tmp_path: Path, kafka: RealKafka, own: OwnRedis) -> Place:
    return payments_place(tmp_path, kafka.address, own.url)


def every_partition_has_state(own: OwnRedis, place: Place) -> bool:
    keys = [
        f"driftwood:{place.payments.name}:partition:{place.topic(f'hop-{plan.entity}')}:{number}"
        for plan in place.payments.feature_set.entities
        for number in range(PARTITIONS)
    ]
    return all(own.client.hget(key, "applied") is not None for key in keys)


def published(place: Place) -> list[int]:
    """How many records stand in what the stages with state write."""
    counts = []
    for kind in ("hop-terminal", "predictions"):
        with place.reader(kind) as reader:
            counts.append(reader.end())
    return counts


def given_up(worker: WorkerProcess) -> bool:
    """Whether it has ended because an operator has to do something."""
    return worker.process.returncode == OPERATOR


def rebuild(place: Place) -> subprocess.CompletedProcess[str]:
    """`driftwood rebuild` as an operator runs it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTWOOD_")}
    environment |= {f"DRIFTWOOD_{name.upper()}": str(value) for name, value in place.settings.items()}
    command = [sys.executable, "-m", "driftwood", "rebuild", str(place.payments.path), "--json"]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.crash
def test_redis_that_hangs_and_then_is_gone_for_a_minute_loses_and_doubles_nothing(
    place: Place, own: OwnRedis, start: Start
) -> None:
    with (
        place.answers() as answers,
        Supervisor(lambda: place.worker(start)) as supervisor,
        Traffic(place, rate=50) as traffic,
    ):
        answers.wait_for(200)
        with own.frozen():
            time.sleep(HANGS_S)
        answers.wait_for(len(traffic.events))
        own.kill()
        time.sleep(GONE_S)
        until(lambda: any(given_up(worker) for worker in supervisor.ended), "a worker has given up")
        own.start()
        answers.wait_for(len(traffic.events) + 100)
    with place.answers() as answers:
        worker = place.worker(start).started()
        answers.wait_for(len(traffic.events))
        assert worker.stop() == 0
    gone = [worker for worker in supervisor.ended if given_up(worker)]
    assert gone and all("Redis does not answer at" in last_words(worker) for worker in gone)
    assert_nothing_lost_or_double(place, traffic.events)


@pytest.mark.crash
def test_redis_that_comes_back_without_its_last_commands_is_noticed_and_everything_is_as_recorded(
    place: Place, own: OwnRedis, start: Start
) -> None:
    source = random.Random(5)
    with (
        place.answers() as answers,
        Supervisor(lambda: place.worker(start)) as supervisor,
        Traffic(place, rate=200) as traffic,
    ):
        until(lambda: every_partition_has_state(own, place), "every partition has state")
        keep = own.log.stat().st_size
        for commands in (1, 40, 400, 4_000, 1_000_000):
            answers.wait_for(len(traffic.events) + source.randint(0, 200))
            own.kill()
            assert own.cut(source.randint(1, commands) if commands < 1_000_000 else commands, keep)
            own.start()
        answers.wait_for(len(traffic.events) + 200)
    with place.answers() as answers:
        worker = place.worker(start).started()
        answers.wait_for(len(traffic.events))
        assert worker.stop() == 0
    said = "".join(worker.stderr for worker in supervisor.workers)
    assert "the store refused a batch (applied)" in said
    assert_nothing_lost_or_double(place, traffic.events)


@pytest.mark.crash
def test_redis_that_was_emptied_is_noticed_and_rebuilt_as_if_it_had_never_happened(
    place: Place, own: OwnRedis, start: Start
) -> None:
    first = place.worker(start).started()
    with place.answers() as answers, Traffic(place, rate=150) as traffic:
        answers.wait_for(500)
        own.client.flushall()
        assert first.ended() == OPERATOR
        standing = published(place)
        again = place.worker(start)
        assert again.ended() == OPERATOR
        for worker in (first, again):
            said = last_words(worker)
            assert said.startswith(f"driftwood: Redis knows nothing of {place.topic('hop-')}"), said
            assert f"'driftwood rebuild {place.payments.name}'" in said
        done = rebuild(place)
        assert done.returncode == 0, done.stderr
        assert (
            published(place) == standing
        )  # neither a worker on the emptied Redis nor the rebuild added to them
        report: dict[str, Any] = json.loads(done.stdout)
        assert all(stage["whole"] and not stage["deleted_unread"] for stage in report["stages"])
        assert sum(stage["rows"] for stage in report["stages"]) >= 500
        second = place.worker(start).started()
        client = AdminClient({"bootstrap.servers": place.address})
        assert members(client, f"{place.payments.name}.predict") == 1
        answers.wait_for(len(traffic.events))
    with place.answers() as answers:
        answers.wait_for(len(traffic.events))
    assert second.stop() == 0
    assert_nothing_lost_or_double(place, traffic.events)
