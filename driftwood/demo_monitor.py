"""The monitor of a demo: how many alerts are open while events flow, and all alerts when it has seen everything."""

from __future__ import annotations

import time
from typing import Any

from driftwood.demo_worker import WorkerChild
from features.errors import OperatorError
from models.drift.alert import Alert, decoded
from streams.settings import Settings
from streams.topic_log import TopicLog
from streams.topics import PipelineTopics

# Records of hop-join, outcomes, dead-letters and drift-slices are read by one process: four partitions.
WATCHED_TOPICS = 4

# Between two looks at what is open; its metrics are asked over HTTP.
LOOK_EVERY_S = 1.0

# All was sent and answered: so long the monitor may take for what is left.
DONE_WITHIN_S = 60.0

# Looks in a row at which nothing was left: what the first stages find is read by the last one.
STILL = 3


class DemoMonitor:
    """Looks at a monitor through its metrics and its topic, as anybody could."""

    def __init__(self, worker: WorkerChild, settings: Settings, topics: PipelineTopics) -> None:
        self._worker, self._settings, self._topics = worker, settings, topics
        self._looked_s = float("-inf")
        self._open = 0

    @property
    def open_alerts(self) -> int:
        """How many alerts are open, as of a second ago at most."""
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._open = int(self._worker.metrics().get("driftwood_drift_alerts_open", 0))
            self._looked_s = time.monotonic()
        return self._open

    def alerts(self) -> list[dict[str, Any]]:
        """One for each alert, in the order in which they were raised, when the monitor has seen everything.

        Raises `OperatorError` when it ends or takes too long.
        """
        self._wait()
        place = (self._topics.learning.drift_alerts.name, 0)
        log = TopicLog(self._settings)
        records = [one for batch in log.read(place, *log.bounds(place)) for one in batch]
        by_name: dict[str, list[Alert]] = {}
        for alert in (decoded(record.value or b"") for record in records):
            by_name.setdefault(alert.alert, []).append(alert)
        return [_summed(alerts) for alerts in by_name.values()]

    def _wait(self) -> None:
        deadline, still = time.monotonic() + DONE_WITHIN_S, 0
        while still < STILL:
            self._worker.check()
            metrics = self._worker.metrics()
            left = metrics.get("driftwood_lag_records", 1) + metrics.get("driftwood_waiting_records", 0)
            still = still + 1 if left == 0 else 0
            if time.monotonic() > deadline:
                raise OperatorError(f"the monitor was {left:,.0f} records behind after {DONE_WITHIN_S:g} s")
            time.sleep(0.5)


def _summed(alerts: list[Alert]) -> dict[str, Any]:
    first, last = alerts[0], alerts[-1]
    return {
        "alert": first.alert,
        "raised": first.at,
        "resolved": last.at if last.status == "resolved" else None,
        "severity": max((one.severity for one in alerts), key=["warning", "critical"].index),
        "title": max(alerts, key=lambda one: max((sig.strength for sig in one.signals), default=0.0)).title,
    }
