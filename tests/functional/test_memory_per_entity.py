"""A process grows with each entity as `driftwood features` says it does."""

from __future__ import annotations

import pytest

from benchmarks.hot_set_memory import measured
from benchmarks.kernel_plans import TYPICAL


@pytest.mark.parametrize("name", TYPICAL)
def test_a_process_grows_by_an_entity_as_stated_within_a_fifth(name: str) -> None:
    figures = measured(name, megabytes=50)
    assert figures["entities"] >= 1_000
    assert 0.8 < figures["measured_bytes"] / figures["stated_bytes"] < 1.2
