"""What is left of a run of a pipeline that learns, and what its recorded order prescribes.

From the order of the records on `hop-join` follow the outcomes and label rows, by brute force (`tests/join_oracle.py`), and
by one undisturbed join stage the ledger in Redis; from the order of the records on `outcomes` follows the learner.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from redis import Redis

from features.plan import Ints
from features.redis_snapshots import RedisSnapshots
from features.redis_store import RedisStore
from features.store import PartitionId, Position, Refused
from models.learning import Learning
from models.snapshot import signing_key, unseal
from offline.prediction_archive import PredictionArchive
from streams.feed_notices import NOTICE_FRAME
from streams.join_assembly import JoinGround, join_batches, join_stage
from streams.join_frames import IDLE_FRAME, LABEL_ROW, ReportCodec, read_idle
from streams.label_frames import LabelFrameCodec
from streams.labels import ACTIONS
from streams.metrics import Metrics
from streams.mini_batches import MiniBatches
from streams.outcomes import OutcomeCodec
from streams.served import ServedCodec
from streams.served_rows import label_plans
from streams.settings import Settings
from streams.settling import PASS_ROWS
from streams.topics import TopicAdmin
from tests.in_process import Log, LogRecord, Road
from tests.join_oracle import Oracle
from tests.join_world import Event, Found, Report, Written, none_for_nan
from tests.kafka_run import Dump, KafkaRun, stored


@dataclass(frozen=True)
class Learnt:
    """The records of all topics, the settings that the processes had, and the identities of the topics."""

    run: KafkaRun
    settings: Settings
    identities: Mapping[str, str]

    @classmethod
    def of(cls, run: KafkaRun, settings: Settings) -> Learnt:
        """Look up what the broker knows."""
        topics = TopicAdmin(settings).cluster().topics
        return cls(run, settings, {topic.name: topics[topic.name].identity for topic in run.topics})

    # ---- hop-join, read without the product's join

    @cached_property
    def written(self) -> list[list[Written]]:
        """By partition of `hop-join` its records in words, up to the last that was applied; copies of rows left out."""
        return [[*self._words(partition)] for partition in range(self.settings.partitions)]

    def records(self, partition: int) -> list[LogRecord]:
        """The records of a partition of `hop-join` up to the last that was applied."""
        stands = self.run.log.records[self._join, partition]
        return stands[: self.applied(partition) + 1]

    def applied(self, partition: int) -> int:
        """The last that was applied."""
        with Redis.from_url(self.settings.redis_url) as client:
            key = f"driftwood:{self.run.pipeline.name}:partition:{self._join}:{partition}"
            applied: Any = client.hget(key, "applied")
        return int(applied or -1)

    @property
    def _join(self) -> str:
        return self.run.topics.learning.hop_join.name

    def _words(self, partition: int) -> Iterator[Written]:
        seen: dict[str, Position] = {}
        counts: Counter[str] = Counter()
        for record in self.records(partition):
            upstream, frame = (record.header("upstream") or b"").decode(), record.header("frame")
            if frame == IDLE_FRAME:
                yield Written(upstream, "idle", [], idle=read_idle(record.value or b""))
                continue
            kind, rows, offsets, numbers = self._rows(record)
            fresh = _fresh(offsets, numbers, seen.get(upstream, Position(-1, -1)))
            if fresh:
                seen[upstream] = Position(int(offsets[fresh[-1]]), int(numbers[fresh[-1]]))
            wall_ms, first = int(record.header("wall_ms") or 0), counts[upstream]
            counts[upstream] += len(fresh)
            yield Written(upstream, kind, [rows[at] for at in fresh], wall_ms, first=first)

    def _rows(self, record: LogRecord) -> tuple[str, list[Any], Ints, Ints]:
        """What a record says, and the positions of its rows."""
        codec, value = ServedCodec(self.run.pipeline), record.value or b""
        if record.header("frame") == codec.version:
            frame = codec.decode(value).frame
            keys = [frame.rows.text("customer").to_pylist(), frame.rows.text("shop").to_pylist()]
            columns = (frame.rows.event_ids.to_pylist(), frame.rows.times_us.tolist(), *keys)
            events = [Event(*row) for row in zip(*columns, strict=True)]
            return "served", events, frame.upstream_offsets, frame.upstream_rows
        told = ReportCodec(self.run.pipeline).decode(value)
        lines = zip(
            told.event_ids, told.known_us.tolist(), told.codes, told.values, told.actions, strict=True
        )
        reports = [
            Report(
                name, known, float(code), float(values[0]), None if action == LABEL_ROW else ACTIONS[action]
            )
            for name, known, code, values, action in lines
        ]
        kind = (record.header("feed") or b"").decode()
        return kind, reports, told.upstream_offsets, told.upstream_rows

    # ---- brute force

    @cached_property
    def oracles(self) -> dict[str, Oracle]:
        """By the name of a partition of `hop-join` what its records lead to."""
        found = {}
        batches = join_batches(self._ground())  # for its horizons and names
        for partition, words in enumerate(self.written):
            oracle = Oracle(
                self.run.pipeline.label,
                batches.horizons,
                batches.expected,
                archived=True,
                pass_rows=PASS_ROWS,
            )
            for offset, written in enumerate(words):
                oracle.take(offset, written)
            found[f"{self._join}@{self.identities[self._join]}/{partition}"] = oracle
        return found

    # ---- what stands on the topics behind it

    def outcomes(self) -> tuple[dict[str, list[Found]], int]:
        """By upstream its outcomes, copies dropped by position; and how many rows were copies."""
        codec = OutcomeCodec(self.run.pipeline)
        found: dict[str, dict[Position, Found]] = {}
        copies = 0
        for record in self.run.log.topic(self.run.topics.learning.outcomes.name):
            if record.header("frame") == NOTICE_FRAME:
                continue
            upstream, frame = codec.read(record)
            rows = found.setdefault(upstream, {})
            for at in range(len(frame)):
                one = _found(frame, at)
                position = Position(one.offset, one.row)
                copies += position in rows
                assert rows.setdefault(position, one) == one, "a copy of an outcome differs"
        return {upstream: [rows[at] for at in sorted(rows)] for upstream, rows in found.items()}, copies

    def label_rows(self) -> dict[str, dict[str, list[tuple[Any, ...]]]]:
        """By upstream and entity the label rows on the hop topics, copies dropped by position, in order."""
        found: dict[str, dict[str, dict[Any, tuple[Any, ...]]]] = {}
        for plan in label_plans(self.run.pipeline):
            codec = LabelFrameCodec(plan)
            for record in self.run.log.topic(self.run.topics.hops[plan.entity].name):
                if record.header("frame") != codec.version:
                    continue
                rows = found.setdefault((record.header("upstream") or b"").decode(), {}).setdefault(
                    plan.entity, {}
                )
                for line in _label_lines(codec.decode(record.value or b"")):
                    assert rows.setdefault(line[-1], line) == line, "a copy of a label row differs"
        return {
            upstream: {entity: [rows[at] for at in sorted(rows)] for entity, rows in entities.items()}
            for upstream, entities in found.items()
        }

    def learnt_rows(self, log: Log) -> dict[tuple[str, Position], tuple[Any, ...]]:
        """By upstream and position everything that an outcome carries, as bytes: NaN is not equal to itself."""
        codec = OutcomeCodec(self.run.pipeline)
        found: dict[tuple[str, Position], tuple[Any, ...]] = {}
        for record in log.topic(self.run.topics.learning.outcomes.name):
            if record.header("frame") == NOTICE_FRAME:
                continue
            upstream, frame = codec.read(record)
            for at in range(len(frame)):
                position = Position(int(frame.upstream_offsets[at]), int(frame.upstream_rows[at]))
                row = _everything(frame.matured, at)
                assert found.setdefault((upstream, position), row) == row, "a copy of an outcome differs"
        return found

    def dead(self, reason: str) -> list[bytes]:
        """The records among the dead letters that have this reason, each once by where it comes from."""
        letters: dict[Any, bytes | None] = {}
        for record in self.run.log.topic(self.run.topics.dead_letters.name):
            place = tuple(record.header(name) for name in ("topic", "partition", "offset"))
            if record.header("reason") == reason.encode():
                assert letters.setdefault(place, record.value) == record.value
        return [value or b"" for value in letters.values()]

    def copied_reports(self) -> int:
        """How many rows of labels and actions stand on `hop-join` more than once."""
        codec, found = ReportCodec(self.run.pipeline), Counter[tuple[bytes | None, int]]()
        for record in self.run.log.topic(self._join):
            if record.header("frame") == codec.version:
                offsets = codec.decode(record.value or b"").upstream_offsets.tolist()
                found.update((record.header("upstream"), offset) for offset in offsets)
        return found.total() - len(found)

    def in_redis(self) -> Dump:
        """What the processes left there, but for snapshots."""
        return stored(self.settings.redis_url, self.run.pipeline.name)

    # ---- undisturbed

    def undisturbed(self, folder: Path, redis_url: str) -> tuple[Dump, Road, Log]:
        """One worker of each kind, never killed, over the recorded order, in a Redis that knew nothing of the pipeline.

        What it leaves there; the predict road; and what its join stage has written.
        """
        assert not stored(redis_url, self.run.pipeline.name), "a Redis that knows nothing of this pipeline"
        written = Log({topic.name: topic.partitions for topic in self.run.topics})

        async def work() -> Road:
            store = RedisStore.connect(redis_url)
            road = Road(self.run.pipeline, store, folder, self.settings.partitions, reads=self.run.log)
            await road.drain(50)
            archive = PredictionArchive(folder / "archive", self.run.pipeline.name)
            stage = join_stage(self._ground(store, written, archive))
            for partition in range(self.settings.partitions):
                place = PartitionId(
                    self.run.pipeline.name, self._join, partition, self.identities[self._join]
                )
                memory = await stage.open(place)
                records = self.records(partition)
                while memory.applied + 1 < len(records):
                    next_ = memory.applied + 1
                    done = await stage.process(memory, records[next_ : next_ + 150])
                    assert not isinstance(done, Refused)
            await store.aclose()
            return road

        road = asyncio.run(work())
        return stored(redis_url, self.run.pipeline.name), road, written

    def _ground(
        self, store: Any = None, publisher: Any = None, archive: PredictionArchive | None = None
    ) -> JoinGround:
        metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0)
        run = self.run
        return JoinGround(
            run.pipeline, self.settings, run.topics, self.identities, store, publisher, metrics, archive
        )

    # ---- the learner

    def relearnt(self) -> MiniBatches:
        """A learner that has stepped, in peace, the records of `outcomes` that the newest snapshot has."""
        records = self.run.log.topic(self.run.topics.learning.outcomes.name)[: self.published.version + 1]
        batches = MiniBatches(Learning(self.run.pipeline), OutcomeCodec(self.run.pipeline), -1, {})
        done = batches.step_all(records, {}, lambda: 0.0, 1.0)
        assert done.junk is None
        return batches

    @cached_property
    def published(self) -> Published:
        """The newest snapshot."""
        return published(self.settings, self.run.pipeline)


@dataclass(frozen=True)
class Published:
    """A snapshot as Redis has it, its seal broken. `version` -1: there is none."""

    version: int
    scoring: bytes = b""
    state: bytes = b""
    figures: Mapping[str, Any] | None = None


def published(settings: Settings, pipeline: Any) -> Published:
    """The newest snapshot of a pipeline."""
    key, feature_hash = signing_key(settings.models_dir), pipeline.feature_set.hash

    async def read() -> Published:
        store = RedisSnapshots.connect(settings.redis_url)
        try:
            version = await store.latest(pipeline.name)
            if version is None:
                return Published(-1)
            scoring = await store.scoring(pipeline.name, version)
            state = await store.state(pipeline.name, version)
            figures = json.loads(await store.figures(pipeline.name) or b"{}")
        finally:
            await store.aclose()
        assert scoring is not None
        assert state is not None
        del figures["published_ms"]
        return Published(
            version,
            bytes(unseal(scoring, "scoring", feature_hash, key)),
            bytes(unseal(state, "state", feature_hash, key)),
            figures,
        )

    return asyncio.run(read())


def _fresh(offsets: Ints, rows: Ints, seen: Position) -> list[int]:
    places = zip(offsets.tolist(), rows.tolist(), strict=True)
    return [at for at, place in enumerate(places) if place > (seen.offset, seen.row)]


def _found(frame: Any, at: int) -> Found:
    matured = frame.matured
    return Found(
        matured.kinds[at],
        matured.event_ids[at],
        int(matured.times_us[at]),
        int(matured.known_us[at]),
        none_for_nan(matured.codes[at]),
        none_for_nan(matured.replaced[at]),
        int(frame.upstream_offsets[at]),
        int(frame.upstream_rows[at]),
    )


def _everything(matured: Any, at: int) -> tuple[Any, ...]:
    numbers = (matured.codes, matured.replaced, matured.matrix.values, matured.score)
    texts = tuple(column[at].as_py() for column in matured.matrix.categories.values())
    # A part that no row of a record has is no column of it.
    parts = {name: score[at].tobytes() for name, score in matured.parts.items() if score[at] == score[at]}
    return (
        *(matured.event_ids[at], matured.kinds[at], int(matured.times_us[at]), int(matured.known_us[at])),
        *(column[at].tobytes() for column in (*numbers, matured.thresholds, matured.propensities)),
        *(texts, parts),
    )


def _label_lines(frame: Any) -> Iterator[tuple[Any, ...]]:
    rows = frame.rows
    for at in range(len(frame)):
        yield (
            rows.keys[at],
            int(rows.known_us[at]),
            [none_for_nan(value) for value in rows.values[at]],
            int(rows.replaced_known_us[at]),
            [none_for_nan(value) for value in rows.replaced[at]],
            (int(frame.upstream_offsets[at]), int(frame.upstream_rows[at])),
        )
