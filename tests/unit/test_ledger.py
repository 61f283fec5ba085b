"""The ledger and its rules, one at a time: what an outage must not teach, what actions censor, what is kept and for how long."""

from __future__ import annotations

import asyncio
import json
import math
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

from driftwood import scaled_logistic
from features.errors import PositionError
from features.memory_store import MemoryStore
from features.store import Refused
from models.matured import Matured
from models.pipeline import Pipeline
from streams import flags, settling
from streams.feeds import Feeds
from streams.figures import learner_figures
from streams.headers import FRAME, UPSTREAM
from streams.join_frames import ACTIONS, LABELS, Idle
from streams.join_stage import MOST_RECORDS, JoinMemory
from streams.learn_road import JoinStage
from streams.ledger import ROW, SETTLED, Entry, Horizons, Ledger, digest_of
from streams.outcomes import OutcomeCodec, take_outcomes
from streams.taken import OtherVersionError
from tests import join_world
from tests.in_process import LogRecord
from tests.join_world import (
    HORIZON,
    MINUTE,
    START_US,
    Event,
    JoinTopic,
    Report,
    log_of,
    notices_in,
    outcomes_in,
    partition_of_join,
    returns,
    stage_of,
)
from tests.shop_events import customer, orders

PIPELINE = returns()
ONE_HOUR = Horizons(HORIZON, HORIZON, 1_000)
DAY = 24 * 60 * MINUTE


def topic_of(pipeline: Pipeline = PIPELINE) -> JoinTopic:
    return JoinTopic(pipeline, log_of(pipeline))


def run(topic: JoinTopic, horizons: Horizons = ONE_HOUR, store: MemoryStore | None = None) -> JoinStage:
    """All records as one batch."""
    return run_into(topic, horizons, store)[0]


def run_into(
    topic: JoinTopic, horizons: Horizons = ONE_HOUR, store: MemoryStore | None = None
) -> tuple[JoinStage, JoinMemory]:
    """The same, with what is in memory then."""
    stage = stage_of(topic.pipeline, store or MemoryStore(), topic.log, horizons)

    async def work() -> JoinMemory:
        memory = await stage.open(partition_of_join(topic.pipeline))
        while memory.applied + 1 < len(topic.records):
            assert not isinstance(await stage.process(memory, topic.records[memory.applied + 1 :]), Refused)
        return memory

    return stage, asyncio.run(work())


def kinds(topic: JoinTopic, horizons: Horizons = ONE_HOUR) -> list[tuple[str, str]]:
    run(topic, horizons)
    return [(outcome.kind, outcome.event_id) for outcome in outcomes_in(topic.pipeline, topic.log)]


def matured(topic: JoinTopic) -> Matured:
    """The outcomes of a topic that was run, which fit into one record."""
    [record] = topic.log.records["orders.outcomes", 0]
    return take_outcomes(OutcomeCodec(topic.pipeline), record, {})[0]


def at(minutes: float) -> int:
    return START_US + int(minutes * MINUTE)


def alive(topic: JoinTopic, minutes: float, wall_ms: int = 1_000) -> None:
    """Somebody else's label and event show that it is so late, and that both feeds are there."""
    for feed, upstream in (("served", "hop/0"), (LABELS, "labels/0"), (ACTIONS, "actions/0")):
        if upstream in topic.counts:
            topic.idle(upstream, Idle(feed, -(2**62), wall_ms, idle=True))
    name = f"other{len(topic.records)}"
    topic.served("hop/9", [Event(name, at(minutes))])
    topic.reports(LABELS, "labels/9", [Report(name, at(minutes), math.nan)], wall_ms)


def test_a_backlog_of_idle_frames_is_cut_as_each_may_settle_a_thousand_rows() -> None:
    topic = topic_of()
    for second in range(3 * MOST_RECORDS):
        topic.idle("hop/0", Idle("served", -(2**62), second * 1_000, idle=True))
    stage = stage_of(topic.pipeline, MemoryStore(), topic.log, ONE_HOUR)

    async def first_batch() -> int | Refused:
        return await stage.process(await stage.open(partition_of_join(topic.pipeline)), topic.records)

    assert asyncio.run(first_batch()) == MOST_RECORDS - 1


# ---- outcomes


def test_a_label_finds_what_was_served_features_scores_threshold_and_all() -> None:
    topic = topic_of()
    topic.served("hop/0", [Event("a", at(0), amount=700.0), Event("b", at(1), amount=5.0)])
    topic.reports(LABELS, "labels/0", [Report("b", at(5), 1.0, minutes=4.0)], wall_ms=1)
    run(topic)
    found = matured(topic)
    assert (found.event_ids, found.kinds, found.codes.tolist()) == (["b"], ["matched"], [1.0])
    assert (found.times_us.tolist(), found.known_us.tolist()) == ([at(1)], [at(5)])
    assert (found.score.tolist(), found.parts["lightgbm"].tolist()) == ([0.005], [0.005 + 0.1])
    assert (found.thresholds.tolist(), found.propensities.tolist()) == ([0.5], [1.0])
    assert found.matrix.number("amount").tolist() == [5.0]
    assert found.matrix.text("country").to_pylist() == ["DE"]


def test_every_outcome_names_the_champion_that_had_answered_its_event() -> None:
    topic = topic_of()
    topic.served("hop/0", [Event("a", at(0)), Event("b", at(1))])
    topic.served("hop/0", [Event("c", at(2))])
    reports = [Report("c", at(5)), Report("b", at(6)), Report("z", at(7)), Report("b", at(8), 0.0)]
    topic.reports(LABELS, "labels/0", reports, wall_ms=1)
    run(topic)
    found = matured(topic)
    assert found.event_ids == ["c", "b", "z", "b"]
    assert found.champions == ["champion-2", "champion-0", "", "champion-0"]
    assert found.select(found.codes == 1.0).champions == ["champion-2", "champion-0"]


def test_a_label_that_nobody_awaited_is_early_and_then_unknown() -> None:
    topic = topic_of()
    topic.reports(LABELS, "labels/0", [Report("nobody", at(0)), Report("nobody", at(0))], wall_ms=1)
    alive(topic, 70)
    assert kinds(topic)[:2] == [("early", "nobody"), ("duplicate", "nobody")]
    assert ("unknown", "nobody") in kinds(topic)


def test_a_correction_names_the_code_that_it_takes_back_and_a_null_takes_it_back_alone() -> None:
    topic = topic_of()
    topic.served("hop/0", [Event("a", at(0))])
    codes = [1.0, 0.0, 0.0, math.nan, 1.0]
    reports = [Report("a", at(5 + number), code) for number, code in enumerate(codes)]
    topic.reports(LABELS, "labels/0", reports, wall_ms=1)
    run(topic)
    found = matured(topic)
    assert found.kinds == ["matched", "corrected", "duplicate", "corrected", "matched"]
    np.testing.assert_equal(found.codes, [1.0, 0.0, math.nan, math.nan, 1.0])
    np.testing.assert_equal(found.replaced, [math.nan, 1.0, math.nan, 0.0, math.nan])


def test_what_was_blocked_is_no_negative_but_a_label_that_comes_is_learnt() -> None:
    topic = topic_of()
    topic.served("hop/0", [Event(name, at(0)) for name in ("a", "b", "c", "d")])
    blocked = [Report(name, at(1), action="blocked") for name in ("a", "b", "d")]
    topic.reports(ACTIONS, "actions/0", [*blocked, Report("d", at(2), action="passed")], wall_ms=1)
    topic.reports(LABELS, "labels/0", [Report("b", at(30))], wall_ms=1)
    alive(topic, 70)
    topic.reports(ACTIONS, "actions/0", [Report("nobody", at(70), action="passed")], wall_ms=1)
    found = dict(reversed([(event_id, kind) for kind, event_id in kinds(topic)]))
    assert {name: found[name] for name in "abcd"} == {
        "a": "censored",
        "b": "matched",
        "c": "silent",
        "d": "silent",
    }


def test_an_actions_feed_that_lags_makes_no_negative_of_what_was_blocked() -> None:
    topic = topic_of()
    topic.served("hop/0", [Event("a", at(0))])
    topic.idle("actions/0", Idle(ACTIONS, at(0), wall_ms=1, idle=False))
    alive(topic, 70)
    topic.reports(ACTIONS, "actions/0", [Report("a", at(1), action="blocked")], wall_ms=1)
    topic.idle("actions/0", Idle(ACTIONS, at(1), wall_ms=1, idle=True))
    assert ("censored", "a") in kinds(topic)


def test_a_held_out_event_that_would_have_been_blocked_counts_for_all_of_its_kind() -> None:
    topic = topic_of(returns(holdout=0.05))
    events = [
        Event("held", at(0), amount=700.0, flags=flags.HOLDOUT),
        Event("held but below", at(0), amount=5.0, flags=flags.HOLDOUT),
        Event("other", at(0), amount=700.0),
    ]
    topic.served("hop/0", events)
    topic.reports(LABELS, "labels/0", [Report(event.event_id, at(1)) for event in events], wall_ms=1)
    run(topic)
    assert matured(topic).propensities.tolist() == [0.05, 1.0, 1.0]


def test_a_label_known_before_its_event_is_a_dead_letter_with_its_place_in_labels() -> None:
    topic = topic_of()
    topic.served("hop/0", [Event("a", at(10))])
    topic.reports(LABELS, "orders.labels@memory/3", [Report("a", at(9), 1.0, 4.0)], wall_ms=1)
    assert kinds(topic) == []
    [dead] = topic.log.topic("orders.dead-letters")
    assert [dead.header(name) for name in ("topic", "partition", "offset", "reason", "path")] == [
        b"orders.labels",
        b"3",
        b"0",
        b"known_before_event",
        b"$.known_at",
    ]
    assert json.loads(dead.value or b"") == {
        "event_id": "a",
        "returned": 1.0,
        "known_at": "2024-05-01T00:09:00.000000Z",
        "minutes": 4.0,
    }


# ---- silence


def hourly(topic: JoinTopic, hour: int, *, labels: bool) -> None:
    """An hour of events, of which every third comes back; its labels come an hour and a half later, all of them."""
    wall_ms = 1_000 + hour * 3_600_000
    names = [f"h{hour}-{number}" for number in range(6)]
    topic.served("hop/0", [Event(name, at(60 * hour)) for name in names])
    if labels:
        hourly_labels(topic, hour, wall_ms)
    topic.idle("labels/0", Idle(LABELS, -(2**62), wall_ms, idle=True))


def hourly_labels(topic: JoinTopic, hour: int, wall_ms: int) -> None:
    known_us = at(60 * (hour + 1.5))
    topic.reports(LABELS, "labels/0", [Report(f"h{hour}-{number}", known_us) for number in (0, 3)], wall_ms)


@pytest.mark.parametrize("silence_ms", [60_000, 10**12])
def test_an_outage_of_seven_days_teaches_no_false_negative(
    monkeypatch: pytest.MonkeyPatch, silence_ms: int
) -> None:
    """Positives alone are told; all others are negatives by time-out, two hours after their event.

    Also where nobody notices that the feed is silent.
    """
    monkeypatch.setattr(join_world, "SILENCE_MS", silence_ms)
    topic = topic_of(returns(horizon="2h"))
    horizons = Horizons(2 * HORIZON, 2 * HORIZON, 100_000)
    for hour in range(24):
        hourly(topic, hour, labels=True)
    outage = range(24, 24 + 7 * 24)
    for hour in outage:
        hourly(topic, hour, labels=False)
    in_outage = kinds(topic, horizons)
    wall_ms = 1_000 + outage.stop * 3_600_000
    for hour in outage:  # what was held back comes in its order, in a few minutes
        hourly_labels(topic, hour, wall_ms + hour)
    after = range(outage.stop, outage.stop + 20)  # a tenth of the outage, and what is held up comes next
    for hour in after:
        hourly(topic, hour, labels=True)
        topic.idle("labels/0", Idle(LABELS, -(2**62), 20_000 + 1_000 + hour * 3_600_000, idle=True))
    topic.log.records["orders.outcomes", 0].clear()
    found = kinds(topic, horizons)
    counted = Counter(kind for kind, _ in found)
    positives = {name for name in (name for _, name in found) if name.endswith(("-0", "-3"))}
    assert not {name for kind, name in found if kind == "silent"} & positives
    assert not {name for kind, name in in_outage if kind == "silent"} & positives
    assert counted["matched"] == 2 * after.stop
    assert counted["late"] == counted["unknown"] == counted["expired"] == 0
    assert counted["silent"] >= 4 * (outage.stop - 1)


@pytest.mark.parametrize("at_once", [1, 100])
def test_a_topic_that_was_made_anew_holds_nobody_back_from_its_first_record_on_however_batches_are_cut(
    at_once: int,
) -> None:
    topic = topic_of()
    topic.served("hop/0", [Event("a", at(0))])
    topic.reports(LABELS, "labels@cluster/old/0", [Report("x", at(1), math.nan)], wall_ms=1_000)
    alive(topic, 200)
    first_anew = len(topic.records) + 1
    topic.idle("hop/0", Idle("served", -(2**62), 1_000, idle=True))
    topic.reports(LABELS, "labels@cluster/new/0", [Report("y", at(200), math.nan)], wall_ms=1_000)
    stage = stage_of(topic.pipeline, MemoryStore(), topic.log, ONE_HOUR)

    async def work() -> None:
        memory = await stage.open(partition_of_join(topic.pipeline))
        while records := topic.records[memory.applied + 1 :][:at_once]:
            assert not isinstance(await stage.process(memory, records), Refused)

    asyncio.run(work())
    silent = [one for one in outcomes_in(topic.pipeline, topic.log) if one.kind == "silent"]
    assert [(one.event_id, one.offset) for one in silent] == [("a", first_anew)]


def gauged(*memories: JoinMemory) -> list[tuple[tuple[str, ...], float]]:
    gauges = {now.name: now for now in learner_figures(lambda: memories, lambda: 0.0)}
    return list(gauges["driftwood_labels_stalled"].read())


def test_while_the_label_feed_is_silent_nothing_times_out_and_the_gauge_says_so() -> None:
    topic = topic_of()
    topic.served("hop/0", [Event("a", at(0))])
    alive(topic, 0)
    topic.idle("labels/9", Idle(LABELS, -(2**62), wall_ms=1_000 + 60_001, idle=True))
    topic.served("hop/9", [Event("b", at(200))])
    topic.reports(
        LABELS, "labels/9", [Report("b", at(200), math.nan)], wall_ms=61_002
    )  # back, not settled yet
    _, memory = run_into(topic)
    found = {(outcome.kind, outcome.event_id) for outcome in outcomes_in(PIPELINE, topic.log)}
    assert ("silent", "a") not in found
    assert gauged(memory) == [(("0",), 1.0)]
    assert gauged() == []  # the partition is another process's by now, which says so for it
    topic.idle("labels/9", Idle(LABELS, at(200), wall_ms=71_100, idle=True, last_ms=61_002))
    topic.log.records["orders.outcomes", 0].clear()
    assert ("silent", "a") in kinds(topic)


def test_the_learner_is_told_of_a_stall_and_of_its_end_only_when_what_was_held_up_is_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settling, "PASS_ROWS", 2)
    topic = topic_of()
    topic.served("hop/0", [Event(f"e{number}", at(number)) for number in range(5)])
    alive(topic, 0)
    topic.idle("labels/9", Idle(LABELS, -(2**62), wall_ms=1_000 + 60_001, idle=True))
    stalled_at = len(topic.records) - 1
    topic.served("hop/9", [Event("b", at(200))])
    topic.reports(LABELS, "labels/9", [Report("b", at(200))], wall_ms=61_002)
    for wall_ms in (71_100, 71_200, 71_300, 71_400):
        topic.idle("labels/9", Idle(LABELS, at(200), wall_ms=wall_ms, idle=True, last_ms=61_002))
    run(topic)
    begun, ended = notices_in(PIPELINE, topic.log)
    assert begun == (True, 1_000, stalled_at, 0)
    silent = [one for one in outcomes_in(PIPELINE, topic.log) if one.kind == "silent"]
    assert [one.event_id for one in silent] == [f"e{number}" for number in range(5)]
    # Six fall due with the event that has a null label: three records have two, and the one after them finds none.
    assert ended == (False, 61_002, silent[-1].offset + 1, 0)


def test_until_every_expected_feed_was_heard_of_nothing_times_out() -> None:
    topic = topic_of()
    topic.served("hop/0", [Event("a", at(0))])
    alive(topic, 200)

    def found() -> set[str]:
        topic.log.records["orders.outcomes", 0].clear()
        stage = stage_of(
            PIPELINE, MemoryStore(), topic.log, ONE_HOUR, expected=frozenset({"labels/0", "labels/9"})
        )

        async def work() -> None:
            memory = await stage.open(partition_of_join(PIPELINE))
            await stage.process(memory, topic.records)

        asyncio.run(work())
        return {outcome.kind for outcome in outcomes_in(PIPELINE, topic.log)}

    assert "silent" not in found()
    topic.idle("labels/0", Idle(LABELS, -(2**62), wall_ms=1_001, idle=True))
    assert "silent" in found()


# ---- what is kept


def test_a_row_takes_the_memory_that_is_stated_within_a_fifth() -> None:
    for kind, served in ((ROW, bytes(400)), (SETTLED, b"")):
        tracemalloc.start()
        feeds = Feeds(silence_ms=1)
        ledger = Ledger(0, Horizons(30 * DAY, 7 * DAY, 10**9))
        for number in range(30_000):
            entry = Entry(kind, ledger.bucket(number * MINUTE), number * MINUTE, number, 0, served=served)
            ledger.put(digest_of(f"e{number}"), entry)
            ledger.changes(feeds)  # as a commit does
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.8 < taken / ledger.nbytes < 1.2


def test_of_more_rows_than_may_be_the_oldest_give_way_and_the_bound_holds() -> None:
    topic = topic_of()
    for number in range(50):
        topic.served("hop/0", [Event(f"e{number}", at(number / 100))])
    stage = stage_of(PIPELINE, MemoryStore(), topic.log, Horizons(HORIZON, HORIZON, 4))

    async def work() -> Any:
        memory = await stage.open(partition_of_join(PIPELINE))
        while memory.applied + 1 < len(topic.records):
            await stage.process(memory, topic.records)
        return memory.state

    ledger = asyncio.run(work())
    assert (ledger.hot, ledger.entities) == (4, 32)
    assert ledger.evictions == (50 - 4) + (50 - 32)
    assert [outcome.kind for outcome in outcomes_in(PIPELINE, topic.log)] == ["expired"] * 18


def test_a_row_that_is_too_long_for_the_store_shrinks_at_once() -> None:
    topic = topic_of()
    topic.served("hop/0", [Event("a", at(0))])
    topic.reports(LABELS, "labels/0", [Report("a", at(1))], wall_ms=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.ledger.MOST_PAYLOAD_BYTES", 100)
        assert kinds(topic) == [("expired", "a")]


def test_state_that_was_built_from_another_topic_is_refused() -> None:
    topic, store = topic_of(), MemoryStore()
    topic.served("hop/0", [Event("a", at(0))])
    stage = run(topic, store=store)
    partition = partition_of_join(PIPELINE)
    other = type(partition)(partition.pipeline, partition.topic, 0, "another")
    with pytest.raises(PositionError, match="built from the topic memory, this broker has another"):
        asyncio.run(stage.open(other))


def test_junk_is_a_dead_letter_and_frames_of_another_version_stop_the_stage() -> None:
    topic = topic_of()
    topic.log.append(topic.name, 0, None, b"junk", [])
    topic.log.append(topic.name, 0, None, b"junk", [(UPSTREAM, b"labels/0"), (FRAME, b"idle-1")])
    topic.served("hop/0", [Event("a", at(0))])
    run(topic)
    assert [dead.header("reason") for dead in topic.log.topic("orders.dead-letters")] == [b"not_a_frame"] * 2
    topic.log.append(topic.name, 0, None, b"", [(UPSTREAM, b"hop/0"), (FRAME, b"served-other")])
    with pytest.raises(OtherVersionError, match="served-other"):
        run(topic)


def test_a_batch_of_an_owner_that_was_replaced_is_refused() -> None:
    topic, store = topic_of(), MemoryStore()
    topic.served("hop/0", [Event("a", at(0))])
    stage = stage_of(PIPELINE, store, topic.log, ONE_HOUR)

    async def work() -> Any:
        memory = await stage.open(partition_of_join(PIPELINE))
        await stage.open(partition_of_join(PIPELINE))
        return await stage.process(memory, topic.records)

    assert isinstance(asyncio.run(work()), Refused)
    assert topic.log.records["orders.outcomes", 0] == []


def test_outcomes_that_are_no_outcomes_are_refused_with_words() -> None:
    codec = OutcomeCodec(PIPELINE)
    with pytest.raises(ValueError, match="headers"):
        codec.read(LogRecord(3, 0, None, b"junk"))
    with pytest.raises(ValueError, match=r"."):
        codec.read(LogRecord(3, 0, None, b"junk", [(UPSTREAM, b"x"), (FRAME, codec.version)]))


def test_what_was_served_of_other_features_is_never_learnt() -> None:
    """A label comes when the pipeline's features have changed: their numbers would be taken for these."""
    old = orders(["amount", customer.count("1h")], label=PIPELINE.label, online=[scaled_logistic()])
    new = orders([customer.count("1h"), "amount"], label=PIPELINE.label, online=[scaled_logistic()])
    store, before = MemoryStore(), topic_of(old)
    before.served("hop/0", [Event("a", at(0)), Event("b", at(1))])
    run(before, store=store)
    after = JoinTopic(new, before.log)
    after.reports(LABELS, "labels/0", [Report("a", at(5), 1.0)], wall_ms=1)
    run(after, store=store)
    assert [(one.kind, one.event_id) for one in outcomes_in(new, after.log)] == [("expired", "a")]


def test_a_label_of_unchanged_features_is_matched_by_the_next_stage_over_the_same_store() -> None:
    store, topic = MemoryStore(), topic_of()
    topic.served("hop/0", [Event("a", at(0))])
    run(topic, store=store)
    topic.reports(LABELS, "labels/0", [Report("a", at(5), 1.0)], wall_ms=1)
    run(topic, store=store)
    assert [(one.kind, one.event_id) for one in outcomes_in(PIPELINE, topic.log)] == [("matched", "a")]
