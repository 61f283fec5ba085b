"""A drift watch that is cut anywhere and restored tells the same alerts, byte for byte, as one that was never interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwood import Drift, Entity, Label, Pipeline, scaled_logistic
from models.drift.alert import Alert, encoded
from models.drift.columns import watched_columns
from models.drift.incidents import Incidents, Terms
from models.drift.label_reports import FeedState, LabelReport, LabelSlice
from models.drift.reference import Reference
from models.drift.signals import CLEARS, LEVELS, RAISES, Level, Signal
from models.drift.time_slice import Counting, TimeSlice, WatchedRows, empty_slice
from models.drift.watch import DriftWatch

HOUR = 3_600_000_000
BEGIN = int(datetime(2024, 4, 1, tzinfo=UTC).timestamp()) * 1_000_000


class Order(msgspec.Struct):
    order_id: str
    at: int
    card: str
    amount: float


def shop(**drift: Any) -> Pipeline:
    return Pipeline(
        "shop",
        event=Order,
        id="order_id",
        time="at",
        time_unit="s",
        features=["amount", Entity("card").count("1d")],
        label=Label("returned", horizon="14d"),
        online=[scaled_logistic()],
        drift=Drift(**drift),
    )


SHOP = shop(window="4h")
COLUMNS = watched_columns(SHOP)


# ---- incidents: any signals, cut anywhere

names = st.sampled_from(["amount", "country", "score", "volume"])
strengths = st.sampled_from([0.0, 0.5, CLEARS, 0.9, RAISES, 1.3, 2.0, 5.0])
signals = st.lists(
    st.builds(
        lambda level, subject, strength: Signal(level, subject, "ks", 0, strength, 1.0, strength),
        st.sampled_from(LEVELS),
        names,
        strengths,
    ),
    max_size=4,
)
steps = st.lists(st.tuples(st.sampled_from(["served", "labels"]), st.booleans(), signals), max_size=40)
TERMS = Terms("shop", 4 * HOUR, HOUR, 1.0, {"data": ["retrain-requested"], "concept": ["reset"]})


def heard(incidents: Incidents, hour: int, step: tuple[Any, bool, list[Signal]]) -> list[Alert]:
    clock, held_up, all_signals = step
    levels: tuple[Level, ...] = LEVELS[:3] if clock == "served" else LEVELS[3:]
    mine = [one for one in all_signals if one.level in levels]
    return incidents.hear(clock, hour * HOUR, mine, complete=clock == "served", held_up=held_up)


@given(steps, st.data())
def test_incidents_go_on_after_a_restart_as_if_there_had_been_none(steps, data):
    whole, cut = Incidents(TERMS), Incidents(TERMS)
    for hour, step in enumerate(steps):
        if data.draw(st.booleans()):
            state = cut.state()
            cut = Incidents(TERMS)
            cut.restore(state)
            assert cut.state() == state
        told = heard(whole, hour, step)
        assert [encoded(alert) for alert in heard(cut, hour, step)] == [encoded(alert) for alert in told]


@given(steps)
def test_every_alert_is_raised_first_once_and_resolved_last_once(steps):
    incidents, lives = Incidents(TERMS), dict[str, list[Alert]]()
    for hour, step in enumerate(steps):
        told = heard(incidents, hour, step)
        assert len({alert.alert for alert in told}) == len(told)
        for alert in told:
            lives.setdefault(alert.alert, []).append(alert)
    for records in lives.values():
        statuses = [record.status for record in records]
        assert statuses[0] == "raised" and statuses.count("raised") == 1
        assert "resolved" not in statuses[:-1]
        assert [record.sequence for record in records] == list(range(len(records)))
        assert all(record.severity == "critical" for record in records[_critical(records) :])
        triggered = [one for record in records for one in record.triggers]
        assert len(set(triggered)) == len(triggered)
    still = {name for name, records in lives.items() if records[-1].status != "resolved"}
    assert still == {incident.name for incident in incidents.open}


def _critical(records: Sequence[Alert]) -> int:
    return next((at for at, one in enumerate(records) if one.severity == "critical"), len(records))


# ---- the watch, with judges that say what the slices and reports hold


class SaysRows:
    """Says that the amount has moved where a slice has more than 10 rows; remembers how many it was given."""

    def __init__(self) -> None:
        self.slices = 0
        self.references: list[Reference | None] = []

    def judge(self, slice_: TimeSlice, dead: Mapping[str, int]) -> list[Signal]:
        self.slices += 1
        strength = slice_.rows / 10 + len(dead)
        return [Signal("data", "amount", f"n{self.slices // 20}", slice_.end_us, strength, 1.0, strength)]

    def with_reference(self, reference: Reference | None) -> None:
        self.references.append(reference)

    def state(self) -> bytes:
        return str(self.slices).encode()

    def restore(self, state: bytes) -> None:
        self.slices = int(state)


class SaysStalled:
    """Says that the score's loss has grown, whatever comes."""

    def judge(self, report: LabelReport) -> list[Signal]:
        at_us = report.end_us if isinstance(report, LabelSlice) else report.at_us
        return [Signal("concept", "score", "loss", at_us, 1.0, 1.0, 1.0)]

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        assert state == b""


def counted(hour: int, rows: int, version: str = "a", amount: float = 5.0) -> TimeSlice:
    """`rows` orders of an hour."""
    start_us = BEGIN + hour * HOUR
    if not rows:
        return empty_slice(COLUMNS, start_us, HOUR)
    random = np.random.default_rng([10_000 + hour, rows])
    counting = Counting(COLUMNS, start_us, HOUR)
    score = random.beta(2, 5, rows)
    values = {
        "amount": amount * random.lognormal(0, 0.5, rows),
        "card_count_1d": random.poisson(2, rows).astype(float),
        "score": score,
        "decision": (score > 0.5).astype(float),
    }
    numbers = np.column_stack([values[column.name] for column in COLUMNS if column.kind != "category"])
    texts = [pa.array([str(card) for card in random.integers(0, 50, rows)])]
    counting.add(WatchedRows(np.full(rows, start_us), numbers, texts, {}, version))
    return counting.closed()


def report(hour: int, stalled: bool) -> FeedState:
    return FeedState("0", stalled, hour, hour, BEGIN + hour * HOUR)


Given = tuple[TimeSlice, Mapping[str, int]] | FeedState


def fed(watch: DriftWatch, one: Given) -> list[bytes]:
    told = watch.labels(one) if isinstance(one, FeedState) else watch.served(*one)
    return [encoded(alert) for alert in told]


@st.composite
def stories(draw: st.DrawFn) -> list[Given]:
    found: list[Given] = []
    for hour in range(draw(st.integers(1, 25))):
        rows, version = draw(st.sampled_from([0, 5, 8, 15, 40])), draw(st.sampled_from("aab"))
        dead = draw(st.sampled_from([{}, {"not_json": 3}]))
        found.append((counted(hour, rows, version), dead))
        if draw(st.integers(0, 3)) == 0:
            found.append(report(hour, draw(st.booleans())))
    return found


@settings(max_examples=40)
@given(stories(), st.data())
def test_a_watch_goes_on_after_a_restart_as_if_there_had_been_none(story, data):
    def new() -> DriftWatch:
        return DriftWatch(SHOP, COLUMNS, lambda version: None, slices=SaysRows(), labels=SaysStalled())

    whole, cut = new(), new()
    for one in story:
        if data.draw(st.booleans()):
            cut = new().restore(cut.state())
        assert fed(cut, one) == fed(whole, one)
    assert cut.state() == whole.state()


# ---- and with the real ones


def test_the_whole_watch_with_its_real_judges_goes_on_after_any_restart():
    trained = Reference.of(COLUMNS, [counted(hour, 60) for hour in range(-24 * 42, 0)], SHOP.drift)
    story: list[Given] = [
        (counted(hour, 60, amount=15.0 if 40 <= hour < 70 else 5.0), {"not_json": 60} if hour == 20 else {})
        for hour in range(120)
    ]
    story[30:30] = [report(30, stalled=True)]
    story[37:37] = [report(36, stalled=False)]

    def new() -> DriftWatch:
        return DriftWatch(SHOP, COLUMNS, {"a": trained}.get)

    whole, cut = new(), new()
    told: list[bytes] = []
    for place, one in enumerate(story):
        if place in (21, 33, 60):
            cut = new().restore(cut.state())
        alerts = fed(whole, one)
        assert fed(cut, one) == alerts
        told += alerts
    assert cut.state() == whole.state()
    lives = [msgspec.json.decode(one) for one in told]
    raised = [one["runbook"] for one in lives if one["status"] == "raised"]
    assert raised == ["drift-dead-letters", "drift-labels", "drift-data"]
    assert sum(one["status"] == "resolved" for one in lives) >= 2
    assert any("refused as not_json" in sentence for one in lives for sentence in one["why"])


# ---- champions, and pipelines that change


def test_another_champion_is_compared_with_its_own_reference_and_one_without_keeps_the_last():
    known = {name: Reference.of(COLUMNS, [counted(0, 60)], SHOP.drift) for name in "ab"}
    judge = SaysRows()
    watch = DriftWatch(SHOP, COLUMNS, known.get, slices=judge, labels=SaysStalled())
    for hour, version in enumerate(["a", "a", "fallback", "b", "b"]):
        watch.served(counted(hour, 5, version), {})
    assert [one is known[name] for one, name in zip(judge.references, "ab", strict=True)] == [True, True]
    again = SaysRows()
    DriftWatch(SHOP, COLUMNS, known.get, slices=again, labels=SaysStalled()).restore(watch.state())
    assert again.references == [known["b"]]


def test_a_trailing_reference_is_not_replaced_by_a_champions():
    judge = SaysRows()
    trailing = shop(window="4h", reference="28d")
    watch = DriftWatch(trailing, COLUMNS, lambda version: 1 / 0, slices=judge, labels=SaysStalled())  # type: ignore[arg-type,return-value]
    watch.served(counted(0, 5), {})
    assert judge.references == []


def test_a_pipeline_with_one_feature_more_takes_over_what_is_open_and_raises_nothing_again():
    watch = DriftWatch(SHOP, COLUMNS, lambda version: None, slices=SaysRows(), labels=SaysStalled())
    [raised] = watch.served(counted(0, 40), {})
    columns = (*COLUMNS, replace(COLUMNS[0], name="more"))
    later = DriftWatch(SHOP, columns, lambda version: None, slices=SaysRows(), labels=SaysStalled())
    later.restore(watch.state())
    assert later.open_alerts == 1
    assert later.served(counted(1, 40), {}) == []  # a slice of before the change
    told = [later.served(empty_slice(columns, BEGIN + hour * HOUR, HOUR), {}) for hour in range(2, 4)]
    assert told == [[], []] and later.open_alerts == 1
    assert raised.status == "raised"


def test_where_nothing_comes_an_alert_stays_as_it_is():
    watch = DriftWatch(SHOP, COLUMNS, lambda version: None, slices=SaysRows(), labels=SaysStalled())
    statuses = [
        (hour, alert.status)
        for hour in range(40)
        for alert in watch.served(counted(hour, 15 if hour == 0 else 0 if hour < 30 else 1), {})
    ]
    assert statuses == [(0, "raised"), (33, "resolved")]


def test_while_a_partition_holds_labels_up_no_concept_alert_is_raised():
    watch = DriftWatch(SHOP, COLUMNS, lambda version: None, slices=SaysRows(), labels=SaysStalled())
    assert watch.labels(report(0, stalled=True)) == []
    assert [alert.levels for alert in watch.labels(report(1, stalled=False))] == [("concept",)]
