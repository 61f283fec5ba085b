"""Why an event got its score, from what stands in the topics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from driftwood import Label, Threshold, categorical, scaled_logistic
from driftwood.pipelines import topics_of
from driftwood.why import why
from driftwood.why_view import blocks
from features.errors import DeveloperError
from features.schema import MASK
from streams.outcomes import Outcome, OutcomeCodec
from streams.producer import partition_of
from streams.served_rows import ServedRow
from streams.settings import Settings
from streams.topic_log import StoredRecord, TopicLog
from tests.shop_events import orders

SHOP = orders(
    ["amount", categorical("country"), categorical("customer")],
    label=Label("returned", horizon="30d"),
    decide=Threshold(0.5),
    online=[scaled_logistic()],
    allow_personal=["customer"],
)
TOPICS = topics_of(SHOP, Settings(partitions=2))
NAN = float("nan")
KNOWN_US = 1_714_644_000_000_000  # 2024-05-02T10:00:00Z, a day after the event

PREDICTION = {
    "event_id": "o1",
    "event_time": "2024-05-01T10:00:00.000000Z",
    "score": 0.4,
    "decision": False,
    "threshold": 0.5,
    "threshold_version": "7",
    "parts": {
        "lightgbm": {"score": 0.3, "weight": 0.6, "version": "7"},
        "scaled_logistic": {"score": 0.6, "weight": 0.4, "version": "12"},
    },
    "pipeline_version": SHOP.version,
    "features": {"amount": 12.5, "country": None, "customer": "Ann"},
    "ages_s": {},
    "flags": ["missing"],
    "arrived_ms": 0,
    "position": "shop.events@00000000/0/5",
    "mode": "blend",
    "snapshot": 12,
    "uncertainty": [0.3, 0.6],
    "uncertainty_of": "spread of the parts",
}


class Log(TopicLog):
    """A broker's logs that are lists, by topic and partition."""

    def __init__(self, logs: dict[tuple[str, int], list[StoredRecord]]) -> None:
        self._logs = logs

    def bounds(self, place: Any) -> tuple[int, int]:
        return 0, len(self._logs.get(place, []))

    def read(self, place: Any, first: int, end: int) -> Iterator[Sequence[Any]]:
        yield self._logs.get(place, [])[first:end]


def outcome(kind: str, event_id: str, code: float, replaced: float = NAN, row: int = 0) -> Outcome:
    served = ServedRow(
        event_id,
        0,
        np.array([12.5, NAN, NAN]).tobytes(),
        (None, "Ann"),
        np.array([0.4, 0.3, 0.6]).tobytes(),
        "lightgbm\nscaled_logistic",
        0.5,
        1.0,
        (),
    )
    return Outcome(event_id, kind, 0, KNOWN_US, code, replaced, 4, row, served)


def log(*outcomes: Outcome) -> Log:
    key = b"o1"
    place = (TOPICS.predictions.name, partition_of(key, 2))
    predictions = [
        StoredRecord(0, 0, b"o0", b"{}", []),
        StoredRecord(1, 0, key, json.dumps(PREDICTION).encode(), []),
    ]
    records = [
        StoredRecord(offset, 0, None, message.value, message.headers)
        for offset, one in enumerate(outcomes)
        for message in OutcomeCodec(SHOP).messages([one], "shop.outcomes", "shop.hop-join@x/0")
    ]
    return Log({place: predictions, (TOPICS.learning.outcomes.name, 0): records})


def told(found: Any, *, personal: bool = False) -> dict[str, str]:
    return {
        block.title: "\n".join([*block.lines, *("  ".join(row) for row in block.rows)])
        for block in blocks(SHOP, found, personal=personal)
    }


def test_an_answer_without_a_label_is_told_with_its_parts_and_features() -> None:
    text = told(why(SHOP, TOPICS, log(), "o1"))
    assert "score 0.4000, decision no at threshold 0.5000 (of model 7)" in text["prediction"]
    assert "uncertainty 0.3000 to 0.6000: spread of the parts" in text["prediction"]
    assert text["parts"].splitlines() == ["lightgbm  0.3000  0.600  7", "scaled_logistic  0.6000  0.400  12"]
    assert "country  missing" in text["features as served"]
    assert text["what became of it"] == "no label has come yet"


def test_a_label_is_told_with_the_losses_before_it_was_learnt() -> None:
    found = why(SHOP, TOPICS, log(outcome("matched", "o9", 0.0), outcome("matched", "o1", 1.0, row=1)), "o1")
    (one,) = found.outcomes
    assert (one.kind, one.label, one.version, one.learnt) == ("matched", 1, 1, True)
    assert one.known_at == "2024-05-02T10:00:00.000000Z"
    assert one.losses == pytest.approx(
        {"served": -np.log(0.4), "lightgbm": -np.log(0.3), "scaled_logistic": -np.log(0.6)}
    )
    assert told(found)["what became of it"].startswith(
        "matched: returned = 1, known at 2024-05-02T10:00:00.000000Z, 1.0 d after the event; learnt, in snapshots from 1 on"
    )
    assert told(found)["parts"].splitlines()[0] == f"lightgbm  0.3000  0.600  7  {-np.log(0.3):.4f}"
    assert told(found)["parts"].splitlines()[-1] == f"served  0.4000      {-np.log(0.4):.4f}"


def test_a_correction_says_what_it_replaces_and_a_copy_is_told_once() -> None:
    first, second = outcome("matched", "o1", 1.0), outcome("corrected", "o1", 0.0, 1.0, row=1)
    found = why(SHOP, TOPICS, log(first, first, second), "o1")
    assert [one.kind for one in found.outcomes] == ["matched", "corrected"]
    assert "corrected: returned = 0 instead of 1" in told(found)["what became of it"]


def test_what_was_censored_has_taught_nobody() -> None:
    found = why(SHOP, TOPICS, log(outcome("censored", "o1", NAN)), "o1")
    assert "censored: no label (an action has prevented it" in told(found)["what became of it"]
    assert "nothing was learnt" in told(found)["what became of it"]


@pytest.mark.parametrize("kind", ["duplicate", "early", "late"])
def test_a_label_that_came_and_taught_nobody_is_not_told_as_none(kind: str) -> None:
    found = why(SHOP, TOPICS, log(outcome(kind, "o1", NAN)), "o1")
    assert told(found)["what became of it"].startswith(f"{kind}: a label (it ")
    assert "nothing was learnt" in told(found)["what became of it"]


def test_personal_features_are_masked_unless_they_are_asked_for() -> None:
    found = why(SHOP, TOPICS, log(), "o1")
    assert MASK in told(found)["features as served"] and "Ann" not in told(found)["features as served"]
    assert "Ann" in told(found, personal=True)["features as served"]


def test_an_event_that_was_never_answered_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(DeveloperError, match="dead-letters"):
        why(SHOP, TOPICS, log(), "o2")
