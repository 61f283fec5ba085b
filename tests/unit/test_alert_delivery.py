"""An alert stands on its topic once, and triggers once: whatever stands there already, and wherever it broke off."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from driftwood import Drift, bounded_tree, scaled_logistic
from features.store import Position
from models.drift.alert import Alert
from models.drift.alert import decoded as decoded_alert
from models.drift.signals import Signal
from streams.alert_delivery import AlertDelivery
from streams.control import LearnerCommand, RetrainRequest, decoded
from streams.metrics import Metrics
from streams.watch_alerts import Placed
from tests.in_process import CrashedError, CrashingLog, Log
from tests.monitor_world import MemoryLogs, topics_of, watched_orders

PIPELINE = watched_orders(Drift(), online=[scaled_logistic(), bounded_tree()])
TOPICS = topics_of(PIPELINE, 1)


def alert(
    name="orders/data/amount/x", status="raised", sequence=0, triggers=(), subject="amount", level="data"
):
    signal = Signal(level, subject, "ks", 0, 2.0, 1.0, 2.0)
    return Alert(
        *(
            name,
            status,
            sequence,
            "orders",
            "warning",
            "2024-05-01T00:00:00Z",
            "2024-05-01T00:00:00Z",
            "it moved",
        ),
        *((level,), (signal,), 1.0, (), "drift-alerts", triggers),
    )


def placed(*alerts):
    return [Placed(one, Position(7, place)) for place, one in enumerate(alerts)]


class Delivered:
    """Deliveries to one log, each by somebody new who has looked before."""

    def __init__(self):
        self.log = Log({topic.name: topic.partitions for topic in TOPICS})
        self.metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0)

    def deliver(self, *alerts, publisher=None):
        logs = MemoryLogs(self.log)
        made = AlertDelivery(
            *(PIPELINE, TOPICS.learning, publisher or self.log),
            lambda place: logs.read(place, *logs.bounds(place)),
            self.metrics,
        )
        made.look()
        asyncio.run(made.deliver(placed(*alerts)))

    def alerts(self):
        found = [decoded_alert(one.value or b"") for one in self.log.topic("orders.drift-alerts")]
        return [(one.status, one.sequence) for one in found]

    def control(self):
        return [decoded(one.value) for one in self.log.topic("orders.control")]

    def commands(self):
        return [dict(one.headers)["learner-command"] for one in self.log.topic("orders.outcomes")]


@pytest.fixture
def delivered():
    return Delivered()


def test_what_stands_there_is_not_written_again(delivered):
    delivered.deliver(alert(), alert(status="updated", sequence=1))
    delivered.deliver(alert(), alert(status="updated", sequence=1), alert(status="resolved", sequence=2))
    assert delivered.alerts() == [("raised", 0), ("updated", 1), ("resolved", 2)]


def test_the_record_has_the_alert_as_its_key_its_position_and_what_cloud_events_want(delivered):
    delivered.deliver(alert())
    [record] = delivered.log.topic("orders.drift-alerts")
    assert record.key == b"orders/data/amount/x"
    headers = dict(record.headers)
    assert headers["position"] == b"7/0" and headers["pipeline_version"] == PIPELINE.version.encode()
    assert headers["ce_id"] == b"orders/data/amount/x/0" and headers["ce_type"] == b"driftwood.drift-alert.v1"
    assert headers["ce_source"] == b"orders.drift-alerts" and headers["ce_time"] == b"2024-05-01T00:00:00Z"


def test_junk_on_the_topics_is_passed_over(delivered):
    for topic in ("orders.drift-alerts", "orders.control"):
        for value in (None, b"", b"junk", b"{}"):
            delivered.log.append(topic, 0, None, value)
    delivered.deliver(alert(triggers=("retrain-requested",)))
    assert delivered.control()[-1] == RetrainRequest(
        "orders/data/amount/x", "it moved", "2024-05-01T00:00:00Z", "drift watch: orders/data/amount/x"
    )


@pytest.mark.parametrize(
    ("subject", "learners"),
    [
        ("amount", ["scaled_logistic", "bounded_tree"]),
        ("bounded_tree", ["bounded_tree"]),
        ("score", ["scaled_logistic", "bounded_tree"]),
    ],
)
def test_the_learners_that_an_alert_is_about_are_frozen_or_all_of_them(delivered, subject, learners):
    delivered.deliver(alert(triggers=("freeze",), subject=subject, level="concept"))
    found = [one for one in delivered.control() if isinstance(one, LearnerCommand)]
    assert [(one.action, one.learner) for one in found] == [("freeze", name) for name in learners]
    assert delivered.commands() == [str(at).encode() for at in range(len(learners))]


@pytest.mark.parametrize("kept", range(6))
def test_wherever_a_delivery_breaks_off_everything_stands_there_once_in_the_end(delivered, kept):
    """Two commands with two records each, a request and the alert: six deliveries, of which `kept` are made."""
    raised = alert(triggers=("reset", "retrain-requested"))

    class Breaking:
        left = kept

        async def deliver(self, messages):
            if self.left == 0:
                raise CrashedError
            self.left -= 1
            return await delivered.log.deliver(messages)

    with pytest.raises(CrashedError):
        delivered.deliver(raised, publisher=Breaking())
    delivered.deliver(raised)
    delivered.deliver(raised)
    assert delivered.alerts() == [("raised", 0)]
    kinds = [(type(one).__name__, getattr(one, "learner", "")) for one in delivered.control()]
    assert kinds == [
        ("LearnerCommand", "scaled_logistic"),
        ("LearnerCommand", "bounded_tree"),
        ("RetrainRequest", ""),
    ]
    # The learner drops copies by the place in control.
    assert set(delivered.commands()) == {b"0", b"1"}


def test_alerts_are_counted_by_level_severity_and_status(delivered):
    delivered.deliver(alert(), alert(status="resolved", sequence=1))
    labels = {"level": "data", "severity": "warning", "status": "resolved"}
    assert delivered.metrics.registry.get_sample_value("driftwood_drift_alerts_total", labels) == 1


def test_a_broken_delivery_is_an_error_and_not_forgotten(delivered):
    publisher = CrashingLog(delivered.log, armed=True)
    with pytest.raises(CrashedError):
        delivered.deliver(alert(), publisher=publisher)
    assert delivered.alerts() == []
