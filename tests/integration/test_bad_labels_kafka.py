"""Labels as producers should not send them, on a real Kafka: each is a named outcome or a dead letter, and nothing ends."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.real_kafka import RealKafka
from driftwood.embedded import EmbeddedRedis
from streams.outcomes import OutcomeCodec
from tests.in_process import LogRecord
from tests.kafka_records import Reader, Sender, headers
from tests.killed_learn_runs import PARTITIONS, Joined, LearnPlace, learn_place
from tests.learn_process import LearnProcess
from tests.returned_orders import MINUTE_S, label, order, stamp
from tests.worker_process import WorkerProcess, until

# By event id what its labels come to, in this order; orders are at 0 s, and their horizon is an hour.
EXPECTED = {
    "o1": ["matched", "duplicate"],
    "o2": ["matched", "corrected"],
    "o3": ["silent"],  # its label said that it was known before the order: a dead letter
    "o4": ["late"],
    "o5": ["censored"],  # null
    "o6": ["censored"],  # blocked, and no label
    "o7": ["silent", "late"],
    "o8": ["early", "unknown"],  # the order was a dead letter
    "nobody": ["early", "unknown"],
    "o9": ["early", "matched"],
    "o10": ["matched"],
}
REASONS = {
    "known_before_event": 1,
    "out_of_range": 2,
    "wrong_type": 3,
    "time_ahead": 1,
    "not_json": 1,
    "empty": 1,
    "missing_field": 1,
}


@pytest.fixture
def place(tmp_path: Path, kafka: RealKafka, embedded_redis: EmbeddedRedis) -> Iterator[LearnPlace]:
    with ExitStack() as ending:
        yield learn_place(tmp_path, kafka.address, embedded_redis.url, ending)


def test_every_bad_label_is_a_named_outcome_or_a_dead_letter_and_no_process_ends(place: LearnPlace) -> None:
    worker, learner = place.process(WorkerProcess).started(), place.process(LearnProcess).started()
    _send(place, "events", *(order(number, 0) for number in range(1, 8)), order(8, 0, amount="much"))
    with Reader(place.values["brokers"], place.topic("hop-join"), PARTITIONS) as reader:
        served = Joined(place, reader)
        until(lambda: served.rows() == 7, "seven orders are served")
    _send(place, "labels", *_before_time_passes())
    _send(place, "actions", {"event_id": "o6", "action": "blocked", "at": stamp(30)})
    _has(place, {"o9": ["early"], "o2": ["matched", "corrected"]})
    # Time passes, by what is served and by what becomes known: beyond one horizon, and not so far that ids are forgotten.
    _send(place, "events", order(9, 0), order(10, 110 * MINUTE_S))
    _send(place, "labels", label("o10", 111 * MINUTE_S))
    _has(place, {"o7": ["silent"]})
    _send(place, "labels", label("o7", 30 * MINUTE_S))
    _has(place, EXPECTED)
    assert _dead(place) == REASONS
    learnt = sum(kinds[0] == "silent" or "matched" in kinds for kinds in EXPECTED.values())
    until(lambda: place.figures()["matured"] == learnt, f"{learnt} outcomes are learnt, each once")
    assert (worker.process.poll(), learner.process.poll()) == (None, None)
    assert (worker.stop(), learner.stop()) == (0, 0)
    assert _outcomes(place) == EXPECTED


def _before_time_passes() -> list[Any]:
    ten, unknown_kind = 10 * MINUTE_S, {"event_id": 5, "returned": 1}
    return [
        *(label("o1", ten), label("o1", ten + 60)),
        *(label("o2", ten), label("o2", ten + 60, returned=0)),
        label("o3", -5 * MINUTE_S),
        label("o4", 70 * MINUTE_S),
        label("o5", ten, returned=None),
        *(label(name, ten) for name in ("o8", "nobody", "o9")),
        *(label("o7", ten, returned=wrong) for wrong in ("perhaps", 7, [1], {"a": 1})),
        unknown_kind,
        {**label("o7", ten), "known_at": "2150-01-01T00:00:00Z"},
        b'{"event_id": ',
        b"",
        {"event_id": "o7"},
    ]


def _send(place: LearnPlace, kind: str, *documents: Any) -> None:
    """All into one partition: their order is part of what is expected."""
    values = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in documents]
    Sender(place.values["brokers"], place.topic(kind)).send((0, value) for value in values)


def _has(place: LearnPlace, expected: dict[str, list[str]]) -> None:
    """Wait until these events have these outcomes."""

    def has() -> bool:
        found = _outcomes(place)
        return all(found.get(name) == kinds for name, kinds in expected.items())

    until(has, f"outcomes {expected}; there are {_outcomes(place)}", within_s=300.0)


def _outcomes(place: LearnPlace) -> dict[str, list[str]]:
    codec = OutcomeCodec(place.returns.pipeline)
    found: dict[str, list[str]] = {}
    with Reader(place.values["brokers"], place.topic("outcomes"), 1) as reader:
        messages = reader.wait_for(reader.end())
    for message in messages:
        stored: Any = message.headers() or ()
        record = LogRecord(message.offset() or 0, 0, None, message.value(), stored)
        matured = codec.read(record)[1].matured
        for name, kind in zip(matured.event_ids, matured.kinds, strict=True):
            found.setdefault(name, []).append(kind)
    return found


def _dead(place: LearnPlace) -> Counter[str]:
    """The dead letters of labels by their reason."""
    with Reader(place.values["brokers"], place.topic("dead-letters"), PARTITIONS) as reader:
        letters = [headers(message) for message in reader.wait_for(reader.end())]
    return Counter(one["reason"] for one in letters if one["topic"] == place.topic("labels"))
