"""A worker is killed at each step of the batch protocol, in every stage, on a real Kafka and a real Redis.

For each stage there is a pipeline of its own. One worker after another works on it and kills itself (SIGKILL) at the next
point of that stage, with batches in flight; between two of them another model is promoted. The last worker lives and
finishes. Then everything that the run left is compared with what its recorded order prescribes.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.kafka.real_kafka import RealKafka
from driftwood.embedded import EmbeddedRedis
from driftwood.tail import View, read
from streams.settings import Settings
from streams.topics import TopicAdmin
from tests.card_payments import feast_has, payments_pipeline
from tests.dying_worker import INGEST, TWO_IN_FLIGHT
from tests.in_process import LogRecord
from tests.kafka_run import KafkaRun, next_stage_sees, predicted_by, stored, undisturbed_state
from tests.killed_runs import DEATHS, PARTITIONS, Killed, kill_at_each_point
from tests.recorded_order import Recorded, assert_as_recorded, recorded

pytestmark = pytest.mark.crash

# Points of the last stage behind which predictions stand that were not committed: the next worker writes them again.
PREDICTIONS_COME_AGAIN = ("in deliver", "after deliver")


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory, kafka: RealKafka, embedded_redis: EmbeddedRedis
) -> dict[str, Killed]:
    """By stage the pipeline whose workers died there: all three at a time, as most of it is waiting for the group."""
    runs = {}
    for stage in DEATHS:
        folder = tmp_path_factory.mktemp(stage)
        made = payments_pipeline(folder)
        TopicAdmin(Settings(brokers=kafka.address)).create(made.topics(PARTITIONS))
        runs[stage] = Killed(made, folder / "models", embedded_redis.url, kafka.address)
    with ThreadPoolExecutor(len(runs)) as pool:
        for end in [pool.submit(kill_at_each_point, *item) for item in runs.items()]:
            end.result()
    return runs


@pytest.fixture(params=list(DEATHS))
def stage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# What a run left, read once.


@dataclass(frozen=True)
class Left:
    """The records in the topics, and what their recorded order prescribes."""

    run: KafkaRun
    recorded: Recorded


@pytest.fixture(scope="module")
def all_left(killed: dict[str, Killed]) -> dict[str, Left]:
    runs = {stage: one.run() for stage, one in killed.items()}
    return {stage: Left(run, recorded(run)) for stage, run in runs.items()}


@pytest.fixture
def left(all_left: dict[str, Left], stage: str) -> Left:
    return all_left[stage]


def test_each_worker_died_at_its_point_with_batches_in_flight(killed: dict[str, Killed], stage: str) -> None:
    notes = killed[stage].notes
    assert [(note["stage"], note["point"]) for note in notes] == [
        (death.stage, death.point) for death in DEATHS[stage]
    ]
    for note in notes:
        wanted = 2 if note["point"] in TWO_IN_FLIGHT else 1
        in_flight = max(note["all_in_flight"].values()) if stage == INGEST else note["in_flight"]
        assert in_flight >= (1 if stage == INGEST else wanted), note


def test_every_event_has_one_answer_and_its_windows_count_it_once(
    killed: dict[str, Killed], left: Left, stage: str
) -> None:
    sent = Counter(event["payment_id"] for event in killed[stage].sent)
    answered = Counter(json.loads(values[0])["event_id"] for values in left.run.answers().values())
    assert answered == sent
    assert assert_as_recorded(left.run) == len(sent)


def test_the_next_stage_sees_each_row_once_with_the_windows_of_the_recorded_order(left: Left) -> None:
    first, _ = next_stage_sees(left.run, 0)
    second, _ = next_stage_sees(left.run, 1)
    kept = {
        (partition, position)
        for (partition, position), (frame, row) in first.items()
        if _origin(frame, row) in left.recorded.kernel
    }
    came_from = []
    names = [output.name for output in left.run.pipeline.feature_set.entities[0].outputs]
    for frame, row in second.values():
        before, windows = left.recorded.kernel[_origin(frame, row)], frame.windows[row]
        assert windows.tobytes() == np.array([before[name] for name in names]).tobytes()
        came_from.append((_origin(frame, row), frame.rows.event_ids[row].as_py()))
    assert Counter(came_from) == Counter(
        (_origin(*first[place]), first[place][0].rows.event_ids[first[place][1]].as_py()) for place in kept
    )


def test_state_and_feast_rows_equal_those_of_an_undisturbed_run_over_the_recorded_order(
    killed: dict[str, Killed], left: Left, stage: str, tmp_path: Path
) -> None:
    one = killed[stage]
    found = stored(one.redis_url, one.payments.name)
    expected = undisturbed_state(left.run, tmp_path, one.redis_url.removesuffix("/0") + "/1")
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value == expected[key], key
    kinds = Counter(key.split(b":")[2] if key.startswith(b"driftwood:") else b"feast" for key in found)
    assert kinds.keys() >= {b"partition", b"state", b"ids", b"feast"}


@pytest.mark.parametrize("stage", ["terminal"])
def test_feast_reads_what_the_newest_event_of_each_entity_was_served_with(
    killed: dict[str, Killed], left: Left, stage: str, tmp_path: Path
) -> None:
    newest: dict[str, dict[str, dict[str, Any]]] = {}
    answers = {_place(position): json.loads(values[0]) for position, values in left.run.answers().items()}
    for number, plan in enumerate(left.run.pipeline.feature_set.entities):
        newest[plan.entity] = {}
        events = {event["payment_id"]: event for event in killed[stage].sent}
        for frame, row in next_stage_sees(left.run, number)[0].values():
            answer = answers.get(_origin(frame, row))
            if answer is None:  # a repeat
                continue
            key = events[answer["event_id"]][plan.entity]
            known = newest[plan.entity].get(key)
            if key is not None and (known is None or answer["event_time"] >= known["event_time"]):
                newest[plan.entity][key] = answer
    feast_has(tmp_path / "feast", killed[stage].payments, killed[stage].redis_url, newest)


def test_predictions_are_those_of_an_undisturbed_run_with_the_model_that_each_names(
    killed: dict[str, Killed], left: Left, stage: str
) -> None:
    one = killed[stage]
    by_version = {version: predicted_by(left.run, version, one.models) for version in one.versions}
    named = Counter[str]()
    for position, values in left.run.answers().items():
        version = json.loads(values[0])["parts"]["lightgbm"]["version"]
        named[version] += 1
        assert values == by_version[version][position]
    assert named.keys() == set(one.versions), "both models have answered"


def test_copies_of_a_prediction_are_the_same_bytes_in_the_same_partition(left: Left) -> None:
    values: dict[str, set[bytes]] = defaultdict(set)
    partitions: dict[str, set[int]] = defaultdict(set)
    for partition, record in _predictions(left.run):
        position = (record.header("position") or b"").decode()
        values[position].add(record.value or b"")
        partitions[position].add(partition)
    assert {len(found) for found in values.values()} == {1}
    assert {len(found) for found in partitions.values()} == {1}


@pytest.mark.parametrize("stage", ["terminal"])
def test_a_prediction_that_is_made_again_after_another_model_was_promoted_is_the_one_of_before(
    killed: dict[str, Killed], left: Left
) -> None:
    one = killed["terminal"]
    before = [
        {_position(record) for at, record in _predictions(left.run) if record.offset < ends.get(at, 0)}
        for ends in one.predictions
    ]
    for number, death in enumerate(DEATHS["terminal"]):
        if death.point not in PREDICTIONS_COME_AGAIN:
            continue
        again = [
            json.loads(record.value or b"")
            for partition, record in _predictions(left.run)
            if record.offset >= one.predictions[number].get(partition, 0)
            and _position(record) in before[number]
        ]
        assert any(answer["parts"]["lightgbm"]["version"] == one.champions[number] for answer in again), (
            f"{death}: nothing was made again under the model of before"
        )


def test_the_kills_left_copies_behind_for_readers_to_drop(all_left: dict[str, Left]) -> None:
    assert next_stage_sees(all_left[INGEST].run, 0)[1] > 0
    assert next_stage_sees(all_left["card"].run, 1)[1] > 0
    predictions = list(_predictions(all_left["terminal"].run))
    assert len(predictions) > len({_position(record) for _, record in predictions})


def test_driftwood_tail_shows_one_prediction_for_each_event(
    killed: dict[str, Killed], left: Left, stage: str
) -> None:
    view = View(left.run.pipeline, left.run.topics, "predictions", personal=True)
    messages = read(Settings(brokers=killed[stage].address), view.topic, from_start=True, follow=False)
    shown = Counter(line.data["event_id"] for message in messages for line in view.lines(message))
    assert shown == Counter(event["payment_id"] for event in killed[stage].sent)
    assert view.copies.dropped == sum(1 for _ in _predictions(left.run)) - len(shown)


def test_a_reader_that_follows_docs_topics_reads_one_prediction_for_each_event(
    killed: dict[str, Killed], left: Left, stage: str
) -> None:
    by_position, by_event = _as_the_page_says(left.run, "position"), _as_the_page_says(left.run, "event_id")
    wanted = Counter(event["payment_id"] for event in killed[stage].sent)
    assert Counter(json.loads(value)["event_id"] for value in by_position) == wanted
    assert by_event == by_position


def _as_the_page_says(run: KafkaRun, what: str) -> list[bytes]:
    """docs/topics.md: "After a crash a prediction can stand twice: same event id, same position. The second stands behind
    the first in the same partition, and in general is the same bytes: keep the first. Positions are exact. Event ids do
    as well"."""
    seen: set[Any] = set()
    kept = []
    for _, record in _predictions(run):
        value = record.value or b""
        name: Mapping[str, Any] = json.loads(value)
        if name[what] not in seen:
            seen.add(name[what])
            kept.append(value)
    return kept


def test_every_record_that_is_no_event_is_a_dead_letter_once_by_its_position(left: Left) -> None:
    letters: dict[tuple[str | None, ...], set[bytes | None]] = defaultdict(set)
    for record in left.run.log.topic(left.run.topics.dead_letters.name):
        names = [record.header(name) or b"" for name in ("topic", "partition", "offset")]
        letters[tuple(name.decode() for name in names)].add(record.value)
    topic = left.run.topics.events
    bad = {
        (topic.name, str(partition), str(record.offset)): {record.value}
        for partition in range(topic.partitions)
        for record in left.run.log.records[topic.name, partition]
        if not (record.value or b"").endswith(b"}")
    }
    assert bad
    assert letters == bad


def _predictions(run: KafkaRun) -> Iterator[tuple[int, LogRecord]]:
    topic = run.topics.predictions
    for partition in range(topic.partitions):
        for record in run.log.records[topic.name, partition]:
            yield partition, record


def _position(record: LogRecord) -> str:
    return (record.header("position") or b"").decode()


def _origin(frame: Any, row: int) -> tuple[int, int]:
    return int(frame.origin_partitions[row]), int(frame.origin_offsets[row])


def _place(position: str) -> tuple[int, int]:
    _, partition, offset = position.rsplit("/", 2)
    return int(partition), int(offset)
