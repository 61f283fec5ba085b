"""What the predictions should be, worked out from nothing but the raw events and the order that the hop topics recorded.

Frames are opened for the order of their rows only. Which rows are copies and which ids repeats is decided by the
sentences of docs/topics.md and of the settings, one row after another. One thing is not in that order: which of two
events of one id in different partitions was first. That is asked of the answers, and checked to be one of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from features.decode import Decoder
from features.inputs import entity_inputs
from features.oracle import Oracle, Row
from features.plan import EntityPlan, Floats, Hashes, Ints
from features.rows import entity_keys
from features.state import EntityState
from features.store import Position
from models.pipeline import Pipeline
from streams.entity_batch import stage_plans
from streams.frames import FrameCodec
from streams.topics import PipelineTopics
from tests.in_process import Log

DAY_US = 86_400_000_000

Origin = tuple[int, int]


class Run(Protocol):
    """What is left of a run: its topics' records, and by position the distinct predictions."""

    @property
    def pipeline(self) -> Pipeline: ...
    @property
    def topics(self) -> PipelineTopics: ...
    @property
    def log(self) -> Log: ...
    def answers(self) -> dict[str, list[bytes]]: ...


class Events(NamedTuple):
    """The good events in `events`: where each stands, and its decoded columns by row."""

    rows: dict[Origin, int]
    times_us: Ints
    ids: list[str]
    keys: list[list[str | None]]  # by stage
    inputs: list[tuple[Floats, Hashes]]  # by stage


class Recorded(NamedTuple):
    """By event record: window features by name as the kernel has them row by row, and as brute force has them."""

    kernel: dict[Origin, dict[str, float]]
    oracle: dict[Origin, dict[str, float]]


def recorded(run: Run, horizon_us: int = DAY_US) -> Recorded:
    """Every answered event's window features, from the order of the hop topics."""
    events = _events(run)
    found = Recorded({}, {})
    repeats = _repeats(run, events, horizon_us)
    for number, plan in enumerate(stage_plans(run.pipeline.feature_set)):
        for partition in range(run.topics.hops[plan.entity].partitions):
            order = list(_new_rows(run, number, plan, partition))
            if number == 0:
                order = [origin for origin in order if origin not in repeats]
            _walk(plan, number, order, events, found)
    return found


def _events(run: Run) -> Events:
    topic = run.topics.events
    places = [
        (number, record)
        for number in range(topic.partitions)
        for record in run.log.records[topic.name, number]
    ]
    feature_set = run.pipeline.feature_set
    decoded = Decoder(feature_set).decode([(record.value, record.timestamp) for _, record in places])
    origins = [(places[at][0], places[at][1].offset) for at in decoded.index.tolist()]
    plans = stage_plans(feature_set)
    return Events(
        {origin: row for row, origin in enumerate(origins)},
        decoded.rows.times_us,
        decoded.rows.event_ids.to_pylist(),
        [entity_keys(decoded.rows, plan.keys) if plan.keys else [None] * len(origins) for plan in plans],
        [entity_inputs(plan, decoded.rows) for plan in plans],
    )


def _new_rows(run: Run, number: int, plan: EntityPlan, partition: int) -> Iterator[Origin]:
    codec = FrameCodec(run.pipeline.feature_set, number)
    seen: dict[bytes, Position] = {}
    for record in run.log.records[run.topics.hops[plan.entity].name, partition]:
        upstream = record.header("upstream")
        if upstream is None:  # junk that a test put there
            continue
        assert record.value is not None
        frame = codec.decode(record.value)
        for row in range(len(frame)):
            position = Position(int(frame.upstream_offsets[row]), int(frame.upstream_rows[row]))
            if position > seen.get(upstream, Position(-1, -1)):
                seen[upstream] = position
                yield int(frame.origin_partitions[row]), int(frame.origin_offsets[row])


def _repeats(run: Run, events: Events, horizon_us: int) -> set[Origin]:
    """The events that were not answered because another one has their id. Each of them has such another one.

    Of one partition the earlier event is answered; of two partitions either may be.
    """
    plan = stage_plans(run.pipeline.feature_set)[0]
    answered = {_origin(position) for position in run.answers()}
    checked = [
        list(_checked(_new_rows(run, 0, plan, partition), events, horizon_us))
        for partition in range(run.topics.hops[plan.entity].partitions)
    ]
    holders: dict[str, list[tuple[int, int, int]]] = {}  # id -> bucket, partition, place of those answered
    for partition, order in enumerate(checked):
        for place, (origin, bucket) in enumerate(order):
            if origin in answered:
                held = holders.setdefault(events.ids[events.rows[origin]], [])
                assert all(abs(bucket - other) > 1 for other, _, _ in held), f"answered twice: {origin}"
                held.append((bucket, partition, place))
    repeats = set()
    for partition, order in enumerate(checked):
        for place, (origin, bucket) in enumerate(order):
            held = holders.get(events.ids[events.rows[origin]], [])
            if origin not in answered and any(
                abs(bucket - other) <= 1 and (partition != where or earlier < place)
                for other, where, earlier in held
            ):
                repeats.add(origin)
    return repeats


def _checked(order: Iterable[Origin], events: Events, horizon_us: int) -> Iterator[tuple[Origin, int]]:
    """The rows that are not too old for their ids to be checked, and the bucket of each."""
    newest_us = -(2**62)
    for origin in order:
        time_us = int(events.times_us[events.rows[origin]])
        if time_us // horizon_us >= newest_us // horizon_us - 1:
            yield origin, time_us // horizon_us
        newest_us = max(newest_us, time_us)


def _walk(plan: EntityPlan, number: int, order: list[Origin], events: Events, found: Recorded) -> None:
    state, oracle = EntityState(plan, 1_000_000), Oracle(plan)
    names = [output.name for output in plan.outputs]
    numbers, hashes = events.inputs[number]
    for origin in order:
        row = events.rows[origin]
        key, time_us = events.keys[number][row], events.times_us[row : row + 1]
        state.load(dict.fromkeys(state.missing([key])))
        one = state.update_batch([key], time_us, numbers[row : row + 1], hashes[row : row + 1])
        state.committed(one.number)
        answer = oracle.answer(key, Row(int(time_us[0]), numbers[row].tolist(), hashes[row].tolist()))
        found.kernel.setdefault(origin, {}).update(zip(names, one.features[0].tolist(), strict=True))
        found.oracle.setdefault(origin, {}).update(zip(names, answer.features, strict=True))


def assert_as_recorded(run: Run) -> int:
    """Every prediction has the features of the recorded order: bit for bit, and within 1e-9 of brute force.

    Returns how many predictions there are.
    """
    expected = recorded(run)
    answers = {_origin(position): values for position, values in run.answers().items()}
    assert all(len(values) == 1 for values in answers.values())
    served = {origin: json.loads(values[0])["features"] for origin, values in answers.items()}
    assert set(served) == set(expected.kernel)
    for origin, features in served.items():
        for name, value in expected.kernel[origin].items():
            if name not in features:  # a window that only an expression uses
                continue
            got = math.nan if features[name] is None else features[name]
            assert np.float64(got).tobytes() == np.float64(value).tobytes() or (
                math.isnan(got) and math.isnan(value)
            ), (origin, name, got, value)
            brute = expected.oracle[origin][name]
            assert math.isclose(got, brute, rel_tol=1e-9, abs_tol=1e-9) or (
                math.isnan(got) and math.isnan(brute)
            )
    return len(served)


def _origin(position: str) -> Origin:
    _, partition, offset = position.rsplit("/", 2)
    return int(partition), int(offset)
