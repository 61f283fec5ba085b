"""Monitors that end themselves by SIGKILL at a named point, as `tests/dying_worker.py` has the workers of the predict road."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.dying_worker import NOTE, Death, DyingWorkers, fork_workers, replace_methods

# "after trigger": what an alert triggers stands on control, the alert is not written. "after deliver": everything is
# written, and no state knows of it. "in store": Redis has the state, and the monitor does not know.
SLICE_POINTS = ("before deliver", "after deliver", "in store")
ALERT_POINTS = ("before deliver", "after trigger", "after deliver")

# Of slices it dies with the second batch of which something came, so that the one before it is stored or not, as it comes.
AT_NUMBER = {"watch-slices": 2, "watch-alerts": 1}


class DyingMonitors(DyingWorkers):
    """One monitor after another: each works from `begin` until it has died."""

    program: ClassVar[Path] = Path(__file__)


class _Scene:
    """Counts how often the point was reached, and dies there."""

    def __init__(self, death: Death) -> None:
        self._death, self._reached = death, Counter[str]()

    def reach(self, stage: str, point: str) -> None:
        if (stage, point) != (self._death.stage, self._death.point):
            return
        self._reached[stage] += 1
        if self._reached[stage] == AT_NUMBER[stage]:
            Path(NOTE).write_text(json.dumps({"stage": stage, "point": point}))
            os.kill(os.getpid(), signal.SIGKILL)


def _set_the_scene(death: Death) -> None:
    from streams.alert_delivery import AlertDelivery
    from streams.watch_stage import WatchStage

    scene = _Scene(death)
    finish, store, trigger = WatchStage.finish, WatchStage._store, AlertDelivery._trigger
    emitting: dict[str, Sequence[Any]] = {}

    async def watched_finish(stage: Any, memory: Any, begun: Any) -> Any:
        emitting[stage.name] = begun.emitted
        if begun.emitted:
            scene.reach(stage.name, "before deliver")
        if begun.state is None and begun.emitted:  # there is no store to be watched
            await stage.deliver(begun.emitted)
            scene.reach(stage.name, "after deliver")
        return await finish(stage, memory, begun)

    async def watched_store(stage: Any, memory: Any, last: int, state: bytes) -> Any:
        if emitting[stage.name]:
            scene.reach(stage.name, "after deliver")
        refused = await store(stage, memory, last, state)
        if emitting[stage.name]:
            scene.reach(stage.name, "in store")
        return refused

    async def watched_trigger(delivery: AlertDelivery, alert: Any) -> None:
        await trigger(delivery, alert)
        if alert.triggers:
            scene.reach("watch-alerts", "after trigger")

    replace_methods(WatchStage, finish=watched_finish, _store=watched_store)
    replace_methods(AlertDelivery, _trigger=watched_trigger)


def main() -> None:
    """Be what forks these monitors."""
    import streams.watch_run  # noqa: F401
    from tests import monitor_process

    fork_workers(_set_the_scene, monitor_process.main)


if __name__ == "__main__":
    main()
