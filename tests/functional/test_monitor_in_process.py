"""The monitor over the roads of one process: an alert from a change in the events, the same one every time."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path

from benchmarks.quality.drift_world import Onset, World, calm, drifted, pipeline, start_us
from driftwood import Drift
from features.event_times import moment_us
from models.pipeline import Pipeline
from offline.in_process import InProcess
from offline.monitor_in_process import MonitorInProcess
from offline.one_order import Sent
from streams.settings import Settings

DAY_US = 86_400_000_000
ONSET = 10
HOUR_US = DAY_US // 24


def watched() -> Pipeline:
    """What came in the week before is the reference."""
    made = copy.copy(pipeline())
    object.__setattr__(made, "drift", Drift(1.0, reference="7d", segments=["producer"]))
    return made


def monitored(folder: Path, world: World) -> MonitorInProcess:
    """The world through the roads."""
    made = watched()
    monitor = MonitorInProcess(made, folder)
    road = InProcess(made, folder, monitor.watch, settings=Settings(partitions=1))
    times = world.times_us.tolist()
    sent = [Sent(at, "events", value) for at, value in zip(times, world.events(), strict=True)]

    async def drive() -> None:
        await road.open()
        await road.run(sent, HOUR_US)

    asyncio.run(drive())
    return monitor


def test_a_change_in_the_events_raises_an_alert_behind_it_and_a_second_run_tells_the_same(tmp_path):
    world = drifted(calm(3, 12, 300), 3, "category swap", Onset(ONSET))
    first, second = monitored(tmp_path / "a", world), monitored(tmp_path / "b", world)
    onset_us = start_us(3) + ONSET * DAY_US
    raised = [
        alert
        for alert in first.alerts
        if alert.status == "raised"
        and moment_us(alert.at, "at") > onset_us
        and any(signal.subject == "channel" for signal in alert.signals)
    ]
    assert len(raised) == 1
    assert moment_us(raised[0].at, "at") <= onset_us + DAY_US
    assert first.alerts == second.alerts
    assert first.slices == second.slices


def test_every_event_is_in_a_slice_and_slices_follow_each_other(tmp_path):
    world = calm(3, 2, 300)
    monitor = monitored(tmp_path, world)
    counted = sum(one.rows + one.late for one in monitor.slices)
    closed = (world.times_us < monitor.slices[-1].end_us).sum()
    assert counted == closed
    assert [one.start_us for one in monitor.slices] == list(
        range(monitor.slices[0].start_us, monitor.slices[-1].end_us, HOUR_US)
    )
