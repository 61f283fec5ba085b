"""A week without labels, in payments and through the very roads: no fraud is taken for genuine because nobody spoke of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

from examples.payments.frauds import simulated_payments
from examples.payments.records import feed, payment_id
from examples.payments.simulation import moment_us
from examples.payments.switches import Switches
from features.store import Position
from models.loading import load_pipeline
from offline.in_process import InProcess
from offline.one_order import Sent, Slice, slices
from offline.topic_lists import ListedRecord
from streams import feeds
from streams.feeds import Feeds
from streams.headers import FRAME, header
from streams.outcomes import OutcomeCodec, take_outcomes
from streams.settings import Settings

# Half of the genuine payments are never spoken of: silence is all that is known of them. The line is down for a week, then
# what was held back comes a hundred times as fast as life, within two hours, and new labels come beside it.
DOWN, UP = 9.5, 16.5  # at noon, when most payments are made
WORLD = Switches(
    seed=5, days=19, customers=100, terminals=200, label_outage=(DOWN, UP), genuine_reported=0.5,
    terminal_waves=(2,), wave_share=0.1,
)  # fmt: skip
HOUR_US = 3_600_000_000


class Taught(NamedTuple):
    """An outcome of a run; `when_us` is the time at which it came."""

    event_id: str
    kind: str
    code: float
    when_us: int


def day(days: float) -> int:
    return moment_us(WORLD, days)


def cut() -> Iterator[Slice]:
    """The records of the world in slices of two hours; of ten minutes while what was held back comes."""
    made = simulated_payments(WORLD)
    sent = [Sent(record.at_us, topic, record.value, record.key) for topic, record in feed(WORLD, made)]  # type: ignore[arg-type]
    back, caught_up = day(UP), day(UP) + 3 * HOUR_US
    return chain(
        slices((one for one in sent if one.at_us < back), 2 * HOUR_US),
        slices((one for one in sent if back <= one.at_us < caught_up), HOUR_US // 6),
        slices((one for one in sent if one.at_us >= caught_up), 2 * HOUR_US),
    )


def taught(models: Path) -> list[Taught]:
    """What the roads make of it."""
    pipeline = load_pipeline("payments")
    codec = OutcomeCodec(pipeline)
    found: list[Taught] = []
    seen: Mapping[str, Position] = {}

    def watch(topic: str, records: Sequence[ListedRecord]) -> None:
        nonlocal seen
        for record in records:
            if topic == "outcomes" and header(record, FRAME) == codec.version:
                rows, seen = take_outcomes(codec, record, seen)
                each = zip(rows.event_ids, rows.kinds, rows.codes.tolist(), strict=True)
                found.extend(Taught(*row, road.clock.now_us) for row in each)

    settings = Settings(partitions=1, label_silence=timedelta(hours=12))
    road = InProcess(pipeline, models, watch, settings=settings)

    async def drive() -> None:
        await road.open()
        for one in cut():
            await road.step(one)

    asyncio.run(drive())
    return found


def frauds() -> set[str]:
    made = simulated_payments(WORLD)
    return {payment_id(number) for number in made.numbers[made.fraud].tolist()}


def false_negatives(found: Sequence[Taught]) -> set[str]:
    """Frauds of which the learners were told that they are none."""
    return {one.event_id for one in found if one.code == 0.0} & frauds()


def test_a_label_outage_of_seven_days_in_payments_teaches_no_false_negative(tmp_path: Path) -> None:
    found = taught(tmp_path)
    assert false_negatives(found) == set()
    assert {one.event_id for one in found if one.kind == "matched" and one.code == 1.0} == frauds()
    silent = [one.when_us for one in found if one.kind == "silent"]
    assert min(silent) < day(DOWN) + 2 * HOUR_US < day(UP) < max(silent)
    assert not [when for when in silent if day(DOWN) + 2 * HOUR_US < when < day(UP)]
    assert len(frauds()) > 100 and len(silent) > 500


def only_events_tell_the_time(self: Feeds) -> None:
    """As if silence meant something however the label feed is."""
    self.clock.now_us = self.clock.due_us = max(self.clock.due_us, self._served_us())


def test_where_silence_counted_during_the_outage_it_would_teach_false_negatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Feeds, "advance", only_events_tell_the_time)
    assert len(false_negatives(taught(tmp_path))) > 20


def test_where_it_counted_again_as_soon_as_labels_are_back_it_would_teach_false_negatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "CATCH_UP", 10**9)
    assert len(false_negatives(taught(tmp_path))) > 5
