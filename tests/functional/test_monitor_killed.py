"""The monitor is killed at each of its points, on the embedded broker and Redis, while events flow.

In the end its topics say what those of an undisturbed one over the same records say: slices without their copies, and every
alert and what it triggered once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import Producer

from driftwood.embedded import Runtime
from models.drift.alert import encoded
from models.drift.columns import watched_columns
from streams.batch import Partition
from streams.control import RetrainRequest, decoded
from streams.settings import Settings
from streams.topic_log import TopicLog
from streams.topics import TopicAdmin
from tests.dying_monitor import ALERT_POINTS, SLICE_POINTS, DyingMonitors
from tests.dying_worker import Death
from tests.in_process import Log, LogRecord
from tests.monitor_process import MonitorProcess
from tests.monitor_world import WATCHED, Monitor, ShopWorld, changed_world, topics_of, without_watch
from tests.worker_process import WITHIN_S, until

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

PARTITIONS = 2
JOINED = "partitions of this worker"
DEATHS = [
    *(Death("watch-slices", point) for point in SLICE_POINTS),
    *(Death("watch-alerts", point) for point in ALERT_POINTS),
]
FILE = "from tests.monitor_world import WATCHED\n\npipeline = WATCHED\n"


@dataclass
class Killed:
    """The run: where monitors died, what the topics have in the end (`left`), and what an undisturbed one made (`peace`)."""

    world: ShopWorld
    settings: Settings
    notes: list[dict[str, Any]] = field(default_factory=list)
    left: Log = field(init=False)
    peace: Log = field(init=False)

    def __post_init__(self) -> None:
        config: dict[str, Any] = {"bootstrap.servers": self.settings.brokers, "linger.ms": 1}
        self._producer = Producer(config)
        joined = [self.world.log.records["orders.hop-join", number] for number in range(PARTITIONS)]
        self._waiting = [
            (number, record) for pair in zip(*joined, strict=False) for number, record in enumerate(pair)
        ]
        longest = min(map(len, joined))
        self._waiting += [(number, one) for number, every in enumerate(joined) for one in every[longest:]]

    def send(self, count: int) -> None:
        """So many records more, in order."""
        chosen, self._waiting = self._waiting[:count], self._waiting[count:]
        for number, record in chosen:
            self._producer.produce(
                "orders.hop-join", record.value, partition=number, headers=list(record.headers)
            )
        assert self._producer.flush(60.0) == 0

    def records(self, place: Partition) -> list[LogRecord]:
        """What stands in a partition."""
        log = TopicLog(self.settings)
        return [
            LogRecord(one.offset, 0, one.key, one.value, one.headers)
            for batch in log.read(place, *log.bounds(place))
            for one in batch
        ]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    folder = tmp_path_factory.mktemp("monitor")
    path = folder / "watched.py"
    path.write_text(FILE)
    topics = topics_of(WATCHED, PARTITIONS)
    with Runtime().start({topic.name: topic.partitions for topic in topics}) as runtime:
        values: dict[str, Any] = {
            "brokers": runtime.broker_address,
            "redis_url": runtime.redis_url,
            "partitions": PARTITIONS,
            "models_dir": folder / "models",
            "session_timeout": "6s",
        }
        settings = Settings(**values)
        identities = TopicAdmin(settings).check(topics)
        run = Killed(changed_world(PARTITIONS, identities), settings)
        dying = DyingMonitors(path, folder, **values, batch_max_records=20)
        try:
            _kill(run, dying)
        finally:
            dying.kill()
        last = MonitorProcess(path, folder, **values).started()
        try:
            run.send(1_000_000)
            _finish(run, identities)
            assert last.stop() == 0
        finally:
            last.kill()
        run.left = _read(run)
        yield run


def _kill(run: Killed, dying: DyingMonitors) -> None:
    for death in DEATHS:
        joined = dying.stderr.count(JOINED)
        dying.begin(death)
        deadline = time.monotonic() + 2 * WITHIN_S
        while (code := dying.exit_code(within_s=0.1)) is None:
            assert time.monotonic() < deadline, f"it lives on: {death}\n{dying.stderr}"
            if dying.stderr.count(JOINED) > joined:  # what comes while it starts would all be one batch
                run.send(10)
        assert code == -signal.SIGKILL, f"{death}\n{dying.stderr}"
        run.notes.append(dying.note)


def _expected(run: Killed, identities: dict[str, str]) -> Log:
    log = without_watch(run.world.log, run.world.topics)
    Monitor(WATCHED, log, identities=identities).run()
    return log


def _finish(run: Killed, identities: dict[str, str]) -> None:
    """Until the last slice of each partition was merged, and what follows from it written."""
    run.peace = _expected(run, identities)
    wanted = [encoded(alert) for alert in run.world.alerts(run.peace)]
    until(lambda: len(run.records(("orders.drift-alerts", 0))) >= len(wanted), "all alerts", 2 * WITHIN_S)
    slices = sum(len(found) for found in run.world.slices(run.peace).values())
    until(
        lambda: sum(len(one) for one in run.world.slices(_read(run)).values()) >= slices,
        "all slices",
        WITHIN_S,
    )


def _read(run: Killed) -> Log:
    log = Log(dict(run.world.log.partitions))
    for topic in ("drift-slices", "drift-alerts", "control", "outcomes"):
        log.records[f"orders.{topic}", 0] = run.records((f"orders.{topic}", 0))
    return log


def test_each_monitor_died_at_its_point(killed: Killed) -> None:
    assert [(note["stage"], note["point"]) for note in killed.notes] == [
        (one.stage, one.point) for one in DEATHS
    ]


def test_slices_without_copies_are_those_of_an_undisturbed_monitor(killed: Killed) -> None:
    columns = watched_columns(WATCHED)
    assert killed.world.slices(killed.left) == killed.world.slices(killed.peace)
    assert killed.world.merged(columns, killed.left) == killed.world.merged(columns, killed.peace)
    written = killed.left.topic("orders.drift-slices")
    assert len(written) > len(killed.peace.topic("orders.drift-slices")), "the kills have left copies"


def test_alerts_are_those_of_an_undisturbed_monitor_none_twice_and_none_unresolved(killed: Killed) -> None:
    found = [encoded(alert) for alert in killed.world.alerts(killed.left)]
    assert found == [encoded(alert) for alert in killed.world.alerts(killed.peace)]
    assert len(found) >= 3


def test_every_trigger_stands_on_control_once_and_reaches_the_learner(killed: Killed) -> None:
    controls = [
        [decoded(record.value) for record in log.topic("orders.control")]
        for log in (killed.left, killed.peace)
    ]
    assert controls[0] == controls[1]
    assert any(isinstance(one, RetrainRequest) for one in controls[0])
    # The learner drops copies by the place in control.
    commands = {dict(record.headers)["learner-command"] for record in killed.left.topic("orders.outcomes")}
    assert commands == {
        dict(record.headers)["learner-command"] for record in killed.peace.topic("orders.outcomes")
    }
