"""What a rebuild could not reach is said loudly, and what was complete is not."""

from __future__ import annotations

from typing import Any

import pytest

from driftwood.cli.recovery import rows_of, warn
from offline.rebuild import StageRebuilt


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
