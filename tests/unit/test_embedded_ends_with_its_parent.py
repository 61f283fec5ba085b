from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from driftwood.embedded import Runtime
from driftwood.embedded.child import KeptServer
from features.errors import OperatorError

WITHIN_S = 120.0

PARENT = """
import json, signal
from driftwood.embedded import Runtime
runtime = Runtime().start({"events": 1})
print(json.dumps([runtime.broker.pid, runtime.redis.pid]), flush=True)
signal.pause()
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, f"not so within {WITHIN_S} s"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    # An orphan that nobody has waited for yet (a container without an init) has ended all the same.
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.crash
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name
)
def test_broker_and_redis_end_when_their_parent_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    # A killed parent cannot remove its temporary folders: they are left in this test's.
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    servers = json.loads(parent.stdout.readline())
    assert not any(ended(pid) for pid in servers)
    parent.send_signal(number)
    parent.communicate(timeout=WITHIN_S)
    wait_for(lambda: all(ended(pid) for pid in servers))


@pytest.mark.crash
@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a server outlives a keeper that is killed by SIGKILL"
)
def test_a_server_ends_when_its_keeper_is_killed(tmp_path: Path) -> None:
    server = KeptServer("A sleeper", ["sleep", "600"], tmp_path / "log", grace_s=1.0)
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: ended(server.server_pid))
    server.stop()


@pytest.mark.crash
def test_a_server_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    server = KeptServer("A deaf one", [sys.executable, "-c", stubborn], tmp_path / "log", grace_s=0.2)
    wait_for(lambda: "deaf" in (tmp_path / "log").read_text())
    server.stop()
    assert ended(server.server_pid)


@pytest.mark.crash
def test_a_killed_broker_is_an_error_that_says_so() -> None:
    with Runtime().start() as runtime:
        os.kill(runtime.broker.pid, signal.SIGKILL)
        with pytest.raises(OperatorError, match=r"The embedded broker ended with exit status -9"):
            runtime.broker.create_topic("events", 1)


def test_the_second_server_over_one_folder_starts_when_the_first_has_ended(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first = KeptServer("The first", ["sleep", "0.5"], tmp_path / "log", grace_s=1.0, lock=lock)
    second = KeptServer("The second", ["sleep", "600"], tmp_path / "log", grace_s=1.0, lock=lock)
    assert ended(first.server_pid)
    first.stop()
    second.stop()


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="No such file or directory: 'no-such-server'"):
        KeptServer("The missing one", ["no-such-server"], tmp_path / "log", grace_s=1.0)
