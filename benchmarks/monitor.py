"""What the monitor costs: CPU of this process for each answered event, of a pipeline with 30 features.

    python -m benchmarks.monitor --events 200000 --json

Records of hop-join go through the monitor's own stages, with a store in memory: counted, stored every second (of a stream
of 1,000 events a second), merged, and judged against a trailing reference, slice by slice. What the Kafka client costs is
not in it: it is paid by the fetch, and a fetch holds what has come since the last one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from benchmarks.card_pipeline import Payment, card, terminal
from benchmarks.machine import machine
from benchmarks.printing import arguments, print_machine, tell
from driftwood import Drift, Label, Pipeline, categorical, scaled_logistic
from features.decode import Decoder
from features.store import PartitionId
from features.watch_store import MemoryWatch
from models.drift.columns import watched_columns
from offline.topic_lists import ListedRecord
from streams.batch import Partition, Record
from streams.frames import Frame
from streams.metrics import Metrics
from streams.producer import Outgoing
from streams.served import JoinHop, Served, ServedCodec
from streams.settings import Settings
from streams.topics import pipeline_topics
from streams.versions import versions_text
from streams.watch_run import WatchGround, watch_stages
from streams.watch_stage import WatchStage

RATE = 1_000  # events a second, of the stream
WARM_HOURS = 3  # are not measured: what is loaded at first use
SEED = 20240401

WATCHED = Pipeline(
    "watched",
    event=Payment,
    id="payment_id",
    time="at",
    earliest="2024-01-01",
    label=Label("fraud", horizon="7d"),
    features=[
        "amount",
        categorical("channel"),
        card.count("5m", "1h", "1d", "7d", "30d"),
        card.sum("amount", "1h", "1d", "7d"),
        card.mean("amount", "1d", "7d", "30d"),
        card.std("amount", "1d", "7d"),
        card.max("amount", "1d", "7d"),
        card.last("amount"),
        card.since_last(),
        card.ewm("amount", half_life="6h"),
        terminal.count("5m", "1h", "1d"),
        terminal.mean("amount", "1h", "30d"),
        terminal.max("amount", "12h"),
        terminal.min("amount", "12h"),
        terminal.std("amount", "1d"),
        terminal.since_last(),
        terminal.ewm("amount", half_life="1h"),
    ],
    online=[scaled_logistic()],
    fallback=0.02,
    drift=Drift(reference="2d", window="1d"),
)

BEGIN_US = 1_711_929_600_000_000  # 2024-04-01
HOUR_US = 3_600_000_000


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--events", type=int, default=200_000, help="that are measured")
    asked = parser.parse_args()
    assert len(WATCHED.feature_set.features) == 30, len(WATCHED.feature_set.features)
    by_rows = {rows: asyncio.run(measured(asked.events, rows)) for rows in (20, 100, 500)}
    figures = {
        "cpu_us_per_event": by_rows[100]["all"],
        "by_rows_of_a_record": {str(rows): found for rows, found in by_rows.items()},
        "columns": len(watched_columns(WATCHED)),
        "events": asked.events,
        "machine": machine(["driftwood", "numpy", "pyarrow"]),
    }
    tell(figures, as_json=asked.json, show=show)


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """For people."""
    table = Table("rows of a record", "slices", "alerts", "all", title="CPU of the monitor, µs an event")
    for rows, found in figures["by_rows_of_a_record"].items():
        table.add_row(rows, str(found["slices"]), str(found["alerts"]), str(found["all"]))
    console.print(table)
    print_machine(console, figures["machine"])


@dataclass
class Written:
    """A publisher that keeps what is written to one topic."""

    records: list[Record]

    async def deliver(self, messages: Sequence[Outgoing]) -> dict[Partition, int]:
        """Append."""
        for one in messages:
            self.records.append(ListedRecord(len(self.records), 0, one.key, one.value, one.headers))
        return {}


@dataclass(frozen=True)
class NoLogs:
    """Topics in which nothing stands yet."""

    def bounds(self, place: Partition) -> tuple[int, int]:
        """Nothing."""
        return 0, 0

    def read(self, place: Partition, first: int, end: int) -> Sequence[Sequence[Record]]:
        """Nothing."""
        return []

    def reference(self, pipeline: str, version: str) -> bytes | None:
        """None."""
        return None


async def measured(events: int, rows: int) -> dict[str, float]:
    """CPU in µs an event of counting (`slices`) and judging (`alerts`), with so many rows in a record of hop-join."""
    topics = pipeline_topics("watched", ["card", "terminal"], Settings(partitions=1), learns=True)
    written = Written([])
    metrics = Metrics(CollectorRegistry(), clock=time.monotonic, now_ms=lambda: 0.0)
    identities = {topic.name: "cluster" for topic in topics}
    logs = NoLogs()
    ground = WatchGround(WATCHED, topics, identities, MemoryWatch(), written, metrics, logs, logs)
    stages = watch_stages(ground).entities
    now_s = [0.0]
    slices, alerts = (
        replace(stage, clock=lambda: now_s[0])
        for topic in (topics.learning.hop_join, topics.learning.drift_slices)
        if isinstance(stage := stages[topic.name], WatchStage)
    )
    join = await slices.open(PartitionId("watched", topics.learning.hop_join.name, 0, "cluster"))
    judged = await alerts.open(PartitionId("watched", topics.learning.drift_slices.name, 0, "cluster"))
    spent = {"slices": 0.0, "alerts": 0.0}
    hours = WARM_HOURS + max(events // (RATE * 60), 1)
    records = list(
        served_records(hours * RATE * 60, rows, topics.learning.hop_join.name, HOUR_US / (RATE * 60))
    )
    a_second = max(RATE // rows, 1)
    warm = WARM_HOURS * RATE * 60 // rows
    for at in range(0, len(records), a_second):
        now_s[0] += 1.0
        for name, stage, memory, batch in (
            ("slices", slices, join, records[at : at + a_second]),
            ("alerts", alerts, judged, None),
        ):
            chosen = written.records[judged.taken + 1 :] if batch is None else batch
            began_s = time.process_time()
            if chosen:
                await stage.process(memory, chosen)
            if at >= warm:
                spent[name] += time.process_time() - began_s
    count = (len(records) - warm) * rows
    found = {name: round(seconds / count * 1e6, 2) for name, seconds in spent.items()}
    return {**found, "all": round(sum(spent.values()) / count * 1e6, 2)}


def served_records(count: int, rows: int, topic: str, apart_us: float) -> list[Record]:
    """Records of hop-join with answers to payments, so many microseconds of event time apart."""
    source, codec = np.random.default_rng(SEED), ServedCodec(WATCHED)
    learn = pipeline_topics("watched", [], Settings(partitions=1), learns=True).learning
    hop = JoinHop(learn.hop_join, codec, WATCHED.version)
    found: list[Record] = []
    for first in range(0, count, rows):
        times_us = BEGIN_US + ((first + np.arange(rows)) * apart_us).astype(np.int64)
        served = _served(times_us, first, source)
        for one in hop.messages(served, "watched.hop-terminal@cluster/0"):
            found.append(ListedRecord(len(found), 0, None, one.value, one.headers))
    return found


def _served(times_us: np.ndarray[Any, np.dtype[np.int64]], first: int, source: np.random.Generator) -> Served:
    amounts = source.lognormal(3, 1, len(times_us)).round(2)
    values = [
        msgspec.json.encode(
            {
                "payment_id": f"p{first + place}",
                "at": _text(int(times_us[place])),
                "card": f"c{source.integers(20_000)}",
                "terminal": f"t{source.integers(2_000)}",
                "amount": float(amounts[place]),
                "channel": ("chip", "contactless", "online")[source.integers(3)],
            }
        )
        for place in range(len(times_us))
    ]
    decoded = Decoder(WATCHED.feature_set).decode([(value, 0) for value in values])
    stored = [ListedRecord(first + at, 0, None, None, []) for at in range(len(values))]
    frame = Frame.of_events(decoded.rows, "watched.events@cluster", 0, stored)
    n, plans = len(values), WATCHED.feature_set.entities
    for plan in plans:
        windows = source.lognormal(3, 1, (n, len(plan.outputs)))
        windows[source.random(windows.shape) < 0.05] = np.nan
        frame = frame.with_entity(windows, np.zeros(n), np.zeros(n, np.int64))
    score = source.beta(1, 30, n)
    versions = versions_text("m1", WATCHED.version, "blend", 5)
    return Served(frame, score, {"lightgbm": score}, versions, 0.5, {"lightgbm": 1.0})


def _text(time_us: int) -> str:
    return f"{np.datetime64(time_us, 'us')}Z"


if __name__ == "__main__":
    main()
