"""What a monitor tells Prometheus of the alerts that are open: what they say themselves."""

from __future__ import annotations

from collections import Counter

import pytest

from driftwood.drift_series import lives_of
from features.store import PartitionId
from models.drift.watch import DriftWatch
from streams.figures import watch_figures
from streams.topic_log import StoredRecord
from streams.watch_alerts import AlertWatch
from streams.watch_frames import SliceFrames
from streams.watch_stage import WatchMemory
from tests.watched_shop import COLUMNS, END_US, alerts, reference, shop, slices

TOPIC = "shop.drift-slices"


def test_open_alerts_their_strengths_and_psi_are_those_of_the_newest_records() -> None:
    frames = SliceFrames(shop, TOPIC)
    watch = AlertWatch(shop, frames, 1, lambda: DriftWatch(shop, COLUMNS, lambda _: reference()))
    for offset, one in enumerate(slices()):
        (sent,) = frames.of_slice("c/shop.hop-join/0", one)
        watch.take(StoredRecord(offset, 0, None, sent.value, list(sent.headers or ())))
    memory = WatchMemory(PartitionId("shop", TOPIC, 0, "c/t"), 0, 0, 0, 0, watch)
    told = {now.name: dict(now.read()) for now in watch_figures(lambda: [memory])}

    newest = [life.last for life in lives_of(alerts()) if life.open]
    assert newest
    counted = Counter((alert.levels[0], alert.severity) for alert in newest)
    assert told["driftwood_drift_alerts_open"] == counted
    signals = [signal for alert in newest for signal in alert.signals]
    weight = next(one for one in signals if (one.subject, one.statistic) == ("weight_kg", "missing"))
    assert told["driftwood_drift_strength"]["data", "weight_kg", "missing", ""] == weight.strength
    assert told["driftwood_drift_psi"]["weight_kg",] == pytest.approx(weight.evidence.psi)
    assert told["driftwood_drift_psi"].keys() == {
        (one.subject,) for one in signals if one.evidence.psi is not None
    }
    assert told["driftwood_drift_watched_to_seconds"] == {(): END_US / 1e6}
    assert told["driftwood_drift_slices_waiting"] == {(): 0}
