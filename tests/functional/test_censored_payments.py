"""A bank blocks payments, through the very roads: what it tells teaches nobody, and what it keeps to itself teaches wrongly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.censored import WORLDS, Town
from benchmarks.quality.replay import without_holdout
from driftwood import Entity, Label, Pipeline, Threshold, scaled_logistic
from examples.payments.frauds import simulated_payments
from examples.payments.pipeline import Payment
from examples.payments.records import payment_id
from examples.payments.simulation import LIMIT
from examples.payments.switches import Switches
from features.store import Position
from offline.in_process import InProcess
from offline.topic_lists import ListedRecord
from streams.headers import FRAME, header
from streams.outcomes import OutcomeCodec, take_outcomes
from streams.settings import Settings

WORLD = Switches(seed=4, days=30, customers=300, terminals=600)
HOLDOUT = 0.3

# The rule in service blocks what is above the limit, and only fraud is: a learner has to find that out by itself.
PIPELINE = Pipeline(
    "payments",
    event=Payment,
    id="payment_id",
    time="at",
    earliest="2024-01-01",
    label=Label("fraud", horizon="8d", when_silent=0, holdout=HOLDOUT),
    features=["amount", Entity("customer").mean("amount", "7d")],
    decide=Threshold(0.5),
    online=[scaled_logistic()],
    fallback=f"amount >= {LIMIT}",
)


@dataclass
class Run:
    """One world: the town, what was learnt by event id (code and propensity), and all outcomes by event id."""

    town: Town
    learnt: dict[str, tuple[float, float]] = field(default_factory=dict)
    kinds: dict[str, list[str]] = field(default_factory=dict)
    said: dict[str, float] = field(default_factory=dict)

    def watch(self, topic: str, records: Sequence[ListedRecord]) -> None:
        self.town.watch(topic, records)
        if topic == "predictions":
            for prediction in (json.loads(record.value or b"") for record in records):
                self.said[prediction["event_id"]] = (
                    prediction["parts"].get("scaled_logistic", {}).get("score")
                )
        seen: Mapping[str, Position] = {}
        for record in records if topic == "outcomes" else ():
            if header(record, FRAME) == CODEC.version:
                rows, seen = take_outcomes(CODEC, record, seen)
                for row, name in enumerate(rows.event_ids):
                    self.kinds.setdefault(name, []).append(rows.kinds[row])
                    if rows.learnt[row]:
                        self.learnt[name] = (float(rows.codes[row]), float(rows.propensities[row]))


CODEC = OutcomeCodec(PIPELINE)


def run(world: str, models: Path) -> Run:
    pipeline = PIPELINE if WORLDS[world].tells else without_holdout(PIPELINE)
    found = Run(Town(WORLD, simulated_payments(WORLD), WORLDS[world]))
    settings = Settings(partitions=1, label_silence=timedelta(days=1))
    road = InProcess(pipeline, models, found.watch, settings=settings)
    road.mode = "champion"

    async def drive() -> None:
        await road.open()
        await road.run(found.town.sent(), 2 * 3_600_000_000)

    asyncio.run(drive())
    return found


def above_the_limit() -> list[str]:
    """Frauds that the rule decides on, in their order."""
    made = simulated_payments(WORLD)
    return [payment_id(number) for number in made.numbers[made.fraud & (made.amounts >= LIMIT)].tolist()]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run("told", tmp_path_factory.mktemp("models"))


def test_what_a_bank_says_that_it_blocked_teaches_nobody_and_the_held_out_stand_for_it(told: Run) -> None:
    blocked, passed = told.town.bank.blocked, told.town.bank.passed
    assert blocked | passed == set(above_the_limit()) and len(blocked) > 20 and len(passed) > 8
    assert not blocked & told.learnt.keys()
    assert {kind for name in blocked for kind in told.kinds.get(name, [])} == {"censored"}
    assert {told.learnt[name] for name in passed} == {(1.0, HOLDOUT)}
    assert {propensity for name, (_, propensity) in told.learnt.items() if name not in passed} == {1.0}


def test_what_it_keeps_to_itself_is_learnt_as_genuine_and_the_learner_loses_what_it_would_find(
    told: Run, tmp_path: Path
) -> None:
    untold = run("untold", tmp_path)
    wrong = [name for name in untold.town.bank.blocked if untold.learnt.get(name, (1.0, 1.0))[0] == 0.0]
    assert len(wrong) > 20
    newest = above_the_limit()[-10:]
    found, lost = (np.median([one.said[name] for name in newest]) for one in (told, untold))
    assert found > 1.4 * lost
