"""What the predictions should be, worked out from nothing but the raw events and the order that the hop topics recorded.

Frames of events are opened for the order of their rows only; label rows are taken as they stand. Which rows are copies and which ids repeats is decided by the
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
from features.label_rows import NO_TIME, LabelRows
from features.oracle import Label, Oracle, Row
from features.plan import EntityPlan, Floats, Hashes, Ints
from features.rows import entity_keys
from features.state import EntityBatch, EntityState
from features.store import Position
from models.pipeline import Pipeline
from streams.entity_batch import stage_plans
from streams.frames import Frame, FrameCodec
from streams.label_frames import LabelFrame, LabelFrameCodec
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


class Known(NamedTuple):
    """A label row among the events of an entity."""

    key: str
    row: LabelRows  # of length 1

    @property
    def for_oracle(self) -> Label:
        """As brute force takes it."""
        [known_us], [values], [before], [replaced] = (
            column.tolist()
            for column in (self.row.known_us, self.row.values, self.row.replaced_known_us, self.row.replaced)
        )
        return Label(known_us, values, None if before == NO_TIME else before, replaced)


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
                order = [what for what in order if isinstance(what, Known) or what not in repeats]
            walk = _Walk(plan, number, events, found)
            for what in order:
                walk.take(what)
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


def _new_rows(run: Run, number: int, plan: EntityPlan, partition: int) -> Iterator[Origin | Known]:
    """What stands in a partition of a hop topic, in order: the records of its events, and label rows; no copies."""
    codec, labels = FrameCodec(run.pipeline.feature_set, number), LabelFrameCodec(plan)
    seen: dict[bytes, Position] = {}
    for record in run.log.records[run.topics.hops[plan.entity].name, partition]:
        upstream = record.header("upstream")
        if upstream is None:  # junk that a test put there
            continue
        assert record.value is not None
        known = record.header("frame") == labels.version
        frame = labels.decode(record.value) if known else codec.decode(record.value)
        for row in range(len(frame)):
            position = Position(int(frame.upstream_offsets[row]), int(frame.upstream_rows[row]))
            if position > seen.get(upstream, Position(-1, -1)):
                seen[upstream] = position
                yield _what(frame, row)


def _what(frame: Frame | LabelFrame, row: int) -> Origin | Known:
    if isinstance(frame, LabelFrame):
        return Known(frame.rows.keys[row], frame.rows.take(np.array([row])))
    return int(frame.origin_partitions[row]), int(frame.origin_offsets[row])


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


def _checked(
    order: Iterable[Origin | Known], events: Events, horizon_us: int
) -> Iterator[tuple[Origin, int]]:
    """The rows that are not too old for their ids to be checked, and the bucket of each."""
    newest_us = -(2**62)
    for origin in order:
        if isinstance(origin, Known):
            continue
        time_us = int(events.times_us[events.rows[origin]])
        if time_us // horizon_us >= newest_us // horizon_us - 1:
            yield origin, time_us // horizon_us
        newest_us = max(newest_us, time_us)


class _Walk:
    """The entities of a partition of a stage, row by row: in the kernel and by brute force."""

    def __init__(self, plan: EntityPlan, number: int, events: Events, found: Recorded) -> None:
        self._state, self._oracle = EntityState(plan, 1_000_000), Oracle(plan)
        self._names = [output.name for output in plan.outputs]
        self._events, self._keys, self._inputs = events, events.keys[number], events.inputs[number]
        self._found = found

    def take(self, what: Origin | Known) -> None:
        """What comes next."""
        if isinstance(what, Known):
            self._know(what)
        else:
            self._answer(what, self._events.rows[what])

    def _answer(self, origin: Origin, row: int) -> None:
        key, columns = self._keys[row], self._columns(slice(row, row + 1))
        self._load(key)
        features = self._committed(self._state.update_batch([key], *columns))
        [time_us], [inputs], [hashes] = (column.tolist() for column in columns)
        answer = self._oracle.answer(key, Row(time_us, inputs, hashes)).features
        for found, values in ((self._found.kernel, features[0].tolist()), (self._found.oracle, answer)):
            found.setdefault(origin, {}).update(zip(self._names, values, strict=True))

    def _know(self, known: Known) -> None:
        nothing, before = self._columns(slice(0)), np.zeros(1, np.int64)
        self._load(known.key)
        self._committed(self._state.update_batch([], *nothing, labels=known.row, labels_before=before))
        self._oracle.know(known.key, known.for_oracle)

    def _columns(self, rows: slice) -> tuple[Ints, Floats, Hashes]:
        numbers, hashes = self._inputs
        return self._events.times_us[rows], numbers[rows], hashes[rows]

    def _load(self, key: str | None) -> None:
        self._state.load(dict.fromkeys(self._state.missing([key])))

    def _committed(self, batch: EntityBatch) -> Floats:
        self._state.committed(batch.number)
        return batch.features


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
