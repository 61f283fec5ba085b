"""A real single-node Apache Kafka as a child process, for integration tests and benchmarks.

It stands here, beside the files that it drives (`start`, `fetch`, the pom), and not in the product: the wheel carries
no Kafka, whoever runs Driftwood for real has one already.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from driftwood.embedded.child import KeptServer, wait_until
from driftwood.embedded.redis import free_port
from features.errors import OperatorError

HERE = Path(__file__).parent
OLDEST_JAVA = 17  # Kafka 4 brokers: KIP-1013
START_WITHIN_S = (
    120.0  # it takes about 5 s with two free cores; formatting and starting are two Java processes
)
GRACE_S = 20.0  # from SIGTERM to SIGKILL: a controlled shutdown writes snapshots and closes the log


class RealKafka:
    """Apache Kafka on loopback; it ends together with the process that started it.

    `kill` and then `start` on the same folder is a broker's crash and return: same address, same topics, same records.
    """

    def __init__(self) -> None:
        self._server: KeptServer | None = None
        self.port = self.second_port = 0

    def start(
        self,
        data_dir: Path,
        port: int | None = None,
        extra_properties: Mapping[str, str] | None = None,
        proxy_port: int | None = None,
    ) -> Self:
        """Start Kafka and wait until it answers.

        Args:
            data_dir: where the log lies; made when it does not exist.
            port: of the broker; by default the one that this folder had before, else a free one.
            extra_properties: lines for server.properties, over those of the template.
            proxy_port: of a proxy in front of a second listener, `second_port`: whoever asks there is told to come to the
                proxy, for everything.

        Raises:
            OperatorError: something that it needs is missing, or it did not start; the message has the end of its log.
        """
        missing = what_is_missing()
        if missing is not None:
            raise OperatorError(missing)
        subprocess.run([HERE / "fetch"], check=True, stdout=2)  # stdout is the caller's, for its result
        data_dir.mkdir(parents=True, exist_ok=True)
        self.port, controller_port, self.second_port = _ports(data_dir, port)
        properties = dict(extra_properties or {})
        if proxy_port is not None:
            properties |= _two_listeners(self.port, controller_port, self.second_port, proxy_port)
        settings = [f"{name}={value}" for name, value in properties.items()]
        command = [str(HERE / "start"), str(data_dir), str(self.port), str(controller_port), *settings]
        self._server = KeptServer(
            "Kafka", command, data_dir / "kafka.out", grace_s=GRACE_S, lock=data_dir / "kafka.lock"
        )
        try:
            wait_until(self._answers, self._server, START_WITHIN_S)
        except OperatorError:
            self.stop()
            raise
        return self

    @property
    def address(self) -> str:
        """`host:port` for a client's bootstrap servers."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the broker."""
        return self._running().server_pid

    def stop(self) -> None:
        """A controlled shutdown. A second call does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> KeptServer:
        if self._server is None:
            raise OperatorError("This Kafka is not running: call start() first.")
        return self._server

    def _answers(self) -> bool:
        try:
            return bool(
                AdminClient({"bootstrap.servers": self.address, "log_level": 0})
                .list_topics(timeout=1.0)
                .brokers
            )
        except KafkaException:
            return False


def what_is_missing() -> str | None:
    """One sentence about what a real Kafka would need on this machine, or None when everything is there."""
    if _java_version() < OLDEST_JAVA:
        return f"no JDK {OLDEST_JAVA} or newer (java) on PATH; install one, and Maven (mvn) for the jars"
    if not (HERE / "libs").is_dir() and shutil.which("mvn") is None:
        return "no Maven (mvn) on PATH to fetch Kafka's jars with; install it and run 'make kafka'"
    return None


def _java_version() -> int:
    # 17 from `openjdk version "17.0.15" 2025-04-15`, 1 from the old `java version "1.8.0_392"`, 0 when there is none.
    java = shutil.which("java", path=_java_path())
    if java is None:
        return 0
    said = subprocess.run(
        [java, "-version"], capture_output=True, text=True, timeout=60.0, check=False
    ).stderr
    match = re.search(r'version "(\d+)', said)
    return int(match[1]) if match else 0


def _java_path() -> str:
    home = os.environ.get("JAVA_HOME")
    return os.pathsep.join([*([str(Path(home, "bin"))] if home else []), os.environ.get("PATH", "")])


def _ports(data_dir: Path, wanted: int | None) -> tuple[int, int, int]:
    """Broker's, controller's and second listener's port, the same at every start on one folder: clients come back to
    the address they know."""
    kept = data_dir / "ports.json"
    ports = json.loads(kept.read_text()) if kept.exists() else [free_port() for _ in range(3)]
    port, controller_port, second_port = ports
    port = port if wanted is None else wanted
    kept.write_text(json.dumps([port, controller_port, second_port]))
    return port, controller_port, second_port


def _two_listeners(port: int, controller_port: int, second_port: int, proxy_port: int) -> dict[str, str]:
    return {
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},"
        f"PROXIED://127.0.0.1:{second_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
    }
