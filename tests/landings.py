"""A small pipeline with windows over labels at both of its entities, events and label rows for it, and brute force."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np

from driftwood import Entity, Label, LightGBM, Pipeline, known_later
from features.label_rows import NO_TIME, LabelRows
from features.oracle import Label as LabelRow
from features.oracle import Oracle, Row
from features.plan import EntityPlan
from streams.frames import FrameCodec
from streams.label_frames import LabelFrameCodec
from streams.producer import partition_of
from tests.in_process import LogRecord, Road

MINUTE = 60
START = 1_700_000_000
JOIN = "landings.hop-join@memory/0"


class Landing(msgspec.Struct):
    flight_id: str
    at: int
    origin: str
    aircraft: str | None
    wind: float
    late: Annotated[bool | None, known_later] = None


def landings() -> Pipeline:
    """Rates and counts of late arrivals, means of their delay, and windows over events beside them."""
    origin, aircraft = Entity("origin"), Entity("aircraft")
    return Pipeline(
        "landings",
        event=Landing,
        id="flight_id",
        time="at",
        time_unit="s",
        label=Label("late", horizon="1d", values=("delay",)),
        features=[
            "wind",
            origin.rate("late", "1h", "6h"),
            origin.std("delay", "6h"),
            origin.count("1h"),
            aircraft.count("late", "12h"),
            aircraft.mean("delay", "12h"),
            aircraft.mean("wind", "12h"),
        ],
        batch=LightGBM(rounds=5, num_leaves=4, min_data_in_leaf=5),
    )


def random_landings(source: random.Random, count: int) -> list[dict[str, Any]]:
    """Few airports and aircraft, some without; mostly forward in time, some late."""
    at, events = START, []
    for number in range(count):
        at += source.choice([0, 1, 5, 20, 60]) * MINUTE
        late = source.randint(0, 400) * MINUTE if source.random() < 0.1 else 0
        events.append(
            {
                "flight_id": f"f{number}",
                "at": at - late,
                "origin": source.choice(["JFK", "EWR", "LGA"]),
                "aircraft": source.choice([None, "a", "b", "c", "d"]),
                "wind": round(source.gammavariate(2, 9), 3),
            }
        )
    return events


@dataclass
class LabelSource:
    """Stands for the join stage: writes label rows of answered events to the hop topics, each at its position.

    Now and then it writes again what it wrote before, cut otherwise, as one does that was killed or woke too late.
    """

    road: Road
    source: random.Random
    offset: int = 0
    said: dict[str, tuple[int, list[float]]] = field(default_factory=dict)
    sent: dict[tuple[str, int], list[tuple[tuple[int, int], list[Any]]]] = field(default_factory=dict)

    def say_something(self, events: Mapping[str, Mapping[str, Any]]) -> None:
        """A record of `hop-join` has become label rows of some of these events."""
        self.offset += 1
        chosen = self.source.sample(sorted(events), min(len(events), self.source.randint(1, 4)))
        for row, name in enumerate(chosen):
            self._say(row, name, events[name])
        for place in list(self.sent):
            rows = self.sent[place]
            if self.source.random() < 0.15:
                self._write(place, rows[-self.source.randint(1, len(rows)) :])

    def _say(self, row: int, name: str, event: Mapping[str, Any]) -> None:
        known_at = event["at"] + self.source.randint(10, 600) * MINUTE
        values = [self.source.choice([0.0, 1.0, math.nan]), round(self.source.gauss(20, 30), 2)]
        replaced_us, replaced = self.said.get(name, (NO_TIME, [math.nan, math.nan]))
        self.said[name] = (known_at * 1_000_000, values)
        for plan in self.road.pipeline.feature_set.entities:
            key = event[plan.keys[0]]
            if key is None:
                continue
            columns = [("late", "delay").index(one) for one in plan.label_inputs]
            line = [key, known_at * 1_000_000, [values[c] for c in columns]]
            line += [replaced_us, [replaced[c] for c in columns]]
            topic = self.road.topics.hops[plan.entity]
            place = (topic.name, partition_of(key.encode(), topic.partitions))
            self.sent.setdefault(place, []).append(((self.offset, row), line))
            self._write(place, self.sent[place][-1:])

    def _write(self, place: tuple[str, int], rows: list[tuple[tuple[int, int], list[Any]]]) -> None:
        (plan,) = [
            one
            for one in self.road.pipeline.feature_set.entities
            if self.road.topics.hops[one.entity].name == place[0]
        ]
        codec = LabelFrameCodec(plan)
        positions = np.array([position for position, _ in rows], np.int64)
        keys, known, values, before, replaced = ([line[at] for _, line in rows] for at in range(5))
        label_rows = LabelRows.of(keys, known, values, before, replaced)
        value = codec.encode(label_rows, positions[:, 0], positions[:, 1])
        self.road.log.append(*place, None, value, [("upstream", JOIN.encode()), ("frame", codec.version)])


def expected_features(road: Road) -> dict[str, list[float]]:
    """By event id its windows, told one by one to brute force in the order that the hop topics have recorded."""
    found: dict[str, list[float]] = {}
    for number, plan in enumerate(road.pipeline.feature_set.entities):
        for partition in range(road.topics.hops[plan.entity].partitions):
            place = (road.topics.hops[plan.entity].name, partition)
            oracle = Oracle(plan)
            for what in _in_recorded_order(road.log.records[place], road.pipeline, number):
                if isinstance(what, tuple):
                    oracle.know(*what)
                    continue
                key, times_us = what[plan.keys[0]], what["at"] * 1_000_000
                inputs = [1.0 if one.value is None else what[one.value] for one in plan.inputs]
                answer = oracle.answer(key, Row(times_us, inputs, []))
                found.setdefault(what["flight_id"], []).extend(answer.features)
    return found


def _in_recorded_order(records: list[LogRecord], pipeline: Pipeline, number: int) -> Iterator[Any]:
    """The events (as dictionaries) and label rows (key, row) of a hop partition, copies left out."""
    plan = pipeline.feature_set.entities[number]
    codecs = (FrameCodec(pipeline.feature_set, number), LabelFrameCodec(plan))
    seen: dict[bytes, tuple[int, int]] = {}
    for record in records:
        upstream = record.header("upstream") or b""
        of_labels = record.header("frame") == codecs[1].version
        frame = codecs[of_labels].decode(record.value or b"")
        lines = _label_lines(frame.rows, plan) if isinstance(frame.rows, LabelRows) else _event_lines(frame)
        positions = zip(frame.upstream_offsets.tolist(), frame.upstream_rows.tolist(), strict=True)
        for position, line in zip(positions, lines, strict=True):
            if position > seen.get(upstream, (-1, -1)):
                seen[upstream] = position
                yield line


def _label_lines(rows: LabelRows, plan: EntityPlan) -> Iterator[tuple[str, LabelRow]]:
    for row, key in enumerate(rows.keys):
        before = int(rows.replaced_known_us[row])
        values, replaced = rows.values[row].tolist(), rows.replaced[row].tolist()
        assert len(values) == len(plan.label_inputs)
        yield key, LabelRow(int(rows.known_us[row]), values, None if before == NO_TIME else before, replaced)


def _event_lines(frame: Any) -> Iterator[dict[str, Any]]:
    rows = frame.rows
    texts = {name: rows.text(name).to_pylist() for name in rows.layout.texts}
    for row, name in enumerate(rows.event_ids.to_pylist()):
        yield {
            "flight_id": name,
            "at": int(rows.times_us[row]) // 1_000_000,
            "wind": float(rows.number("wind")[row]),
            **{field_name: column[row] for field_name, column in texts.items()},
        }


@dataclass
class Answered:
    """The events that have a prediction, looked up as they come."""

    road: Road
    events: Mapping[str, Mapping[str, Any]]
    found: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    read: dict[int, int] = field(default_factory=dict)

    def now(self) -> Mapping[str, Mapping[str, Any]]:
        """Those by now."""
        topic = self.road.topics.predictions
        for partition in range(topic.partitions):
            records = self.road.log.records[topic.name, partition]
            for record in records[self.read.get(partition, 0) :]:
                name = (record.key or b"").decode()
                self.found[name] = self.events[name]
            self.read[partition] = len(records)
        return self.found
