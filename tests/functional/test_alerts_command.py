"""`driftwood alerts` against a broker: list, show, tail, ack and silence, as an operator uses them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driftwood.cli import main
from driftwood.embedded.broker import EmbeddedBroker
from models.drift.alert import Alert, encoded
from models.drift.signals import Evidence, Signal, Window
from streams.producer import Outgoing, Publisher, settings_for
from streams.settings import Settings
from streams.topics import pipeline_topics

FILE = """
import msgspec
from driftwood import Label, Pipeline, scaled_logistic

class Event(msgspec.Struct):
    id: str
    at: int
    amount: float
    age: float

one = Pipeline("NAME", event=Event, id="id", time="at", time_unit="s", features=["amount", "age"],
               label=Label("came", horizon="1d"), online=[scaled_logistic()])
"""
HOUR_US = 3_600_000_000

Call = Callable[..., tuple[object, str, str]]


def signal(subject: str, strength: float, level: Any = "data") -> Signal:
    evidence = Evidence(
        Window(0, 100 * HOUR_US, 20_000),
        Window(100 * HOUR_US, 124 * HOUR_US, 1_234),
        0.31,
        {"0.5": (10.0, 13.0)},
        {"missing": (0.001, 0.35)},
    )
    return Signal(level, subject, "ks", 0, strength / 10, 0.1, strength, evidence=evidence)


def alert(name: str, status: Any, sequence: int, hour: int, *signals: Signal) -> Alert:
    return Alert(
        f"shop/{name}",
        status,
        sequence,
        "shop",
        "critical" if signals[0].strength >= 2 else "warning",
        f"2024-05-01T{hour:02}:00:00Z",
        "2024-05-01T00:00:00Z",
        f"shop: {name} has moved",
        tuple(dict.fromkeys(one.level for one in signals)),
        signals,
        1.0,
        ("from 2024-05-01T00:00:00Z on half of it is missing",),
        "drift-data",
        ("retrain-requested",) if status == "raised" else (),
    )


AMOUNT = [
    alert("data/amount/1", "raised", 0, 1, signal("amount", 1.2)),
    alert("data/amount/1", "updated", 1, 2, signal("amount", 2.5), signal("age", 1.1)),
]
SCORE = [
    alert("concept/score/2", "raised", 0, 3, signal("score", 1.5, "concept")),
    alert("concept/score/2", "resolved", 1, 9, signal("score", 0.2, "concept")),
]


class Place:
    """A pipeline's topics on a broker, and the program called for it."""

    def __init__(self, settings: Settings, name: str, path: Path, call: Call) -> None:
        self.settings, self.path, self.call = settings, path, call
        self.topics = pipeline_topics(name, [], settings, learns=True).learning

    def __call__(self, command: str, *more: str) -> tuple[object, str, str]:
        return self.call("alerts", command, str(self.path), f"--set=brokers={self.settings.brokers}", *more)

    def data(self, command: str, *more: str) -> Any:
        code, out, err = self(command, *more, "--json")
        assert code == 0, err
        return [json.loads(text) for text in out.splitlines()] if command == "tail" else json.loads(out)

    def raise_(self, alerts: Iterable[Alert]) -> None:
        async def run() -> None:
            publisher = Publisher(settings_for(self.settings.brokers))
            topic = self.topics.drift_alerts.name
            await publisher.deliver(
                [Outgoing(topic, 0, one.alert.encode(), encoded(one), []) for one in alerts]
            )
            await publisher.close(10.0)

        asyncio.run(run())


@pytest.fixture
def alerts(
    embedded_broker: EmbeddedBroker,
    unique_name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Place:
    path = tmp_path / "one.py"
    name = f"shop_{unique_name[-8:]}"
    path.write_text(FILE.replace("NAME", name))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["driftwood", *words])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        return (code, *capsys.readouterr())

    settings = Settings(brokers=embedded_broker.address)
    place = Place(settings, name, path, call)
    for topic in (place.topics.drift_alerts, place.topics.control, place.topics.outcomes):
        embedded_broker.create_topic(topic.name, 1)
    return place


def test_without_an_alert_it_says_so(alerts):
    code, out, err = alerts("list")
    assert (code, out) == (0, ""), err
    assert "No alert yet" in err
    assert alerts.data("list") == []


def test_open_alerts_are_listed_and_copies_after_a_crash_are_dropped(alerts):
    alerts.raise_([*AMOUNT, *AMOUNT, *SCORE, SCORE[0]])
    [one] = alerts.data("list")
    assert (one["number"], one["status"], one["sequence"]) == (1, "updated", 1)
    assert (one["raised_at"], one["ack"], one["silenced_until"]) == ("2024-05-01T01:00:00Z", None, None)
    assert [(one["number"], one["status"]) for one in alerts.data("list", "--all")] == [
        (1, "updated"),
        (2, "resolved"),
    ]
    assert [one["number"] for one in alerts.data("list", "--all", "--since", "2024-05-01T05:00:00Z")] == [2]
    code, out, err = alerts("list")
    assert code == 0 and "data/amount/1 has moved" in out and "concept" not in out
    assert "1 resolved" in err


def test_an_alert_is_shown_by_its_number_its_name_or_a_beginning(alerts):
    alerts.raise_([*AMOUNT, *SCORE])
    for reference in ("1", "shop/data/amount/1", "shop/data", "data/am"):
        code, out, _ = alerts("show", reference)
        assert code == 0 and "shop/data/amount/1" in out
    for part in (
        *("half of it is missing", "docs/operations.md#drift-data", "retrain-requested", "0.310"),
        *("1,234", "0.5 quantile", "share of missing", "35 %", "1 false alarm a month", "updated"),
    ):
        assert part in alerts("show", "1")[1]
    shown = alerts.data("show", "2")
    assert [one["status"] for one in shown["records"]] == ["raised", "resolved"]


@pytest.mark.parametrize(
    ("reference", "part"), [("7", "1 to 2"), ("shop", "beginning of 2"), ("data/b", "1 to 2")]
)
def test_an_alert_that_is_not_there_or_not_the_only_one_is_refused_in_words(alerts, reference, part):
    alerts.raise_([*AMOUNT, *SCORE])
    code, out, err = alerts("show", reference)
    assert (code, out) == (2, "") and part in err


def test_tail_tells_each_record_once(alerts):
    alerts.raise_([*AMOUNT, AMOUNT[0], *SCORE])
    told = alerts.data("tail", "--from-start", "--no-follow")
    assert [(one["number"], one["status"]) for one in told] == [
        (1, "raised"),
        (1, "updated"),
        (2, "raised"),
        (2, "resolved"),
    ]
    assert alerts.data("tail", "--no-follow") == []
    _, out, _ = alerts("tail", "--from-start", "--limit", "1")
    assert out == "2024-05-01T01:00:00Z  #1  raised  warning  shop: data/amount/1 has moved\n"


def test_an_ack_stands_beside_the_alert(alerts):
    alerts.raise_(AMOUNT)
    code, _, err = alerts("ack", "1", "--note", "known")
    assert code == 0 and "acked" in err
    [one] = alerts.data("list")
    assert one["ack"]["note"] == "known" and one["ack"]["by"]
    assert "acked by" in alerts("list")[1] and "known" in alerts("show", "1")[1]


def test_a_silenced_alert_is_marked_and_not_told_until_the_silence_ends(alerts):
    alerts.raise_([*AMOUNT, *SCORE])
    assert alerts("silence", "--subject", "amount", "--for", "2h")[0] == 0
    assert [one["silenced_until"] is None for one in alerts.data("list", "--all")] == [
        True,
        True,
    ]  # age speaks on
    assert alerts("silence", "--level", "data", "--for", "2h", "--note", "new till")[0] == 0
    assert [one["silenced_until"] is None for one in alerts.data("list", "--all")] == [False, True]
    assert "silenced until" in alerts("list")[1]
    told = alerts.data("tail", "--from-start", "--no-follow")
    assert {one["number"] for one in told} == {2}
    assert len(alerts.data("tail", "--from-start", "--no-follow", "--silenced")) == 4
    assert alerts("unsilence", "--level", "data")[0] == 0
    assert [one["silenced_until"] is None for one in alerts.data("list", "--all")] == [True, True]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["silence", "--for", "2h"], "--level"),
        (["silence", "--for", "soon", "--level", "data"], "duration"),
        (["silence", "--for", "2h", "--level", "dta"], "prediction"),
        (["unsilence", "--level", "data"], "there are: none"),
        (["list", "--since", "yesterday"], "--since"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_was_expected(alerts, words, part):
    code, out, err = alerts(words[0], *words[1:])
    assert (code, out) == (2, "") and part in err


def test_a_topic_that_is_missing_ends_with_3(alerts, unique_name):
    alerts.path.write_text(FILE.replace("NAME", f"other_{unique_name[-8:]}"))
    code, _, err = alerts("list")
    assert code == 3 and "drift-alerts does not exist" in err


def test_records_of_a_newer_version_are_passed_over(alerts):
    alerts.raise_(AMOUNT)
    newer = msgspec.json.encode({"alert": "shop/x", "status": "reopened"})

    async def run() -> None:
        publisher = Publisher(settings_for(alerts.settings.brokers))
        await publisher.deliver([Outgoing(alerts.topics.drift_alerts.name, 0, None, newer, [])])
        await publisher.close(10.0)

    asyncio.run(run())
    assert len(alerts.data("list", "--all")) == 1
