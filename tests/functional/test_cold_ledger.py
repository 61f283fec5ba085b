"""A ledger that keeps hours of a horizon of weeks or months, and reads the rest back: nobody can tell from what comes out."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from examples.payments.records import feed
from examples.payments.switches import Switches
from features.durations import DAY_US
from features.store import Position
from models.loading import load_pipeline
from models.pipeline import Pipeline
from offline.in_process import InProcess
from offline.one_order import Sent
from offline.prediction_archive import PredictionArchive
from offline.topic_lists import ListedRecord
from streams.settings import Settings

EVERYTHING = timedelta(days=3_000)


class CountedArchive(PredictionArchive):
    """Counts what was asked for."""

    asked = reads = 0

    def read(self, partition: int, positions: Sequence[Position]) -> dict[Position, bytes]:
        """As ever."""
        self.asked, self.reads = self.asked + len(positions), self.reads + 1
        return super().read(partition, positions)


def payments(horizon: str) -> Pipeline:
    made = copy.copy(load_pipeline("payments"))
    object.__setattr__(made, "label", replace(made.label, horizon=horizon))
    return made


def all_that_comes_out(
    pipeline: Pipeline, sent: list[Sent], folder: Path, hot: timedelta, archive: PredictionArchive
) -> list[tuple[str, bytes | None, bytes | None]]:
    """Predictions, outcomes and dead letters, in their order."""
    out: list[tuple[str, bytes | None, bytes | None]] = []

    def watch(topic: str, records: Sequence[ListedRecord]) -> None:
        out.extend((topic, record.key, record.value) for record in records)

    async def drive() -> None:
        settings = Settings(partitions=1, ledger_hot=hot, label_silence=timedelta(days=30))
        road = InProcess(pipeline, folder, watch, settings=settings, archive=archive)
        await road.open()
        await road.run(sent, span_us=DAY_US)

    asyncio.run(drive())
    return out


@pytest.mark.parametrize(
    ("days", "customers", "delay", "horizon"), [(18, 16, 7.0, "8d"), (76, 3, 45.0, "60d")]
)
def test_payments_whose_ledger_is_shorter_than_their_label_delay_equal_those_with_everything_hot(
    tmp_path: Path, days: int, customers: int, delay: float, horizon: str
) -> None:
    switches = Switches(
        days=days,
        customers=customers,
        terminals=2 * customers,
        label_delay=delay,
        genuine_reported=0.6,  # of the others silence is read back
        corrected=0.1,
        duplicates=0.05,
        blocked=0.3,
    )
    sent = [Sent(record.at_us, topic, record.value, record.key) for topic, record in feed(switches)]  # type: ignore[arg-type]
    pipeline = payments(horizon)
    archives = [CountedArchive(tmp_path / name, pipeline.name) for name in ("hot", "cold")]
    hot = all_that_comes_out(pipeline, sent, tmp_path, EVERYTHING, archives[0])
    cold = all_that_comes_out(pipeline, sent, tmp_path, timedelta(hours=30), archives[1])
    assert cold == hot
    labels = sum(one.feed == "labels" for one in sent)
    assert archives[0].asked == 0
    assert archives[1].asked > labels / 2
    assert archives[1].reads < archives[1].asked / 2  # not one for each label
