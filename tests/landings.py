"""A small pipeline with windows over labels at both of its entities, events and label rows for it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np

from driftwood import Entity, Label, LightGBM, Pipeline, known_later
from features.label_rows import NO_TIME, LabelRows
from streams.label_frames import LabelFrameCodec
from streams.producer import partition_of
from tests.in_process import Road

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
