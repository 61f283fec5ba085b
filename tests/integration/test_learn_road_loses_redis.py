"""Redis is emptied under a pipeline with learners and windows over labels, and rebuilt: on a real Kafka and a real Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.real_kafka import RealKafka
from features.errors import OperatorError
from tests.kafka_records import Reader
from tests.killed_learn_runs import DIES_WITHIN_S, PARTITIONS, LearnKilled, LearnPlace, finish, learn_place
from tests.learn_process import LearnProcess
from tests.own_redis import OwnRedis
from tests.returned_orders import Shop
from tests.supervisor import last_words
from tests.worker_process import ROOT, WorkerProcess, until

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

OPERATOR = OperatorError.exit_code


def rebuilt(place: LearnPlace) -> dict[str, Any]:
    """What `driftwood rebuild` says, as an operator runs it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTWOOD_")}
    environment |= {f"DRIFTWOOD_{name.upper()}": str(value) for name, value in place.values.items()}
    command = [sys.executable, "-m", "driftwood", "rebuild", str(place.returns.path), "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def written(place: LearnPlace) -> dict[str, int]:
    """How many records stand in what the join and the last stage write."""
    counts = {}
    for kind, partitions in {"outcomes": 1, "predictions": PARTITIONS, "hop-customer": PARTITIONS}.items():
        with Reader(place.values["brokers"], place.topic(kind), partitions) as reader:
            counts[kind] = reader.end()
    return counts


def ends(place: LearnPlace, process: WorkerProcess, shop: Shop) -> str:
    """Its last words, when it has ended because an operator has to do something."""

    def ended() -> bool:
        shop.send(2)
        return process.process.poll() is not None

    until(ended, "a process on an emptied Redis ends", DIES_WITHIN_S)
    assert process.ended() == OPERATOR, process.stderr
    return last_words(process)


def test_ledger_windows_and_learners_are_what_they_were_after_redis_was_emptied_and_rebuilt(
    tmp_path: Path, kafka: RealKafka, own: OwnRedis
) -> None:
    with ExitStack() as ending:
        place = learn_place(tmp_path, kafka.address, own.url, ending)
        shop = Shop(place.values["brokers"], place.name, PARTITIONS, seed=3)
        worker = place.process(WorkerProcess, batch_max_records=20).started()
        learner = place.process(LearnProcess, batch_max_records=20).started()

        def learnt() -> bool:
            shop.send(10)
            return place.snapshot() >= 30

        until(learnt, "thirty records were learnt", DIES_WITHIN_S)
        own.client.flushall()
        assert ends(place, worker, shop).startswith(
            f"driftwood: Redis knows nothing of {place.topic('hop-')}"
        )
        assert ends(place, learner, shop).startswith(
            f"driftwood: Redis knows nothing of {place.topic('hop-join')}"
        )

        before = written(place)
        report = rebuilt(place)
        assert written(place) == before
        assert report["ledger"]["whole"] and report["ledger"]["records"] > 100
        assert report["ledger"]["rows"] > 30 and not report["ledger"]["deleted_unread"]

        again = [
            place.process(kind, batch_max_records=20).started() for kind in (WorkerProcess, LearnProcess)
        ]
        finish(LearnKilled(place, shop.sent), shop)
        assert [process.stop() for process in again] == [0, 0]
        assert "they go on from the copy of snapshot" in learner.stderr + again[1].stderr
        assert_as_recorded(place, tmp_path)


def assert_as_recorded(place: LearnPlace, folder: Path) -> None:
    """Outcomes, label rows, ledger and learner are what the order on hop-join and outcomes prescribes."""
    left = place.left()
    outcomes, _ = left.outcomes()
    assert outcomes.keys() == left.oracles.keys()
    for name, oracle in left.oracles.items():  # the first that differs, instead of all of them
        pairs = zip_longest(outcomes[name], oracle.outcomes)
        assert not next(((one, other) for one, other in pairs if one != other), None), name
    assert left.label_rows() == {name: oracle.label_rows for name, oracle in left.oracles.items()}
    newest, again = left.published, left.relearnt()
    assert (newest.version, newest.state, newest.scoring) == (
        again.taken,
        again.learner.state(),
        again.learner.scoring(),
    )
    peace, road, _ = left.undisturbed(folder / "peace", place.values["redis_url"].removesuffix("/0") + "/2")
    found, ledger = left.in_redis(), f"driftwood:{place.name}:state:join:".encode()
    assert {key: value for key, value in found.items() if key.startswith(ledger)} == {
        key: value for key, value in peace.items() if key.startswith(ledger)
    }
    expected = road.answers()
    for position, values in left.run.answers().items():
        assert len(values) == 1, position
        assert json.loads(values[0])["features"] == json.loads(expected[position][0])["features"], position
