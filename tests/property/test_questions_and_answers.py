"""Both roads in one process: questions and answers come in River's order, and what is learnt is what bare River learns."""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from river import compose, linear_model, optim, preprocessing
from river.stream import simulate_qa

from driftwood import Entity, Label, Pipeline, river_model
from models.outcomes import LEARNT
from offline.in_process import InProcess
from offline.one_order import Sent, merged
from offline.topic_lists import ListedRecord
from offline.train import labelled_features
from streams.feed_notices import NOTICE_FRAME
from streams.headers import FRAME, header
from streams.outcomes import OutcomeCodec

START = 1_700_000_000
HORIZON = 20_000
LEARNER = "bare"


class Trip(msgspec.Struct):
    trip_id: str
    at: int
    km: float
    hour: float
    station: str


station = Entity("station")


def estimator() -> Any:
    return compose.Pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(optim.AdaGrad(0.1))
    )


def trips() -> Pipeline:
    return Pipeline(
        "trips",
        event=Trip,
        id="trip_id",
        time="at",
        time_unit="s",
        label=Label("long", horizon=f"{HORIZON}s", values=("minutes",)),
        features=[
            "km",
            "hour",
            station.count("1h"),
            station.rate("long", "1h"),
            station.mean("minutes", "12h"),
        ],
        online=[river_model(estimator(), name=LEARNER, scale=False)],
        fallback=0.3,
    )


@dataclass(frozen=True)
class Question:
    """An event, what became of it, and when that is known. Times in seconds."""

    number: int
    at: int
    delay: int
    km: float
    hour: float
    station: str
    long: bool

    @property
    def trip_id(self) -> str:
        return f"t{self.number:05d}"

    @property
    def known_at(self) -> int:
        return self.at + self.delay

    def event(self) -> dict[str, Any]:
        names = ("at", "km", "hour", "station")
        return {"trip_id": self.trip_id, **{name: getattr(self, name) for name in names}}

    def label(self) -> dict[str, Any]:
        minutes = self.km * (2.0 if self.long else 0.5)
        return {"event_id": self.trip_id, "long": self.long, "known_at": self.known_at, "minutes": minutes}


@st.composite
def questions(draw: st.DrawFn) -> list[Question]:
    """In order of time; many at the same moment, and delays that make answers overtake each other."""
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from([0, 0, 1, 60, 900]),
                st.one_of(st.sampled_from([0, 1, 60, 900]), st.integers(0, HORIZON)),
                st.floats(0, 50),
                st.floats(-3, 3),
                st.sampled_from(["a", "b"]),
                st.booleans(),
            ),
            min_size=1,
            max_size=40,
        )
    )
    times = accumulate(row[0] for row in rows)
    return [
        Question(number, START + at, *row[1:])
        for number, (at, row) in enumerate(zip(times, rows, strict=True))
    ]


@dataclass
class Told:
    """What came out, in order: ("asked", prediction) or ("answered", event id)."""

    pipeline: Pipeline
    order: list[tuple[str, Any]] = field(default_factory=list)

    def watch(self, topic: str, records: Sequence[ListedRecord]) -> None:
        """As the driver shows it."""
        assert topic != "dead-letters", records
        for record in records:
            if topic == "predictions":
                assert record.value is not None
                self.order.append(("asked", json.loads(record.value)))
            elif topic == "outcomes" and header(record, FRAME) != NOTICE_FRAME:
                matured = OutcomeCodec(self.pipeline).read(record)[1].matured
                assert set(matured.kinds) <= LEARNT
                self.order += [("answered", event_id) for event_id in matured.event_ids]

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [what for kind, what in self.order if kind == "asked"]

    def names(self) -> list[tuple[str, str]]:
        return [(kind, what["event_id"] if kind == "asked" else what) for kind, what in self.order]


def sent(asked: Sequence[Question]) -> list[Sent]:
    """Events and labels as producers send them."""
    answers = sorted(
        asked, key=lambda one: one.known_at
    )  # stable, so ties stay in the order of their questions
    events = [Sent(one.at * 1_000_000, "events", json.dumps(one.event()).encode()) for one in asked]
    labels = [
        Sent(one.known_at * 1_000_000, "labels", json.dumps(one.label()).encode(), one.trip_id.encode())
        for one in answers
    ]
    return list(merged(events, labels))


def driven(asked: Sequence[Question], span_us: int = 0) -> Told:
    """Everything through both roads."""
    pipeline = trips()
    told = Told(pipeline)

    async def drive(models: Path) -> None:
        road = InProcess(pipeline, models, told.watch)
        await road.open()
        await road.run(sent(asked), span_us)

    with tempfile.TemporaryDirectory() as models:
        asyncio.run(drive(Path(models)))
    return told


def in_rivers_order(asked: Sequence[Question]) -> list[tuple[str, Question]]:
    """By River. An answer that is known at t helps after t: there it is one that comes half a second later."""
    dataset: Any = ((one, one.long) for one in asked)
    moment: Any = attrgetter("at")
    session = simulate_qa(dataset, moment, lambda one, _: one.delay + 0.5, copy=False)
    told: list[Any] = [(what, answer) for _, what, answer in session]
    return [("asked" if answer is None else "answered", one) for one, answer in told]


def features(prediction: dict[str, Any]) -> dict[str, float]:
    """As River takes them: what is missing is left out."""
    return {name: value for name, value in prediction["features"].items() if value is not None}


@settings(max_examples=25, deadline=None)
@given(questions())
def test_questions_and_answers_come_in_the_order_of_rivers_simulate_qa(asked):
    assert driven(asked).names() == [(kind, one.trip_id) for kind, one in in_rivers_order(asked)]


@settings(max_examples=25, deadline=None)
@given(questions())
def test_online_scores_equal_those_of_the_bare_river_model_fed_in_that_order(asked):
    told = driven(asked)
    served = {one["event_id"]: one for one in told.asked}
    bare, learnt = estimator(), 0
    for kind, one in in_rivers_order(asked):
        prediction = served[one.trip_id]
        if kind == "answered":
            bare.learn_one(features(prediction), one.long)
            learnt += 1
        elif learnt:
            expected = bare.predict_proba_one(features(prediction))[True]
            assert prediction["parts"][LEARNER]["score"] == expected
        else:
            assert LEARNER not in prediction["parts"]


@settings(max_examples=15, deadline=None)
@given(questions(), st.sampled_from([1, 300, 3_600]))
def test_in_slices_answers_come_late_by_less_than_one_slice_and_never_early(asked, span):
    known = {one.trip_id: one.known_at for one in asked}
    asked_at = {one.trip_id: one.at for one in asked}
    answered: set[str] = set()
    for kind, trip_id in driven(asked, span * 1_000_000).names():
        if kind == "answered":
            answered.add(trip_id)
            continue
        at = asked_at[trip_id]
        assert all(known[other] < at for other in answered)
        assert answered >= {other for other, moment in known.items() if moment < at // span * span}


@settings(max_examples=10, deadline=None)
@given(questions())
def test_what_is_served_has_the_features_that_training_sees(asked):
    events = pd.DataFrame([one.event() for one in asked])
    labels = pd.DataFrame([one.label() for one in asked]).rename(columns={"event_id": "trip_id"})
    backfill = labelled_features(trips(), events, labels)[0]
    served = {one["event_id"]: one["features"] for one in driven(asked).asked}
    expected = backfill.matrix.values  # noqa: PD011  # no pandas
    for row, event_id in enumerate(backfill.event_ids.to_pylist()):
        found = [math.nan if value is None else value for value in served[event_id].values()]
        assert np.array_equal(found, expected[row], equal_nan=True)


def test_two_runs_are_equal_to_the_bit():
    source = np.random.default_rng(3)
    gaps, delays = source.integers(0, 900, 200).cumsum(), source.integers(0, HORIZON, 200)
    asked = [
        Question(n, START + int(at), int(delay), float(n % 17), float(n % 5), "ab"[n % 2], n % 3 == 0)
        for n, (at, delay) in enumerate(zip(gaps, delays, strict=True))
    ]
    assert driven(asked, 600_000_000).order == driven(asked, 600_000_000).order
