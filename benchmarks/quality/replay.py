"""What the quality benchmarks share: a data set driven through both roads, and what every part of the score said."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from benchmarks.printing import say
from features.plan import Floats, Ints
from models.model_store import ModelStore
from models.pipeline import Pipeline
from offline.events import event_records
from offline.in_process import InProcess, Watch
from offline.label_records import label_records
from offline.one_order import Sent, Slice, merged, slices
from offline.topic_lists import ListedRecord
from streams.settings import Settings

BLEND = "blend"
MINUTE_US = 60_000_000

# The clock of a replay moves on by a slice at a time, so a pause of an hour is none.
SILENCE = timedelta(days=1)

# Seconds between two lines about how far it is.
SAY_EVERY_S = 15.0


class _Part(msgspec.Struct):
    score: float
    weight: float


class _Prediction(msgspec.Struct):
    event_id: str
    score: float
    parts: dict[str, _Part]


@dataclass
class Answered:
    """The predictions in their order, by event; `scores[part]` float64[n] is NaN where a part had no say yet."""

    ids: list[str] = field(default_factory=list)
    dead: int = 0
    _rows: list[dict[str, float]] = field(default_factory=list)
    _weights: list[dict[str, float]] = field(default_factory=list)
    _decoder: msgspec.json.Decoder[_Prediction] = field(
        default_factory=lambda: msgspec.json.Decoder(_Prediction)
    )

    def watch(self, topic: str, records: Sequence[ListedRecord]) -> None:
        """As the driver shows what came out."""
        if topic == "dead-letters":
            self.dead += len(records)
        if topic != "predictions":
            return
        for record in records:
            one = self._decoder.decode(record.value or b"")
            self.ids.append(one.event_id)
            self._rows.append({BLEND: one.score, **{name: part.score for name, part in one.parts.items()}})
            self._weights.append({name: part.weight for name, part in one.parts.items()})

    @property
    def scores(self) -> dict[str, Floats]:
        """By part, the blend's last."""
        return _columns(self._rows)

    @property
    def weights(self) -> dict[str, Floats]:
        """The weight of each part in the blend."""
        return _columns(self._weights)


def _columns(rows: Sequence[dict[str, float]]) -> dict[str, Floats]:
    names = sorted({name for row in rows for name in row}, key=lambda name: (name == BLEND, name))
    return {name: np.array([row.get(name, np.nan) for row in rows], np.float64) for name in names}


@dataclass(frozen=True)
class Promotion:
    """From this time on the model of this version answers; before it the fallback does."""

    at_us: int
    version: str


def replayed(
    pipeline: Pipeline,
    models: Path,
    sent: Iterable[Sent],
    *,
    span_us: int,
    promotions: Sequence[Promotion] = (),
    watch: Watch | None = None,
) -> tuple[Answered, dict[str, Any]]:
    """Drives everything that was sent through both roads; the answers, and the figures of the learner at the end.

    `watch` is shown what comes out as well, before the next slice of `sent` is asked for.
    """
    answered = Answered()

    def watched(topic: str, records: Sequence[ListedRecord]) -> None:
        answered.watch(topic, records)
        if watch is not None:
            watch(topic, records)

    road = InProcess(pipeline, models, watched, settings=Settings(partitions=1, label_silence=SILENCE))

    async def drive() -> None:
        await road.open()
        waiting = list(promotions)
        for one in _told(slices(sent, span_us)):
            while waiting and one.end_us >= waiting[0].at_us:
                ModelStore(models).promote(pipeline.name, waiting.pop(0).version)
                await road.look()
            await road.step(one)

    with asyncio.Runner(loop_factory=_OneThread) as runner:
        runner.run(drive())
    return answered, road.learning.figures() if pipeline.learns else {}


def without_holdout(pipeline: Pipeline) -> Pipeline:
    """The same, where nobody is held out: for worlds in which all labels come, so that none stands for others."""
    made = copy.copy(pipeline)
    object.__setattr__(made, "label", replace(pipeline.label, holdout=0.0))
    return made


class _OneThread(asyncio.SelectorEventLoop):
    """Work that is meant for other threads is done here: nobody is answered meanwhile, and two hops a step cost more than
    the step."""

    def run_in_executor(  # type: ignore[override]  # narrower: whatever the executor, it is this thread
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        done = self.create_future()
        done.set_result(func(*args))
        return done


def _told(cut: Iterator[Slice]) -> Iterator[Slice]:
    """The same slices, and every now and then a line about how far they are."""
    began_s = said_s = time.monotonic()
    events = 0
    for one in cut:
        yield one
        events += len(one.events)
        if time.monotonic() - said_s > SAY_EVERY_S:
            said_s = time.monotonic()
            when = np.datetime64(one.end_us, "us").astype("datetime64[h]")
            say(f"{when}: {events:,} events, {events / (said_s - began_s):,.0f} a second")


def sent_of(pipeline: Pipeline, events: Any, labels: Any, times_us: Ints) -> Iterator[Sent]:
    """The rows of two tables as producers send them; `times_us` int64[n] of the events, in order.

    A label comes when it becomes known.
    """
    values = event_records(pa.Table.from_pandas(events, preserve_index=False), pipeline.feature_set)
    asked = (Sent(at, "events", value) for at, value in zip(times_us.tolist(), values, strict=True))
    told = label_records(pipeline, pa.Table.from_pandas(labels, preserve_index=False))
    answers = (
        Sent(at, "labels", value, event_id.encode())
        for at, value, event_id in zip(told.known_us.tolist(), told.values, told.event_ids, strict=True)
    )
    return merged(asked, answers)
