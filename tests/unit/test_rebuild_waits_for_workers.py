"""A rebuild begins when no worker is in the group, which takes a while for those that were killed."""

from __future__ import annotations

import pytest

from driftwood.rebuilding import WorkersActiveError, wait_until_alone


def test_workers_that_were_killed_are_waited_for_and_it_is_told():
    counts, told = [2, 1, 0], list[str]()
    wait_until_alone(
        lambda: counts.pop(0),
        "shop.predict",
        15.0,
        lambda what, share: told.append(what),
        clock=lambda: 0.0,
        sleep=lambda seconds: None,
    )
    assert told == ["waiting for 2 workers to leave", "waiting for 1 workers to leave"]


def test_workers_that_stay_are_refused_with_what_to_do():
    now = iter(range(100))
    with pytest.raises(
        WorkersActiveError, match=r"3 workers are in the group shop\.predict: stop them first"
    ):
        wait_until_alone(
            lambda: 3,
            "shop.predict",
            15.0,
            lambda what, share: None,
            clock=lambda: float(next(now)),
            sleep=lambda seconds: None,
        )
    assert next(now) == 17
