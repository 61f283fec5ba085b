"""A partition of hop-join as a test writes it: what was served, labels, actions and idle frames, in any order, cut anyhow."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from driftwood import Entity, Label, categorical
from features.decode import Decoder
from features.store import PartitionId, Position, StateStore
from models.pipeline import Pipeline
from streams import flags
from streams.feed_notices import NOTICE_FRAME, read_notice
from streams.frames import Frame
from streams.headers import FRAME, UPSTREAM
from streams.join_assembly import JoinGround, join_batches, join_stage
from streams.join_frames import ACTIONS, LABELS, Idle, ReportCodec, Reports, idle_messages
from streams.join_stage import JoinMemory
from streams.label_frames import LabelFrameCodec
from streams.labels import ACTIONS as ACTION_NAMES
from streams.labels import Actions, Labels
from streams.learn_road import JoinStage
from streams.ledger import Horizons
from streams.metrics import Metrics
from streams.outcomes import OutcomeCodec, take_outcomes
from streams.predict_road import Publishing
from streams.served import Served, ServedCodec
from streams.served_rows import Archive, label_plans
from streams.settings import Settings
from streams.topics import pipeline_topics
from streams.versions import versions_text
from tests.in_process import Log, LogRecord
from tests.shop_events import START, orders

MINUTE = 60_000_000
HORIZON = 60 * MINUTE
START_US = int(START.timestamp()) * 1_000_000

customer, shop = Entity("customer"), Entity("shop")

SILENCE_MS = 60_000


def returns(**more: Any) -> Pipeline:
    """A pipeline that learns whether orders come back, with windows over that for two entities."""
    label: dict[str, Any] = {"horizon": "1h", "when_silent": 0, "values": ("minutes",), **more}
    features = [
        "amount",
        categorical("country"),
        customer.rate("returned", "1h"),
        customer.mean("minutes", "30m"),
        shop.rate("returned", "1h"),
        shop.count("1h"),
    ]
    return orders(features, label=Label("returned", **label))


@dataclass(frozen=True)
class Event:
    """An answered event."""

    event_id: str
    time_us: int
    customer: str | None = "ann"
    shop: int = 1
    amount: float = 5.0
    flags: int = 0


@dataclass(frozen=True)
class Report:
    """A label (`code` NaN: null), or an action."""

    event_id: str
    known_us: int
    code: float = 1.0
    minutes: float = 0.0
    action: str | None = None


@dataclass
class Written:
    """A record as the oracle reads it: which rows of which feed."""

    upstream: str
    kind: str
    rows: list[Any]
    wall_ms: int = 0
    idle: Idle | None = None
    first: int = 0  # position of its first row upstream


@dataclass
class JoinTopic:
    """One partition of hop-join, in bytes and in words."""

    pipeline: Pipeline
    log: Log
    written: list[Written] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The topic."""
        return f"{self.pipeline.name}.hop-join"

    def served(self, upstream: str, events: list[Event], first: int | None = None) -> None:
        """Answers of one upstream partition; `first` repeats what began at this position."""
        start = self._first(upstream, len(events), first)
        served = served_of(self.pipeline, events, start)
        codec = ServedCodec(self.pipeline)
        for _, value in codec.encode(served, np.zeros(len(events), np.int64)):
            self._append(upstream, codec.version, value)
        self.written.append(Written(upstream, "served", events, first=start))

    def reports(
        self, feed: str, upstream: str, reports: list[Report], wall_ms: int, first: int | None = None
    ) -> None:
        """Labels or actions of one upstream partition."""
        start = self._first(upstream, len(reports), first)
        offsets = np.arange(start, start + len(reports))
        codec = ReportCodec(self.pipeline)
        ids = [report.event_id for report in reports]
        known_us = np.array([report.known_us for report in reports], np.int64)
        if feed == LABELS:
            codes = np.array([report.code for report in reports], np.float64)
            values = np.array([[report.minutes] for report in reports])
            rows = Reports.of_labels(Labels(ids, known_us, codes, values), offsets)
        else:
            actions = np.array([ACTION_NAMES.index(report.action or "") for report in reports], np.int64)
            rows = Reports.of_actions(Actions(ids, known_us, actions), offsets, 1)
        for _, value in codec.encode(rows, 1):
            headers = codec.headers(feed, upstream, wall_ms, self.pipeline.version)
            self.log.append(self.name, 0, None, value, headers)
        self.written.append(Written(upstream, feed, reports, wall_ms, first=start))

    def idle(self, upstream: str, idle: Idle) -> None:
        """An idle frame."""
        [message] = idle_messages(self.name, 1, upstream, idle)
        self.log.append(self.name, 0, None, message.value, message.headers)
        self.written.append(Written(upstream, "idle", [], idle=idle))

    @property
    def records(self) -> list[LogRecord]:
        """What stands in the partition."""
        return self.log.records[self.name, 0]

    def _first(self, upstream: str, n: int, first: int | None) -> int:
        if first is not None:
            return first
        start = self.counts.get(upstream, 0)
        self.counts[upstream] = start + n
        return start

    def _append(self, upstream: str, version: bytes, value: bytes) -> None:
        self.log.append(self.name, 0, None, value, [(UPSTREAM, upstream.encode()), (FRAME, version)])


def served_of(pipeline: Pipeline, events: list[Event], first: int) -> Served:
    """Answers to these events, whose upstream records are numbered from `first`. Scores say which event it was.

    The champion's version is `champion-<first>`.
    """
    records = [
        (
            json.dumps(
                {
                    "order_id": event.event_id,
                    "placed_at": (
                        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event.time_us)
                    ).isoformat(),
                    "customer": event.customer,
                    "shop": event.shop,
                    "amount": event.amount,
                    "country": "DE",
                }
            ).encode(),
            0,
        )
        for event in events
    ]
    decoded = Decoder(pipeline.feature_set).decode(records)
    assert not decoded.dead
    stored = [LogRecord(first + at, 0, None, None) for at in range(len(events))]
    frame = Frame.of_events(decoded.rows, "orders.events@memory", 0, stored)
    n, features = len(events), pipeline.feature_set
    windows = np.arange(n * len(features.windows), dtype=np.float64).reshape(n, -1) + first
    bits = np.array([event.flags for event in events], np.int64)
    frame = frame.with_entity(windows, np.zeros(n), bits)
    while frame.ages_s.shape[1] < len(features.entities):
        frame = frame.with_entity(np.zeros((n, 0)), np.zeros(n), bits)
    score = np.array([event.amount / 1_000 for event in events])
    versions = versions_text(f"champion-{first}", pipeline.version, "blend", 5)
    return Served(frame, score, {"lightgbm": score + 0.1}, versions, 0.5, {"lightgbm": 1.0})


def stage_of(
    pipeline: Pipeline,
    store: StateStore,
    publisher: Publishing,
    horizons: Horizons,
    archive: Archive | None = None,
    expected: frozenset[str] = frozenset(),
) -> JoinStage:
    """The join stage, whose batches have few rows."""
    settings = Settings(partitions=1)
    entities = [plan.entity for plan in pipeline.feature_set.entities]
    topics = pipeline_topics(pipeline.name, entities, settings, learns=True)
    identities = {topic.name: "memory" for topic in topics}
    metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0)
    ground = JoinGround(pipeline, settings, topics, identities, store, publisher, metrics, archive)
    stage = join_stage(ground)
    batches = replace(
        join_batches(ground), horizons=horizons, silence_ms=SILENCE_MS, expected=expected, most_rows=40
    )
    return replace(stage, batches=batches)


def partition_of_join(pipeline: Pipeline) -> PartitionId:
    """The one partition."""
    return PartitionId(pipeline.name, f"{pipeline.name}.hop-join", 0, "memory")


def log_of(pipeline: Pipeline) -> Log:
    """A log with the topics of the pipeline, one partition each."""
    entities = [plan.entity for plan in pipeline.feature_set.entities]
    topics = pipeline_topics(pipeline.name, entities, Settings(partitions=1), learns=True)
    return Log({topic.name: 1 for topic in topics})


@dataclass(frozen=True)
class Found:
    """An outcome as it is compared: NaN as None."""

    kind: str
    event_id: str
    time_us: int
    known_us: int
    code: float | None
    replaced: float | None
    offset: int
    row: int


def outcomes_in(pipeline: Pipeline, log: Log) -> list[Found]:
    """The outcomes that a learner takes from the topic, in order; copies dropped as it drops them."""
    codec = OutcomeCodec(pipeline)
    seen: dict[str, Position] = {}
    found: list[Found] = []
    for record in log.records[f"{pipeline.name}.outcomes", 0]:
        if record.header(FRAME) == NOTICE_FRAME:
            continue
        _, frame = codec.read(record)
        matured, after = take_outcomes(codec, record, seen)
        fresh = len(frame) - len(matured)
        found += [
            Found(
                matured.kinds[at],
                matured.event_ids[at],
                int(matured.times_us[at]),
                int(matured.known_us[at]),
                none_for_nan(matured.codes[at]),
                none_for_nan(matured.replaced[at]),
                int(frame.upstream_offsets[fresh + at]),
                int(frame.upstream_rows[fresh + at]),
            )
            for at in range(len(matured))
        ]
        seen = after
    return found


def notices_in(pipeline: Pipeline, log: Log) -> list[tuple[bool, int, int, int]]:
    """What was said of the label feed, in the order of positions, each once: stalled, since, and the position."""
    records = log.records[f"{pipeline.name}.outcomes", 0]
    said = [read_notice(record)[1] for record in records if record.header(FRAME) == NOTICE_FRAME]
    found = {(one.offset, one.row, one.stalled, one.since_ms) for one in said}
    return [(stalled, since_ms, offset, row) for offset, row, stalled, since_ms in sorted(found)]


def label_rows_in(pipeline: Pipeline, log: Log) -> dict[str, list[tuple[Any, ...]]]:
    """By entity the label rows on its hop topic, each once, in order."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for plan in label_plans(pipeline):
        codec, last = LabelFrameCodec(plan), Position(-1, -1)
        rows = found.setdefault(plan.entity, [])
        for record in log.records[f"{pipeline.name}.hop-{plan.entity}", 0]:
            assert record.header("frame") == codec.version
            frame = codec.decode(record.value or b"")
            for at in range(len(frame)):
                position = Position(int(frame.upstream_offsets[at]), int(frame.upstream_rows[at]))
                if position <= last:
                    continue
                last, values = position, frame.rows
                rows.append(
                    (
                        values.keys[at],
                        int(values.known_us[at]),
                        [none_for_nan(value) for value in values.values[at]],
                        int(values.replaced_known_us[at]),
                        [none_for_nan(value) for value in values.replaced[at]],
                        (position.offset, position.row),
                    )
                )
    return found


def none_for_nan(value: Any) -> float | None:
    """NaN is not equal to itself."""
    return None if np.isnan(value) else float(value)


def state_of(memory: JoinMemory) -> dict[str, Any]:
    """Everything that a partition's memory decides by."""
    return {
        "rows": memory.state.rows,
        "entities": (memory.state.entities, memory.state.hot, memory.state.nbytes),
        "feeds": memory.feeds.feeds,
        "clock": memory.feeds.clock,
        "seen": dict(memory.seen),
        "applied": memory.applied,
    }


def random_topic(pipeline: Pipeline, source: random.Random, records: int) -> JoinTopic:
    """Records in any order: events late and repeated, labels early, late, corrected, twice and of nobody; copies; silence."""
    topic = JoinTopic(pipeline, log_of(pipeline))
    now_us, wall_ms, count = START_US, 1_000, 0
    for _ in range(records):
        now_us += source.choice([0, 1, 5, 20, 40]) * MINUTE
        wall_ms += source.choice([0, 500, 2_000, 15_000, 15_000, 90_000])
        what = source.choice(
            ["served", "served", "labels", "labels", "actions", "idle", "idle", "copy", "junk"]
        )
        if what == "served":
            events = []
            for _ in range(source.randint(1, 6)):
                count += source.random() < 0.9
                events.append(_event(source, now_us, f"o{count}"))
            topic.served(source.choice(["hop/0", "hop/1"]), events)
        elif what in (LABELS, ACTIONS):
            reports = [_report(source, now_us, count, what) for _ in range(source.randint(1, 6))]
            topic.reports(what, f"{what}/{source.randint(0, 1)}", reports, wall_ms)
        elif what == "idle":
            feed = source.choice(["served", LABELS, ACTIONS])
            upstream = f"{'hop' if feed == 'served' else feed}/{source.randint(0, 1)}"
            mark = source.choice([-(2**62), now_us, now_us - 30 * MINUTE])
            last = source.choice([0, wall_ms, max(wall_ms - 30_000, 0)])
            topic.idle(upstream, Idle(feed, mark, wall_ms, source.random() < 0.7, last))
        elif what == "copy":
            _copy(topic, source, wall_ms)
        else:
            topic.log.append(topic.name, 0, None, b"junk", [])
            topic.written.append(Written("", "junk", []))
    return topic


def _event(source: random.Random, now_us: int, event_id: str) -> Event:
    late = source.choice([0, 0, 0, 3, 50, 200]) * MINUTE
    bits = flags.HOLDOUT if source.random() < 0.2 else 0
    who = source.choice(["ann", "ben", None])
    return Event(event_id, now_us - late, who, source.randint(1, 2), source.choice([5.0, 700.0]), bits)


def _report(source: random.Random, now_us: int, count: int, feed: str) -> Report:
    event_id = f"o{max(count - source.choice([-2, -1, 0, 0, 1, 2, 4, 8]), 0)}"
    known_us = now_us + source.choice([-90, -10, -1, 0, 1, 30, 61, 100]) * MINUTE
    if feed == ACTIONS:
        return Report(event_id, known_us, action=source.choice(["blocked", "blocked", "reviewed", "passed"]))
    code = source.choice([0.0, 1.0, 1.0, float("nan")])
    return Report(event_id, known_us, code, source.choice([0.0, 4.0]))


def _copy(topic: JoinTopic, source: random.Random, wall_ms: int) -> None:
    """What stands there comes again, cut otherwise: some rows of an earlier record, and perhaps new ones behind them."""
    before = [one for one in topic.written if one.rows]
    if not before:
        topic.log.append(topic.name, 0, None, b"", [])
        topic.written.append(Written("", "junk", []))
        return
    one = source.choice(before)
    if source.random() < 0.7:
        one = next(last for last in reversed(before) if last.upstream == one.upstream)
    start = source.randint(0, len(one.rows) - 1)
    rows, first = one.rows[start:], one.first + start
    if first + len(rows) == topic.counts[one.upstream] and source.random() < 0.7:
        rows = [*rows, *(replace(row, event_id=f"{row.event_id}b") for row in rows)]
        topic.counts[one.upstream] = first + len(rows)
    if one.kind == "served":
        topic.served(one.upstream, rows, first)
    else:
        topic.reports(one.kind, one.upstream, rows, wall_ms, first)
