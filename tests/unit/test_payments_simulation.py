"""The simulated payments: equal seeds give equal bytes, each scenario and each switch does what it says and no more.

Expectations are worked out payment by payment, from the columns, not with the simulation's own arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from driftwood import load_pipeline
from examples.payments import data, demo
from examples.payments.__main__ import OPTIONS, main
from examples.payments.feed import labels_of
from examples.payments.frauds import bad_terminals, simulated_payments
from examples.payments.records import (
    BAD_EVENTS,
    BAD_LABELS,
    Record,
    action_records,
    event_records,
    feed,
    label_records,
)
from examples.payments.simulation import DAY_US, LIMIT, Payments, Scenario, moment_us, start_us
from examples.payments.switches import Switches
from features.decode import Decoder

SMALL = Switches(days=45, customers=500, terminals=1_000)
HOUR_US = DAY_US // 24


@pytest.fixture(scope="module")
def full() -> Payments:
    return simulated_payments(Switches())


@pytest.fixture(scope="module")
def small() -> Payments:
    return simulated_payments(SMALL)


def digest(records: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(map(repr, records)).encode()).hexdigest()


def same(one: Payments, other: Payments) -> bool:
    return all(np.array_equal(vars(one)[name], vars(other)[name]) for name in vars(one))


def values(records: Iterable[Record]) -> list[dict[str, object]]:
    return [json.loads(record.value) for record in records]


# ---- the world


def test_equal_seeds_give_equal_bytes_and_other_seeds_others():
    everything = replace(
        SMALL, days=20, duplicates=0.05, late=0.05, poison=0.02, blocked=0.3, reviewed=0.5, corrected=0.02,
        genuine_reported=0.9, labels_flipped=(9, 11), label_outage=(12, 14), new_fraud_from=5, amounts_moved_from=8,
        terminal_waves=(3, 10),
    )  # fmt: skip
    first = digest(feed(everything))
    assert digest(feed(everything)) == first
    assert digest(feed(replace(everything, seed=2))) != first


def test_the_bytes_of_a_seed_stay_the_same_from_release_to_release():
    assert digest(feed(Switches(days=10, customers=20, terminals=40)))[:16] == "f2611bf4a91c4832"


def test_three_months_are_some_900_000_payments_and_0_8_percent_fraud(full):
    assert 850_000 < len(full) < 900_000
    assert 0.007 < full.fraud.mean() < 0.009


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_the_share_of_fraud_is_alike_for_other_seeds(seed):
    assert 0.0065 < simulated_payments(Switches(seed=seed)).fraud.mean() < 0.0095


def test_payments_are_in_the_order_of_their_times_within_the_days(full):
    assert (np.diff(full.times_us) >= 0).all()
    assert full.times_us[0] >= start_us(Switches()) and full.times_us[-1] < moment_us(Switches(), 91)
    assert full.numbers.tolist() == list(range(len(full)))


def test_a_customer_pays_around_a_usual_amount_and_at_terminals_near_home(small):
    genuine = small.taken(~small.fraud)
    by_customer = [np.flatnonzero(genuine.customers == customer) for customer in range(100)]
    busy = [rows for rows in by_customer if len(rows) >= 60]
    usual = [genuine.amounts[rows].mean() for rows in busy]
    assert 4 < min(usual) < 15 and 85 < max(usual) < 110
    spread = [genuine.amounts[rows].std() / genuine.amounts[rows].mean() for rows in busy]
    assert 0.4 < np.mean(spread) < 0.6
    assert 60 < max(len(set(genuine.terminals[rows])) for rows in busy) <= 75


# ---- the scenarios


def test_only_fraud_is_above_the_limit_and_a_large_amount_always_is(full):
    assert full.amounts[~full.fraud].max() < LIMIT
    large = full.amounts[full.scenarios == Scenario.LARGE_AMOUNT]
    assert len(large) > 300 and large.min() >= LIMIT and large.max() <= 2 * LIMIT


def test_all_payments_at_a_bad_terminal_are_fraud_for_28_days_and_no_others_are_for_this_reason(small):
    bad = bad_terminals(SMALL)
    days = (small.times_us - start_us(SMALL)) // DAY_US
    for terminal, day, fraud, scenario in zip(
        small.terminals, days, small.fraud, small.scenarios, strict=True
    ):
        assert fraud or not bad[terminal, day]
        assert bad[terminal, day] or scenario != Scenario.BAD_TERMINAL
    lengths = [length for row in bad for length, inside in _runs(row) if inside]
    assert lengths and 28 in lengths


def test_a_third_of_a_stolen_cards_payments_are_five_times_as_high_for_14_days(small):
    stolen = np.flatnonzero(small.scenarios == Scenario.STOLEN_CARD)
    by_customer: dict[int, list[int]] = defaultdict(list)
    for row in stolen:
        by_customer[int(small.customers[row])].append(int(small.times_us[row]))
    assert max((max(times) - min(times)) / DAY_US for times in by_customer.values()) < 2 * 14
    genuine = small.taken(~small.fraud)
    ratios = []
    inside = []
    for customer, times in by_customer.items():
        usual = genuine.amounts[genuine.customers == customer].mean()
        ratios += (small.amounts[stolen[small.customers[stolen] == customer]] / usual).tolist()
        between = (small.times_us >= min(times)) & (small.times_us <= max(times))
        inside += small.fraud[between & (small.customers == customer)].tolist()
    assert np.mean(ratios) == pytest.approx(5.0, rel=0.15)
    assert 0.25 < np.mean(inside) < 0.6  # from the first fraud to the last: a little more than a third


def _runs(flags: np.ndarray) -> list[tuple[int, bool]]:
    """(length, value) of each run of equal flags."""
    edges = np.flatnonzero(np.diff(flags)) + 1
    return [(len(part), bool(part[0])) for part in np.split(flags, edges)]


# ---- drifts: nothing changes before their time


def test_a_new_fraud_adds_bursts_of_small_payments_at_night_and_leaves_all_others_as_they_were(small):
    switches = replace(SMALL, new_fraud_from=20)
    made = simulated_payments(switches)
    tests = made.taken(made.scenarios == Scenario.CARD_TEST)
    assert same(made.taken(made.scenarios != Scenario.CARD_TEST), small)
    assert len(tests) > 100 and tests.times_us.min() >= moment_us(switches, 20)
    assert tests.amounts.max() <= 5.0 and set((tests.times_us // HOUR_US % 24).tolist()) <= {1, 2, 3, 4}
    bursts = Counter(zip(tests.customers.tolist(), (tests.times_us // DAY_US).tolist(), strict=True))
    assert set(bursts.values()) == {8}
    for customer, day in list(bursts)[:20]:
        times = tests.times_us[(tests.customers == customer) & (tests.times_us // DAY_US == day)]
        assert times.max() - times.min() < HOUR_US
    assert len(set(made.numbers.tolist())) == len(made) and (np.diff(made.times_us) >= 0).all()


def test_moved_amounts_are_so_many_times_as_high_from_that_moment_on(small):
    made = simulated_payments(replace(SMALL, amounts_moved_from=20.5, amounts_moved_by=1.6))
    before = made.times_us < moment_us(SMALL, 20.5)
    assert same(made.taken(before), small.taken(before)) and not before.all()
    np.testing.assert_allclose(made.amounts[~before], small.amounts[~before] * 1.6, atol=0.0051)
    assert np.array_equal(made.scenarios, small.scenarios)


def test_a_wave_compromises_its_share_of_the_terminals_at_once_for_28_days(small):
    switches = replace(SMALL, terminal_waves=(10,), wave_share=0.2)
    usual, hit = bad_terminals(SMALL), bad_terminals(switches)
    assert np.array_equal(usual[:, :10], hit[:, :10]) and np.array_equal(usual[:, 38:], hit[:, 38:])
    added = hit & ~usual
    assert 0.15 < added[:, 10].mean() < 0.25
    assert all(hit[terminal, 10:38].all() for terminal in np.flatnonzero(added[:, 10]))
    made = simulated_payments(switches)
    changed = np.flatnonzero(made.scenarios != small.scenarios)
    days = (made.times_us[changed] - start_us(SMALL)) // DAY_US
    assert set(days.tolist()) <= set(range(10, 38)) and added[made.terminals[changed], days].all()


# ---- labels and actions


def test_every_payment_has_its_true_label_seven_days_later(small):
    labels = labels_of(small, SMALL)
    assert np.array_equal(np.sort(labels.payments), np.arange(len(small)))
    assert (labels.known_us - small.times_us[labels.payments] == 7 * DAY_US).all()
    assert np.array_equal(labels.codes == 1, small.fraud[labels.payments])
    assert (labels.arrives_us == labels.known_us).all() and (np.diff(labels.arrives_us) >= 0).all()


def test_labels_come_as_late_as_the_switch_says(small):
    labels = labels_of(small, replace(SMALL, label_delay=2.5))
    assert (labels.known_us - small.times_us[labels.payments] == 2.5 * DAY_US).all()


def test_in_an_outage_no_label_arrives_and_after_it_all_do_in_their_order(small):
    switches = replace(SMALL, label_outage=(15, 22))
    begin, end = moment_us(switches, 15), moment_us(switches, 22)
    labels, usual = labels_of(small, switches), labels_of(small, SMALL)
    assert not ((labels.arrives_us >= begin) & (labels.arrives_us < end)).any()
    assert len(labels) == len(usual)
    held = (labels.known_us >= begin) & (labels.known_us < end)
    assert held.sum() > 5_000
    assert (labels.arrives_us[held] >= end).all() and (labels.arrives_us[held] < end + 0.1 * DAY_US).all()
    assert (np.diff(labels.known_us[held]) >= 0).all()
    assert (labels.arrives_us[~held] == labels.known_us[~held]).all()


def test_genuine_payments_are_silent_by_the_share_and_frauds_never(small):
    labels = labels_of(small, replace(SMALL, genuine_reported=0.25))
    told = np.zeros(len(small), bool)
    told[labels.payments] = True
    assert told[small.fraud].all()
    assert told[~small.fraud].mean() == pytest.approx(0.25, abs=0.01)
    assert set(labels_of(small, replace(SMALL, genuine_reported=0.0)).codes.tolist()) == {1}


def test_a_corrected_label_says_the_opposite_first_and_the_truth_twelve_hours_later(small):
    labels = labels_of(small, replace(SMALL, corrected=0.1))
    said: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, code, known_us in zip(labels.payments, labels.codes, labels.known_us, strict=True):
        said[int(row)].append((int(known_us), int(code)))
    twice = [row for row, labels in said.items() if len(labels) == 2]
    assert len(twice) / len(small) == pytest.approx(0.1, abs=0.01)
    for row in range(len(small)):
        first, *more = said[row]
        truth = int(small.fraud[row])
        assert first == (int(small.times_us[row]) + 7 * DAY_US, 1 - truth if more else truth)
        assert more in ([], [(int(small.times_us[row]) + 7 * DAY_US + 12 * HOUR_US, truth)])


def test_labels_are_flipped_by_the_share_while_the_switch_is_on(small):
    labels = labels_of(small, replace(SMALL, labels_flipped=(20, 25), flipped=0.3))
    wrong = (labels.codes == 1) != small.fraud[labels.payments]
    inside = (labels.known_us >= moment_us(SMALL, 20)) & (labels.known_us < moment_us(SMALL, 25))
    assert not wrong[~inside].any()
    assert wrong[inside].mean() == pytest.approx(0.3, abs=0.02)


def test_blocked_payments_have_an_action_and_no_label_unless_they_are_reviewed(small):
    switches = replace(SMALL, blocked=0.4, reviewed=0.5)
    actions: dict[str, list[tuple[object, int]]] = defaultdict(list)
    for record in action_records(small, switches):
        action = json.loads(record.value)
        assert record.key.decode() == action["event_id"] and _us(action["at"]) == record.at_us
        actions[action["event_id"]].append((action["action"], record.at_us))
    labels = {label["event_id"]: label for label in values(label_records(small, switches))}
    stopped_frauds = 0
    for number, time_us, fraud in zip(
        small.numbers.tolist(), small.times_us.tolist(), small.fraud.tolist(), strict=True
    ):
        name = f"p{number:09d}"
        first, second = ("blocked", time_us + 1_000_000), ("reviewed", time_us + DAY_US)
        assert actions.get(name, []) in ([], [first], [first, second])
        stopped_frauds += fraud and name in actions
        if actions.get(name) == [first]:
            assert name not in labels
        else:
            delay = DAY_US if name in actions else 7 * DAY_US
            assert labels[name]["fraud"] == fraud and _us(labels[name]["known_at"]) == time_us + delay
    assert stopped_frauds / small.fraud.sum() == pytest.approx(0.4, abs=0.08)
    assert len(actions) - stopped_frauds == pytest.approx(stopped_frauds, rel=0.35)


def _us(text: object) -> int:
    return int(np.datetime64(str(text).removesuffix("Z"), "us").astype(np.int64))


# ---- records


def test_without_switches_each_payment_is_one_event_at_its_time_keyed_by_its_customer(small):
    records = list(event_records(small, SMALL))
    assert [record.at_us for record in records] == small.times_us.tolist()
    expected = [
        (f"p{number:09d}", time_us, f"c{customer:05d}", f"t{terminal:05d}", amount)
        for number, time_us, customer, terminal, amount in zip(
            small.numbers, small.times_us, small.customers, small.terminals, small.amounts, strict=True
        )
    ]
    seen = [
        (event["payment_id"], _us(event["at"]), event["customer"], event["terminal"], event["amount"])
        for event in values(records)
    ]
    assert seen == expected
    assert [record.key.decode() for record in records] == [event[2] for event in expected]


def test_duplicates_are_the_same_bytes_within_the_hour_by_the_share(small):
    switches = replace(SMALL, duplicates=0.03)
    for records, usual in (
        (list(event_records(small, switches)), list(event_records(small, SMALL))),
        (list(label_records(small, switches)), list(label_records(small, SMALL))),
    ):
        once = Counter(record.value for record in usual)
        extra = Counter(record.value for record in records)
        extra.subtract(once)
        assert set(extra.values()) == {0, 1}
        assert sum(extra.values()) / len(usual) == pytest.approx(0.03, abs=0.005)
        arrived = defaultdict(list)
        for record in records:
            arrived[record.value].append(record.at_us)
        assert all(times[-1] - times[0] <= HOUR_US for times in arrived.values())
        _in_order(records)


def test_late_events_arrive_up_to_the_limit_after_they_happened_by_the_share(small):
    records = list(event_records(small, replace(SMALL, late=0.1, latest_minutes=20)))
    behind = np.array([record.at_us - _us(json.loads(record.value)["at"]) for record in records])
    assert behind.min() == 0 and behind.max() <= 20 * 60_000_000
    assert (behind > 0).mean() == pytest.approx(0.1, abs=0.01)
    assert Counter(record.value for record in records) == Counter(
        r.value for r in event_records(small, SMALL)
    )
    _in_order(records)


def test_poison_is_added_by_the_share_and_each_form_is_refused_for_a_reason_of_its_own(small):
    switches = replace(SMALL, poison=0.01)
    good = {record.value for record in event_records(small, SMALL)}
    records = list(event_records(small, switches))
    bad = [record for record in records if record.value not in good]
    assert len(bad) == round(0.01 * len(small)) and len(records) == len(small) + len(bad)
    _in_order(records)
    decoded = Decoder(load_pipeline("payments").feature_set).decode(
        [(record.value, record.at_us // 1000) for record in records]
    )
    assert [dead.index for dead in decoded.dead] == [
        index for index, record in enumerate(records) if record.value not in good
    ]
    reasons = {form % 7: (dead.reason, dead.path) for form, dead in enumerate(decoded.dead)}
    assert len(BAD_EVENTS) == 7 and len(set(reasons.values())) == 7


def test_unusable_labels_are_added_by_the_share(small):
    usual = {record.value for record in label_records(small, SMALL)}
    records = list(label_records(small, replace(SMALL, poison=0.01)))
    bad = [record.value for record in records if record.value not in usual]
    assert len(bad) == round(0.01 * len(small))
    assert len({value.replace(b"%09d" % number, b"")[:40] for number, value in enumerate(bad[:7])}) >= 5
    assert len(BAD_LABELS) == 7
    _in_order(records)


def test_the_feed_is_one_order_of_all_records_and_no_label_comes_before_its_event(small):
    switches = replace(SMALL, blocked=0.2, duplicates=0.01)
    at_us = 0
    sent: set[object] = set()
    topics: Counter[str] = Counter()
    for topic, record in feed(switches, small):
        assert record.at_us >= at_us
        at_us = record.at_us
        topics[topic] += 1
        value = json.loads(record.value)
        if topic == "events":
            sent.add(value["payment_id"])
        else:
            assert value["event_id"] in sent
    assert topics["events"] == len(list(event_records(small, switches)))
    assert topics["labels"] == len(list(label_records(small, switches)))
    assert topics["actions"] == len(list(action_records(small, switches)))


def _in_order(records: list[Record]) -> None:
    times = [record.at_us for record in records]
    assert times == sorted(times)


# ---- switches, tables


@pytest.mark.parametrize(
    ("name", "value"),
    [("days", 0), ("late", 1.01), ("poison", -0.1), ("label_delay", 0.0), ("label_outage", (5, 5)), ("amounts_moved_by", float("nan"))],
)  # fmt: skip
def test_a_switch_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"Switches\\({name}\\) must be .*not"):
        Switches(**{name: value})


def printed(capfdbinary, *words: str) -> list[tuple[bytes, ...]]:
    main(words)
    return [tuple(line.split(b"\t")) for line in capfdbinary.readouterr().out.splitlines()]


@pytest.mark.parametrize(("topic", "records"), [("events", event_records), ("labels", label_records), ("actions", action_records)])  # fmt: skip
def test_the_command_prints_the_records_of_its_switches(capfdbinary, topic, records):
    words = "--seed 3 --days 12 --customers 30 --terminals 60 --label-delay 2 --label-outage 4,6.5 --labels-flipped 7,9"
    words += (
        " --flipped 0.2 --corrected 0.1 --genuine-reported 0.8 --duplicates 0.1 --late 0.1 --latest-minutes 5"
    )
    words += " --poison 0.02 --blocked 0.5 --reviewed 0.5 --new-fraud-from 3 --amounts-moved-from 5"
    words += " --amounts-moved-by 2 --terminal-waves 2,6 --wave-share 0.1 --start 2024-03-01"
    switches = Switches(
        seed=3, days=12, customers=30, terminals=60, label_delay=2, label_outage=(4, 6.5), labels_flipped=(7, 9),
        flipped=0.2, corrected=0.1, genuine_reported=0.8, duplicates=0.1, late=0.1, latest_minutes=5, poison=0.02,
        blocked=0.5, reviewed=0.5, new_fraud_from=3, amounts_moved_from=5, amounts_moved_by=2, terminal_waves=(2, 6),
        wave_share=0.1, start="2024-03-01",
    )  # fmt: skip
    assert len(switches.changed) == len(OPTIONS)  # none was forgotten
    expected = [(one.key, one.value) for one in records(simulated_payments(switches), switches)]
    assert printed(capfdbinary, "--topic", topic, *words.split()) == expected
    assert printed(capfdbinary, "--topic", topic, "--limit", "3", *words.split()) == expected[:3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--late", "1.5"], "Switches(late) must be a share from 0 to 1, not 1.5"),
        (
            ["--label-outage", "9,7"],
            "Switches(label_outage) must be (from, to) with from < to, not (9.0, 7.0)",
        ),
        (["--start", "yesterday"], "Switches(start) must be a day such as 2024-04-01, not yesterday"),
        (["--label-outage", "9"], "--label-outage: invalid span value: '9'"),
        (["--lates", "0.1"], "unrecognized arguments: --lates"),
    ],
)
def test_a_wrong_option_is_refused_by_name_with_exit_code_2(capsys, words, said):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert said in capsys.readouterr().err


def test_the_help_has_examples_and_every_switch_with_its_default(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr().out
    assert "python -m examples.payments --topic labels --label-outage 12,19" in told
    assert all(
        f"--{name.replace('_', '-')} " in told and option.help[:20] in told
        for name, option in OPTIONS.items()
    )


def test_the_tables_hold_the_events_and_labels_and_nothing_that_tells_the_truth_early(tmp_path):
    switches = replace(SMALL, days=20)
    prepared = data.prepare(tmp_path, switches=switches)
    made = simulated_payments(switches)
    events, labels = pd.read_parquet(prepared.events), pd.read_parquet(prepared.labels)
    assert list(events.columns) == ["payment_id", "at", "customer", "terminal", "amount"]
    assert len(events) == len(labels) == len(made)
    joined = events.merge(labels, on="payment_id", validate="one_to_one")
    assert (joined["known_at"] - joined["at"] == pd.Timedelta(days=7)).all()
    assert np.array_equal(joined["fraud"].to_numpy() == 1, made.fraud)
    assert (joined["scenario"] == "genuine").sum() == (~made.fraud).sum()


def test_tables_of_other_switches_are_made_anew_and_equal_ones_are_kept(tmp_path):
    switches = replace(SMALL, days=5)
    events = data.prepare(tmp_path, switches=switches).events
    first = events.stat().st_mtime_ns
    assert data.prepare(tmp_path, switches=switches).events.stat().st_mtime_ns == first
    assert data.prepare(tmp_path, switches=replace(switches, seed=2)).events.stat().st_mtime_ns != first


def test_the_demo_trains_on_april_and_streams_may_and_half_of_june_with_an_outcome_each(tmp_path):
    tiny = replace(data.SHIPPED, customers=50, terminals=100)
    training, streamed = demo.training_events(tmp_path, tiny), demo.streamed_events(tmp_path, tiny)
    made = data.prepare(tmp_path, switches=tiny).events
    assert len(training) + len(streamed) == (pd.read_parquet(made)["at"] < "2024-06-16").sum()
    assert str(training["at"].max()) < demo.TRAIN_UNTIL[:10] < str(streamed["at"].min())
    outcomes = demo.outcomes(tmp_path, tiny).reindex(streamed["payment_id"])
    assert (
        outcomes["label"].notna().all()
        and ((outcomes["outcome"] == "genuine") == (outcomes["label"] == 0)).all()
    )
    assert set(demo.streamed_labels(tmp_path, tiny)["payment_id"]) == set(streamed["payment_id"])


def test_the_worlds_of_the_demo_are_one_until_12_may_and_each_drifts_in_its_own_way_from_then_on():
    tiny = {name: replace(one, customers=50, terminals=100) for name, one in demo.DRIFTS.items()}
    made = {name: data.events(simulated_payments(one)) for name, one in tiny.items()}
    calm = made["none"]
    for table in made.values():
        before = table["at"] < "2024-05-13"
        assert (
            table[before]
            .drop(columns="payment_id")
            .equals(calm[calm["at"] < "2024-05-13"].drop(columns="payment_id"))
        )
    moved, usual = (table["amount"][calm["at"] >= "2024-05-13"] for table in (made["amounts-moved"], calm))
    assert np.allclose(moved, usual * 1.3, atol=0.02, rtol=0)
    assert len(made["new-fraud-pattern"]) > len(calm)
    assert made["labels-flipped"].equals(calm)


def test_the_pipeline_has_the_windows_of_the_book_and_shares_by_labels_that_became_known():
    names = set(load_pipeline("payments").feature_set.names)
    for days in (1, 7, 30):
        assert {f"customer_count_{days}d", f"customer_amount_mean_{days}d"} <= names
        assert {f"terminal_count_{days}d", f"terminal_fraud_rate_{days}d"} <= names
    label = load_pipeline("payments").label
    assert label.silent_code == 0.0
    assert Switches().label_delay * DAY_US < label.horizon_us  # or every label would come too late
