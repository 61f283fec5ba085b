"""Labels are away for a week, on both roads in one process: nobody is taken for a negative, and learning is frozen meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import msgspec

from driftwood import Blend, Label, Pipeline, scaled_logistic
from models.state_bytes import unpack_state
from offline.in_process import InProcess
from offline.one_order import Sent, merged, slices
from offline.topic_lists import ListedRecord
from streams.feed_notices import NOTICE_FRAME, read_notice
from streams.headers import FRAME, header
from streams.outcomes import OutcomeCodec
from streams.settings import Settings

HOUR, DAY = 3_600, 86_400
START = 1_700_000_000
DAYS, OUTAGE = 16, range(6, 13)


class Payment(msgspec.Struct):
    payment_id: str
    at: int
    amount: float


PAYMENTS = Pipeline(
    "outage",
    event=Payment,
    id="payment_id",
    time="at",
    time_unit="s",
    features=["amount"],
    label=Label("fraud", horizon="1d", when_silent=0),
    online=[scaled_logistic()],
    blend=Blend(mature_after="1d"),
    fallback=0.2,
)


def fraud(number: int) -> bool:
    """One payment an hour; every third is fraud, and that is all that is ever told, two hours later."""
    return number % 3 == 0


def sent() -> Iterator[Sent]:
    hours = range(DAYS * 24)
    events = [(START + hour * HOUR, hour) for hour in hours]
    labels = [
        (max(known, START + OUTAGE.stop * DAY) if (known - START) // DAY in OUTAGE else known, number, known)
        for at, number in events
        if fraud(number)
        for known in [at + 2 * HOUR]
    ]
    return merged(
        [Sent(at * 1_000_000, "events", _event(at, number)) for at, number in events],
        [Sent(at * 1_000_000, "labels", _label(number, known)) for at, number, known in sorted(labels)],
    )


def _event(at: int, number: int) -> bytes:
    amount = 100.0 + number % 7 if fraud(number) else float(number % 11)
    return json.dumps({"payment_id": f"p{number}", "at": at, "amount": amount}).encode()


def _label(number: int, known: int) -> bytes:
    return json.dumps({"event_id": f"p{number}", "fraud": 1, "known_at": known}).encode()


@dataclass
class Told:
    """What became of payments, by number; and what was said of the label feed."""

    outcomes: dict[int, list[str]] = field(default_factory=dict)
    stalled: list[bool] = field(default_factory=list)

    def watch(self, topic: str, records: Sequence[ListedRecord]) -> None:
        for record in records if topic == "outcomes" else ():
            if header(record, FRAME) == NOTICE_FRAME:
                self.stalled.append(read_notice(record)[1].stalled)
                continue
            matured = OutcomeCodec(PAYMENTS).read(record)[1].matured
            for name, kind in zip(matured.event_ids, matured.kinds, strict=True):
                self.outcomes.setdefault(int(name[1:]), []).append(kind)


def test_a_week_without_labels_teaches_no_false_negative_and_freezes_learning_until_it_is_made_up_for(
    tmp_path: Path,
) -> None:
    told, settings = Told(), Settings(partitions=1, label_silence=timedelta(hours=6))
    frozen: dict[int, list[str | None]] = {}
    weights: dict[int, list[object]] = {}

    async def drive() -> None:
        road = InProcess(PAYMENTS, tmp_path, told.watch, settings=settings)
        await road.open()
        for one in slices(sent(), HOUR * 1_000_000):
            await road.step(one)
            hour = (one.end_us // 1_000_000 - START) // HOUR
            day = hour // 24
            frozen.setdefault(day, []).append(road.learning.figures()["frozen"])
            weights.setdefault(day, []).append(unpack_state(road.learning.scoring())["weights"])

    asyncio.run(drive())
    assert {number for number, kinds in told.outcomes.items() if "silent" in kinds and fraud(number)} == set()
    assert {number for number, kinds in told.outcomes.items() if "matched" in kinds} == {
        number for number in range(DAYS * 24 - 2) if fraud(number)
    }
    in_outage = [day for day in OUTAGE if day != OUTAGE.start]  # the first hours of the first day go on
    assert all(said is not None for day in in_outage for said in frozen[day])
    assert all(said == weights[in_outage[0]][0] for day in in_outage for said in weights[day])
    assert told.stalled == [True, False]
    assert frozen[0][-1] is None
    assert frozen[DAYS - 1][-1] is None
    assert weights[DAYS - 1][-1] != weights[in_outage[0]][0]
