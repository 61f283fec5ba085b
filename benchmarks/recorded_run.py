"""Checks a whole run of a pipeline against the order that its hop topics recorded, fast enough for millions of events.

Copies of rows are dropped by their position, repeated ids by the sentence of the setting `repeat_horizon`; what is left
goes through the compiled kernel in the recorded order. What the hop topics and the predictions say must be just that,
bit for bit; entities of a sample are worked out by brute force as well.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from features.errors import DeveloperError
from features.inputs import entity_inputs
from features.oracle import Oracle, Row
from features.plan import EntityPlan, Floats, Ints
from features.rows import entity_keys
from features.state import EntityState
from features.store import Position
from models.model_store import ModelStore
from models.pipeline import Pipeline
from streams.entity_batch import stage_plans
from streams.frames import Frame, FrameCodec, positions_after
from streams.headers import POSITION, UPSTREAM
from streams.settings import Settings
from streams.topics import PipelineTopics, Topic

Mask = npt.NDArray[np.bool_]

CHUNK_ROWS = 20_000  # rows that go through the kernel at once
CAPACITY = 100_000  # entities in memory: above those of the benchmark, so that none is evicted
HORIZON_US = int(Settings().repeat_horizon.total_seconds() * 1_000_000)
TOLERANCE = 1e-9  # of brute force, whose sums are rounded once where the kernel's are rounded often
BEFORE_ALL = Position(-1, -1)
WITHIN_S = 60.0  # a broker that is there sends something well within it

_quiet = logging.getLogger("benchmarks.recorded_run")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass
class Verdict:
    """What a run came to. The first six are counts of what there was; all others should be 0.

    - `lost`: events without a prediction, and events of which a stage has no row.
    - `double`: window features, in predictions and on the way to them, that are not what the recorded order prescribes;
      and answers to what is a repeat. An event that counted twice or not at all shows here.
    - `predictions_differing`: predictions of which a copy is not the same bytes.
    - `scores_differing`: scores that are not what the model gives that the prediction names.
    - `beyond_oracle`: features of the sampled entities that are more than 1e-9 from brute force.
    """

    events: int = 0
    repeats: int = 0
    predictions: int = 0
    copies: int = 0
    copied_rows: int = 0
    sampled_rows: int = 0
    lost: int = 0
    double: int = 0
    predictions_differing: int = 0
    scores_differing: int = 0
    beyond_oracle: int = 0


@dataclass(frozen=True)
class Finished:
    """A run that is over: where its records stand, its models, and by entity the keys that brute force looks at."""

    pipeline: Pipeline
    topics: PipelineTopics
    brokers: str
    models: ModelStore
    sampled: Mapping[str, Collection[str]]


class _Served(msgspec.Struct):
    """What is read of a prediction."""

    score: float
    parts: dict[str, dict[str, Any]]
    features: dict[str, float | str | None]


def check(run: Finished, told: Callable[[str], None] = lambda _: None) -> Verdict:
    """Read everything, and compare; `told` hears what is being done.

    Raises:
        DeveloperError: the pipeline has windows over labels, and so label rows among its events, which nothing here reads.
    """
    if any(plan.label_inputs for plan in run.pipeline.feature_set.entities):
        raise DeveloperError(
            f"{run.pipeline.name} has windows over labels: only what events fill can be checked."
        )
    return _Check(run, told).verdict


class _Check:
    """Events are numbered as they stand in `events`, partition by partition; arrays have a row for each."""

    def __init__(self, run: Finished, told: Callable[[str], None]) -> None:
        self._run, self._told = run, told
        ends = [_end(run.brokers, run.topics.events, at) for at in range(run.topics.events.partitions)]
        self._starts = np.concatenate(([0], np.cumsum(ends))).astype(np.int64)
        n = int(self._starts[-1])
        self.verdict = Verdict(events=n)
        self._expected = np.ones(n, np.bool_)  # those of which the next stage should have a row
        self._windows: Floats = np.zeros((n, 0))
        self._scorers = [
            run.models.load(run.pipeline, version) for version in run.models.versions(run.pipeline.name)
        ]
        self._scores = {scorer.version: np.full(n, np.nan) for scorer in self._scorers}
        for number, plan in enumerate(stage_plans(run.pipeline.feature_set)):
            self._stage(number, plan)
        self._predictions()

    # The hop topics.

    def _stage(self, number: int, plan: EntityPlan) -> None:
        """Walk the rows of a stage in the recorded order."""
        n, before = self._windows.shape
        self._windows = np.hstack([self._windows, np.full((n, len(plan.outputs)), np.nan)])
        here = np.zeros(n, np.bool_)
        topic = self._run.topics.hops[plan.entity]
        for partition in range(topic.partitions):
            self._told(f"{topic.name}/{partition}")
            walk = _Walk(plan, frozenset(self._run.sampled.get(plan.entity, ())), first=number == 0)
            for frame in self._frames(topic, partition, FrameCodec(self._run.pipeline.feature_set, number)):
                self._rows(walk, frame, before, here)
            self._by_brute_force(walk, before)
        self.verdict.lost += int((self._expected & ~here).sum())
        self._expected = here

    def _rows(self, walk: _Walk, frame: Frame, before: int, here: Mask) -> None:
        kept = walk.kept(frame)
        self.verdict.repeats += len(frame) - int(kept.sum())
        self._expected[self._numbers(frame)[~kept]] = False
        frame = frame.take(np.flatnonzero(kept))
        numbers = self._numbers(frame)
        # Whatever comes to a stage for a second time, or should not have come at all.
        self.verdict.double += int((here[numbers] | ~self._expected[numbers]).sum())
        self.verdict.double += _differing(frame.windows, self._windows[numbers, :before])
        here[numbers] = True
        self._windows[numbers, before:] = walk.features(frame, numbers)
        if walk.plan == stage_plans(self._run.pipeline.feature_set)[-1]:
            self._score(frame, numbers)

    def _score(self, frame: Frame, numbers: Ints) -> None:
        matrix = self._run.pipeline.feature_set.assemble(frame.rows, self._windows[numbers])
        for scorer in self._scorers:
            self._scores[scorer.version][numbers] = scorer.score(matrix)

    def _frames(self, topic: Topic, partition: int, codec: FrameCodec) -> Iterator[Frame]:
        """The rows whose position is new, some thousand at a time."""
        seen: dict[bytes, Position] = {}
        waiting: list[Frame] = []
        for message in _messages(self._run.brokers, topic, partition):
            headers: Any = message.headers()
            upstream, frame = dict(headers)[UPSTREAM], codec.decode(_value(message))
            start = positions_after(frame, seen.get(upstream, BEFORE_ALL))
            self.verdict.copied_rows += start
            if start < len(frame):
                seen[upstream] = Position(int(frame.upstream_offsets[-1]), int(frame.upstream_rows[-1]))
                waiting.append(frame.take(np.arange(start, len(frame))))
            if sum(map(len, waiting)) >= CHUNK_ROWS:
                yield codec.join(waiting)
                waiting = []
        if waiting:
            yield codec.join(waiting)

    def _numbers(self, frame: Frame) -> Ints:
        numbers: Ints = self._starts[frame.origin_partitions] + frame.origin_offsets
        return numbers

    def _by_brute_force(self, walk: _Walk, before: int) -> None:
        oracle = Oracle(walk.plan)
        for number, key, row in walk.sampled:
            said = np.array(oracle.answer(key, row).features)
            kernel = self._windows[number, before : before + len(said)]
            close = np.isclose(kernel, said, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
            self.verdict.beyond_oracle += int((~close).sum())
        self.verdict.sampled_rows += len(walk.sampled)

    # The predictions.

    def _predictions(self) -> None:
        topic = self._run.topics.predictions
        answered = np.zeros(self.verdict.events, np.bool_)
        digests = np.zeros((self.verdict.events, 2), np.uint64)
        differing: set[int] = set()
        decode = msgspec.json.Decoder(_Served).decode
        names = [
            output.name for plan in stage_plans(self._run.pipeline.feature_set) for output in plan.outputs
        ]
        for partition in range(topic.partitions):
            self._told(f"{topic.name}/{partition}")
            for message in _messages(self._run.brokers, topic, partition):
                number, value = self._number(message), _value(message)
                digest = np.frombuffer(hashlib.blake2b(value, digest_size=16).digest(), np.uint64)
                if answered[number]:
                    self.verdict.copies += 1
                    if (digests[number] != digest).any():
                        differing.add(number)
                    continue
                answered[number], digests[number] = True, digest
                self._compare(number, decode(value), names)
        self.verdict.predictions = int(answered.sum())
        self.verdict.predictions_differing = len(differing)
        self.verdict.lost += int((self._expected & ~answered).sum())
        self.verdict.double += int((answered & ~self._expected).sum())

    def _compare(self, number: int, served: _Served, names: Sequence[str]) -> None:
        features = served.features
        known = [
            at for at, name in enumerate(names) if name in features
        ]  # others are used by expressions alone
        said = np.array([features[names[at]] for at in known], np.float64)  # None becomes NaN
        self.verdict.double += _differing(said, self._windows[number, known])
        [part] = served.parts.values()
        self.verdict.scores_differing += int(served.score != self._scores[part["version"]][number])

    def _number(self, message: Message) -> int:
        headers: Any = message.headers()
        _, partition, offset = dict(headers)[POSITION].decode().rsplit("/", 2)
        return int(self._starts[int(partition)]) + int(offset)


class _Walk:
    """One partition of a stage: the rows of its entities one after another. `sampled` has those for brute force."""

    def __init__(self, plan: EntityPlan, keys: frozenset[str], *, first: bool) -> None:
        self.plan, self._first, self._wanted = plan, first, keys
        self._state = EntityState(plan, CAPACITY)
        self._buckets: dict[str, list[int]] = {}
        self._newest_us: float = -math.inf
        self.sampled: list[tuple[int, str, Row]] = []

    def kept(self, frame: Frame) -> Mask:
        """bool[n]: which rows are no repeats. The first stage alone drops those."""
        if not self._first:
            return np.ones(len(frame), np.bool_)
        events = zip(frame.rows.event_ids.to_pylist(), frame.rows.times_us.tolist(), strict=True)
        return np.array([self._is_new(event_id, time_us) for event_id, time_us in events], np.bool_)

    def _is_new(self, event_id: str, time_us: int) -> bool:
        earlier, bucket = self._buckets.get(event_id), time_us // HORIZON_US
        checked = bucket >= self._newest_us // HORIZON_US - 1
        if checked and earlier and any(abs(other - bucket) <= 1 for other in earlier):
            return False
        self._buckets[event_id] = [*(earlier or ()), bucket]
        self._newest_us = max(self._newest_us, time_us)
        return True

    def features(self, frame: Frame, numbers: Ints) -> Floats:
        """Each row's features as of it; then it counts."""
        keys = entity_keys(frame.rows, self.plan.keys)
        inputs, hashes = entity_inputs(self.plan, frame.rows)
        for row in [row for row, key in enumerate(keys) if key in self._wanted]:
            one = Row(int(frame.rows.times_us[row]), inputs[row].tolist(), hashes[row].tolist())
            self.sampled.append((int(numbers[row]), str(keys[row]), one))
        self._state.load(dict.fromkeys(self._state.missing(keys)))
        batch = self._state.update_batch(keys, frame.rows.times_us, inputs, hashes, pack=False)
        self._state.committed(batch.number)
        return batch.features


def _differing(some: Floats, others: Floats) -> int:
    """How many are not the same bits; every NaN is the same."""
    same = some.view(np.int64) == np.ascontiguousarray(others).view(np.int64)
    return int((~(same | (np.isnan(some) & np.isnan(others)))).sum())


# Reading a partition from its beginning to its present end.


def _messages(brokers: str, topic: Topic, partition: int) -> Iterator[Message]:
    end = _end(brokers, topic, partition)
    consumer = _consumer(brokers)
    try:
        consumer.assign([TopicPartition(topic.name, partition, OFFSET_BEGINNING)])
        read = 0
        while read < end:
            # No more than there are: it waits for as many as it is asked for.
            found = consumer.consume(min(end - read, 10_000), WITHIN_S)
            if not found:
                raise TimeoutError(f"{topic.name}/{partition}: {read} of {end} records came")
            for message in found:
                if (error := message.error()) is not None:
                    raise RuntimeError(f"{topic.name}/{partition}: {error}")
                yield message
            read += len(found)
    finally:
        consumer.close()


def _end(brokers: str, topic: Topic, partition: int) -> int:
    consumer = _consumer(brokers)
    try:
        first, end = consumer.get_watermark_offsets(TopicPartition(topic.name, partition), timeout=WITHIN_S)
    finally:
        consumer.close()
    if first:
        raise RuntimeError(f"{topic.name}/{partition} begins at {first}: its first records are gone")
    return int(end)


def _consumer(brokers: str) -> Consumer:
    config: dict[str, Any] = {
        "bootstrap.servers": brokers,
        "group.id": "recorded-run",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
    }
    return Consumer(config, logger=_quiet)


def _value(message: Message) -> bytes:
    value: Any = message.value()
    return bytes(value)
