"""What a rebuild could not reach is said loudly, and what was complete is not."""

from __future__ import annotations

from typing import Any

import pytest

from driftwood.cli.recovery import ledger_line, rows_of, warn, warn_of_ledger
from offline.rebuild import StageRebuilt
from offline.rebuilt_ledger import LedgerRebuilt


def stage(**more: Any) -> StageRebuilt:
    figures: dict[str, Any] = {
        "entity": "card",
        "records": 1200,
        "rows": 60_000,
        "to_answer": 3,
        "whole": True,
        "reaches_back_to": None,
        "complete_from": None,
        "deleted_unread": 0,
    }
    return StageRebuilt(**figures | more)


LATER = {"whole": False, "reaches_back_to": "2024-05-01T10:00:00Z", "complete_from": "2024-05-31T10:00:00Z"}


@pytest.mark.parametrize(
    ("found", "said", "cell"),
    [
        (stage(), "", "yes"),
        (
            stage(**LATER),
            (
                "WARNING: the hop topic of card reaches back to 2024-05-01T10:00:00Z only. Windows began empty there; they lack "
                "older events, until all are complete for events from 2024-05-31T10:00:00Z on."
            ),
            "for events from 2024-05-31T10:00:00Z",
        ),
        (
            stage(whole=False),
            "WARNING: the hop topic of card holds nothing any more: all its windows begin empty.",
            "for events from now on",
        ),
        (
            stage(deleted_unread=2_000),
            (
                "WARNING: 2,000 records of the stage card were deleted from its hop topic, and nobody knows that they had been "
                "worked on: their events may be without an answer."
            ),
            "yes",
        ),
    ],
)
def test_what_is_missing_is_a_warning(found, said, cell, capfd):
    warn(found)
    assert " ".join(capfd.readouterr().err.split()) == said
    assert rows_of([found]) == [("card", "1,200", "60,000", "3", cell)]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (LedgerRebuilt(12_000, 900, 3, True, None, 0), ""),
        (
            LedgerRebuilt(12_000, 900, 3, False, "2024-05-01T10:00:00Z", 0),
            (
                "WARNING: hop-join holds what was answered from 2024-05-01T10:00:00Z on: labels of events that were answered "
                "before wait for them, and become unknown."
            ),
        ),
        (
            LedgerRebuilt(12_000, 900, 3, True, None, 40),
            (
                "WARNING: 40 records were deleted from hop-join, and nobody knows that they had been joined: labels in them may "
                "not have been learnt."
            ),
        ),
    ],
)
def test_what_the_ledger_lacks_is_a_warning(found, said, capfd):
    warn_of_ledger(found)
    assert " ".join(capfd.readouterr().err.split()) == said
    assert ledger_line(found) == (
        "ledger of the join: 12,000 records, 900 rows, 3 records left to the learn process"
    )
