"""The chaos benchmark in small: two workers on a real Kafka and Redis, killed at random moments while events flow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.worker_process import ROOT

# Farther apart than the session time-out of 6 s, so that most workers die with work of their own.
KILLS, EVENTS, RATE = 4, 30_000, 1_000


@pytest.mark.crash
@pytest.mark.usefixtures(
    "kafka_data_dir"
)  # the benchmark starts a Kafka of its own: skipped where there can be none
def test_kills_at_random_moments_lose_nothing_count_nothing_twice_and_repeat_the_same_bytes() -> None:
    asked = [f"--kills={KILLS}", f"--events={EVENTS}", f"--rate={RATE}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stderr)
    figures = json.loads(done.stdout)
    wrong = {name: figures[name] for name in ("lost", "double", "predictions_differing")}
    assert wrong == {"lost": 0, "double": 0, "predictions_differing": 0}
    assert (figures["scores_differing"], figures["beyond_oracle"], figures["ended_by_themselves"]) == (
        0,
        0,
        0,
    )
    assert done.returncode == 0
    assert figures["kills"] == KILLS
    assert figures["predictions"] == EVENTS
    assert figures["events"] == EVENTS + figures["repeats"]
    # It happened: workers that owned something died, and their successors went on.
    assert figures["recoveries"] > 0
    assert figures["recovery_seconds_p95"] > 0
    assert figures["copied_rows"] + figures["copies"] > 0
    assert figures["sampled_rows"] > 0
