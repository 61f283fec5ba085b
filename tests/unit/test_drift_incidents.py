"""Signals become alerts: raised once, grouped, told again when they grow, resolved when all is calm for a window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pytest

from models.drift.alert import Alert, decoded, encoded
from models.drift.incidents import LISTED, MOST_MEMBERS, MOST_OPEN, Incidents, Terms
from models.drift.signals import Evidence, Level, Signal, Window, finite
from models.drift.titles import RUNBOOKS, runbook, title

HOUR = 3_600_000_000
DAY = 24


def signal(subject: str, strength: float, at: float = 0, level: Level = "data", **more: Any) -> Signal:
    return Signal(level, subject, "ks", int(at * HOUR), strength / 10, 0.1, strength, **more)


def incidents(**more: Any) -> Incidents:
    return Incidents(Terms("shop", 24 * HOUR, HOUR, 1.0, **more))


def lived(one: Incidents, story: Mapping[int, Iterable[Signal]], hours: int) -> list[tuple[int, Alert]]:
    """Every hour an evaluation of what was served; the last signals of the story hold until the next ones."""
    now: Iterable[Signal] = ()
    found = []
    for hour in range(hours):
        now = story.get(hour, now)
        heard = one.hear("served", hour * HOUR, [msgspec.structs.replace(s, at_us=hour * HOUR) for s in now])
        found += [(hour, alert) for alert in heard]
    return found


def statuses(found: list[tuple[int, Alert]]) -> list[tuple[int, str]]:
    return [(hour, alert.status) for hour, alert in found]


def test_an_alert_is_raised_once_and_resolved_when_all_was_calm_for_a_window():
    found = lived(incidents(), {3: [signal("amount", 1.2)], 10: [signal("amount", 0.3)]}, 60)
    assert statuses(found) == [(3, "raised"), (9 + DAY, "resolved")]
    assert [alert.sequence for _, alert in found] == [0, 1]
    assert {alert.alert for _, alert in found} == {"shop/data/amount/1970-01-01T03:00:00Z"}
    assert [alert.since for _, alert in found] == ["1970-01-01T03:00:00Z"] * 2


def test_a_signal_that_stays_between_calm_and_the_threshold_neither_raises_nor_resolves():
    below = {0: [signal("amount", 0.99)]}
    assert lived(incidents(), below, 100) == []
    found = lived(incidents(), {0: [signal("amount", 1.01)], 1: [signal("amount", 0.71)]}, 200)
    assert statuses(found) == [(0, "raised")]


def test_a_signal_that_flickers_is_one_alert():
    story = {hour: [signal("amount", 1.1 if hour % 7 else 0.2)] for hour in range(1, 100)}
    assert statuses(lived(incidents(), story, 100)) == [(1, "raised")]
    assert statuses(lived(incidents(), {**story, 100: []}, 150))[-1] == (99 + DAY, "resolved")


def test_calm_begins_anew_with_every_signal_of_the_alert():
    story = {0: [signal("amount", 1.5)], 5: [signal("amount", 0.0)], 20: [signal("amount", 0.8)], 21: []}
    assert statuses(lived(incidents(), story, 60))[-1] == (20 + DAY, "resolved")


def test_what_moves_together_is_one_alert():
    story = {
        2: [signal("amount", 1.1)],
        3: [signal("amount", 1.3), signal("country", 1.1), signal("score", 1.2, level="prediction")],
    }
    found = lived(incidents(), story, 20)
    assert {alert.alert for _, alert in found} == {"shop/data/amount/1970-01-01T02:00:00Z"}
    last = found[-1][1]
    assert last.levels == ("data", "prediction")
    assert [one.subject for one in last.signals] == ["amount", "score", "country"]


def test_what_begins_more_than_a_window_later_on_the_same_level_is_another_alert():
    amount = signal("amount", 1.1)
    found = lived(incidents(), {0: [amount], 25: [amount, signal("country", 1.1)]}, 40)
    assert [alert.alert.split("/")[2] for _, alert in found if alert.status == "raised"] == [
        "amount",
        "country",
    ]
    within = lived(incidents(), {0: [amount], 24: [amount, signal("country", 1.1)]}, 40)
    assert len({alert.alert for _, alert in within}) == 1


def test_what_lies_downstream_of_what_still_moves_joins_at_any_time():
    amount, score = signal("amount", 1.1), signal("score", 1.1, level="concept")
    one = incidents()
    lived(one, {0: [amount]}, 200)
    [alert] = one.hear("labels", 200 * HOUR, [score], complete=False)
    assert (alert.status, alert.levels, alert.severity) == ("updated", ("data", "concept"), "critical")
    other = incidents()
    [first] = lived(other, {0: [score]}, 1)
    assert [alert.levels for _, alert in lived(other, {100: [amount]}, 101)] == [("data",)]
    assert first[1].levels == ("concept",)


def test_the_label_feed_has_an_alert_of_its_own():
    one = incidents()
    one.hear("served", 0, [signal("amount", 1.1)])
    [alert] = one.hear("labels", HOUR, [signal("volume", 1.4, 1, "labels")], complete=False)
    assert (alert.status, alert.levels, alert.runbook) == ("raised", ("labels",), "drift-labels")
    [other] = one.hear("labels", HOUR, [signal("tree", 1.4, 1, "concept")], complete=False)
    assert (other.status, other.levels) == ("updated", ("data", "concept"))


def test_while_the_label_feed_is_held_up_no_concept_alert_is_raised_and_none_is_lost():
    one, tree = incidents(), signal("tree", 1.4, 1, "concept")
    assert one.hear("labels", HOUR, [tree], complete=False, held_up=True) == []
    assert one.hear("labels", 2 * HOUR, [], complete=False, held_up=True) == []
    [alert] = one.hear("labels", 3 * HOUR, [], complete=False)
    assert (alert.status, alert.alert) == ("raised", "shop/concept/tree/1970-01-01T03:00:00Z")
    other = incidents()
    other.hear("labels", HOUR, [tree], complete=False, held_up=True)
    other.hear("labels", 2 * HOUR, [signal("tree", 0.9, 2, "concept")], complete=False, held_up=True)
    assert other.hear("labels", 3 * HOUR, [], complete=False) == []


def test_a_report_about_labels_says_nothing_of_what_it_does_not_name():
    one = incidents()
    one.hear("labels", 0, [signal("tree", 1.4, 0, "concept")], complete=False)
    for hour in range(1, 80):
        assert one.hear("labels", hour * HOUR, [], complete=False) == []
    one.hear("labels", 80 * HOUR, [signal("tree", 0.1, 80, "concept")], complete=False)
    assert one.hear("labels", 103 * HOUR, [], complete=False)[0].status == "resolved"


def test_clocks_are_not_compared_with_one_another():
    one = incidents()
    one.hear("labels", 0, [signal("tree", 1.4, 0, "concept")], complete=False)
    one.hear("labels", HOUR, [signal("tree", 0.1, 1, "concept")], complete=False)
    assert one.hear("served", 500 * HOUR, []) == []  # labels are behind: nothing is known of that time yet
    assert one.hear("labels", 24 * HOUR, [], complete=False)[0].status == "resolved"


def test_from_twice_the_threshold_it_is_critical_and_says_so_at_once():
    found = lived(
        incidents(), {0: [signal("amount", 1.2)], 1: [signal("amount", 1.9)], 2: [signal("amount", 2.0)]}, 5
    )
    assert [(hour, alert.status, alert.severity) for hour, alert in found] == [
        (0, "raised", "warning"),
        (2, "updated", "critical"),
    ]


@pytest.mark.parametrize(
    ("subject", "more", "severity"),
    [
        ("score", {}, "critical"),
        ("tree", {}, "warning"),
        ("score", {"segment": "country=LI"}, "warning"),
        ("score", {"statistic": "calibration"}, "warning"),
    ],
)
def test_what_was_served_being_worse_for_all_is_critical(subject, more, severity):
    lost = msgspec.structs.replace(signal(subject, 1.1, 0, "concept"), **{"statistic": "loss", **more})
    [alert] = incidents().hear("labels", 0, [lost], complete=False)
    assert alert.severity == severity


def test_an_alert_that_grows_for_days_is_told_ever_more_seldom():
    story = {hour: [signal(f"f{number}", 1.1) for number in range(hour + 1)] for hour in range(72)}
    found = lived(incidents(), story, 72)
    assert len({alert.alert for _, alert in found}) == 1
    assert [hour for hour, _ in found] == [0, 1, 3, 7, 15, 31, 55]


def test_the_strongest_are_listed_and_the_others_counted():
    [alert] = incidents().hear("served", 0, [signal(f"f{number}", 1 + number / 100) for number in range(50)])
    assert (len(alert.signals), alert.more) == (LISTED, 50 - LISTED)
    assert alert.signals[0].subject == "f49"


def test_a_table_that_moves_as_a_whole_is_one_alert_of_bounded_size():
    one = incidents()
    [alert] = one.hear("served", 0, [signal(f"f{number}", 1.5) for number in range(3 * MOST_MEMBERS)])
    assert alert.more == MOST_MEMBERS - LISTED
    assert one.hear("served", HOUR, [signal(f"f{number}", 1.5) for number in range(3 * MOST_MEMBERS)]) == []


def test_there_are_never_more_open_alerts_than_the_bound():
    one = incidents()
    still: list[Signal] = []
    for number in range(2 * MOST_OPEN):
        still.append(signal(f"f{number}", 1.5))
        one.hear("served", number * 25 * HOUR, still)
    assert len(one.open) == MOST_OPEN
    assert sum(len(incident.members) for incident in one.open) == 2 * MOST_OPEN


def test_what_an_alert_triggers_stands_on_one_record():
    one = incidents(triggers={"data": ["retrain-requested"], "concept": ["reset", "retrain-requested"]})
    [raised] = one.hear("served", 0, [signal("amount", 1.1)])
    [updated] = one.hear("labels", HOUR, [signal("tree", 1.1, 1, "concept")], complete=False)
    [worse] = one.hear("served", 2 * HOUR, [signal("amount", 5.0)])
    assert [alert.triggers for alert in (raised, updated, worse)] == [("retrain-requested",), ("reset",), ()]


def test_causes_of_before_are_kept_until_something_else_that_is_worse_leads():
    one, amount = incidents(), signal("amount", 1.1)
    [raised] = one.hear("served", 0, [amount], explained=lambda signals: (signals[0].subject,))
    [updated] = one.hear("served", HOUR, [amount, signal("score", 1.2, level="prediction")])
    assert raised.why == updated.why == ("amount",)
    [worse] = one.hear("served", 2 * HOUR, [signal("amount", 2.5)])
    assert worse.why == ("amount",)

    another = incidents()
    another.hear("served", 0, [amount], explained=lambda signals: (signals[0].subject,))
    [worse] = another.hear("served", HOUR, [amount, signal("country", 2.5)])
    assert worse.why == ()


def test_what_was_calm_for_a_window_while_something_else_moves_is_told_when_it_comes_again():
    one = incidents(triggers={"concept": ["retrain-requested"]})
    told = []
    for hour in range(60 * DAY):
        told += one.hear("served", hour * HOUR, [signal("amount", 1.5, hour)])
        lost = 4.0 if 30 <= hour < 60 or 900 <= hour < 1_100 else 0.0
        told += one.hear("labels", hour * HOUR, [signal("score", lost, hour, "concept")], complete=False)
    assert {alert.alert for alert in told} == {"shop/data/amount/1970-01-01T00:00:00Z"}
    assert [alert.at for alert in told if alert.triggers] == ["1970-01-02T06:00:00Z"], "once for an alert"
    assert {"1970-01-02T06:00:00Z", "1970-02-07T12:00:00Z"} <= {alert.at for alert in told}


def test_a_title_is_about_what_moves_and_nothing_is_told_while_all_is_calm():
    one, told = incidents(), []
    for hour in range(30):
        volume = Signal("data", "volume", "log_ratio", hour * HOUR, 0.1, 0.1, 1.2 if hour < 2 else 0.0)
        told += one.hear("served", hour * HOUR, [volume, signal("amount", 1.0 + 0.3 * hour, hour)])
    assert "volume" in told[0].title and all("amount" in alert.title for alert in told[2:]) and len(told) > 3
    calm, heard = incidents(), []
    for hour in range(20):
        now = [signal("a", 1.2 if hour < 2 else 0.0), signal("b", 1.1 if hour == 2 else 0.0)]
        heard += calm.hear("served", hour * HOUR, now)
    assert all(max(one.strength for one in alert.signals) >= 0.7 for alert in heard)


def test_an_alert_that_ends_says_what_it_was():
    [_, _, (_, ended)] = lived(
        incidents(), {0: [signal("volume", 1.5)], 1: [signal("amount", 1.4)], 2: []}, 40
    )
    assert (ended.status, ended.runbook) == ("resolved", "drift-volume")
    assert ended.title == "shop: calm again for a whole window: volume"


def test_numbers_that_json_does_not_have_do_not_come_into_an_alert():
    evidence = Evidence(
        Window(0, HOUR, 5), psi=math.inf, quantiles={"0.5": (1.0, math.nan), "0.95": (1.0, math.inf)}
    )
    wild = Signal("data", "amount", "ks", 0, math.inf, 0.1, math.inf, evidence=evidence)
    [alert] = incidents().hear("served", 0, [wild, signal("odd", math.nan)])
    assert decoded(encoded(alert)) == alert
    assert [one.subject for one in alert.signals] == ["amount"]
    assert alert.signals[0].evidence.quantiles == {"0.95": (1.0, 1e15)}
    assert finite(signal("amount", 1.0)) == signal("amount", 1.0)


def test_titles_and_headings_go_by_what_comes_first():
    dead, volume = signal("dead_letters", 1.0), signal("volume", 4.0)
    assert runbook([volume, dead]) == "drift-dead-letters"
    assert runbook([signal("score", 3.0, level="concept"), signal("amount", 1.0)]) == "drift-data"
    stopped = signal("volume", 4.0, evidence=Evidence(current=Window(0, HOUR, 0)))
    assert runbook([stopped, dead]) == "drift-outage"
    assert "dead_letters" in title("shop", [volume, dead]) and "1 more" in title("shop", [volume, dead])
    assert set(RUNBOOKS.values()) == {
        *(f"drift-{level}" for level in ("data", "prediction", "estimate", "labels", "concept")),
        *("drift-dead-letters", "drift-volume", "drift-outage"),
    }
