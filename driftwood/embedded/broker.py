"""The embedded Kafka broker: for trying Driftwood and for its fast tests, never for data that matters."""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from driftwood.embedded.child import Child
from features.errors import OperatorError

# What librdkafka's broker keeps of one partition, fixed in its source (src/rdkafka_mock.c, rd_kafka_mock_partition_new):
# the oldest record sets are dropped on append, whether they were read or not, and a reader that fell behind is not told.
# Whoever produces to the embedded broker keeps what is unread well below this.
RETAINED_BYTES_PER_PARTITION = 5 * 1024 * 1024
RETAINED_RECORD_SETS_PER_PARTITION = 100_000

TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")  # Kafka's rule: org.apache.kafka.common.internals.Topic

START_WITHIN_S = 20.0  # it takes 0.1 s; the rest is for a machine that is busy with everything else
ANSWER_WITHIN_S = 10.0  # creating a topic is one call under one lock in the child

MOCK_CLUSTER = Path(__file__).with_name("mock_cluster.py")


class EmbeddedBroker:
    """librdkafka's mock broker in a child process, on a free loopback port.

    It serves producers (idempotent ones too), consumer groups and commits to confluent-kafka and aiokafka clients. It
    keeps everything in memory, at most `RETAINED_BYTES_PER_PARTITION` and `RETAINED_RECORD_SETS_PER_PARTITION` of each
    partition, and ends with the process that started it. It knows no CreateTopics request: `create_topic` is the only
    way to a chosen number of partitions; a topic that a client merely names gets 4.

    Consumer groups are slower than on a real broker in one respect: only a group's first join is quick. Whenever a member
    joins, leaves or times out later, the group stands still for its session timeout less 1 s (src/rdkafka_mock_cgrp.c,
    rd_kafka_mock_cgrp_classic_rebalance); use session timeouts of a few seconds here. All members of a group must have
    the same first assignor, or the broker aborts.

    >>> with EmbeddedBroker().start({"events": 2}) as broker:
    ...     broker.create_topic("labels", 1)
    ...     broker.address.split(":")[0]
    '127.0.0.1'
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._child: Child | None = None
        self._address = ""
        self._topics: dict[str, int] = {}

    def start(self, topics: Mapping[str, int] | None = None) -> Self:
        """Start the broker and create the topics (name to number of partitions).

        Raises:
            OperatorError: librdkafka was not found, the broker did not start, or a topic could not be created.
        """
        command = [sys.executable, "-I", str(MOCK_CLUSTER), str(librdkafka_path())]
        self._folder = tempfile.TemporaryDirectory(prefix="driftwood-broker-")  # of its log
        self._child = Child("The embedded broker", command, Path(self._folder.name, "broker.log"))
        try:
            self._address = self._child.answer(START_WITHIN_S)["address"]
            for name, partitions in (topics or {}).items():
                self.create_topic(name, partitions)
        except OperatorError:
            self.stop()
            raise
        return self

    @property
    def address(self) -> str:
        """`host:port` for a client's bootstrap servers."""
        return self._address

    @property
    def pid(self) -> int:
        """Process id of the broker."""
        return self._running().pid

    @property
    def topics(self) -> Mapping[str, int]:
        """The topics created here, with their numbers of partitions."""
        return dict(self._topics)

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic; nothing happens when it was created here with the same number of partitions.

        Raises:
            OperatorError: the topic exists otherwise, or the broker refused the name or the number.
        """
        # The mock broker takes any name and zero partitions; a real Kafka must not be the first to refuse them.
        if partitions < 1 or not TOPIC_NAME.fullmatch(name) or name in {".", ".."}:
            raise OperatorError(
                f"Topic {name!r} with {partitions} partitions: expected at least 1 partition, and 1 to 249 letters, "
                "digits, dots, underscores and hyphens in the name."
            )
        existing = self._topics.get(name)
        if existing == partitions:
            return
        if existing is not None:
            raise OperatorError(
                f"Topic {name!r} has {existing} partitions and cannot get {partitions} while it exists."
            )
        self._running().ask({"create": name, "partitions": partitions}, ANSWER_WITHIN_S)
        self._topics[name] = partitions

    def stop(self) -> None:
        """End the broker; what it kept is gone. A second call does nothing."""
        child, self._child = self._child, None
        if child is not None:
            child.stop(within_s=5.0)
        if self._folder is not None:
            self._folder.cleanup()
        self._topics.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> Child:
        if self._child is None:
            raise OperatorError("The embedded broker is not running: call start() first.")
        return self._child


def librdkafka_path() -> Path:
    """The librdkafka that the confluent-kafka wheel carries.

    Raises:
        OperatorError: confluent-kafka is not installed, or was built against a librdkafka that lies elsewhere.
    """
    spec = importlib.util.find_spec("confluent_kafka")
    if spec is None or spec.origin is None:
        raise OperatorError("confluent-kafka is not installed. Install the project with 'make' or 'uv sync'.")
    package = Path(spec.origin).parent
    # Where wheels put their libraries: auditwheel beside the package (Linux), delocate inside it (macOS).
    places = [
        (package.with_name("confluent_kafka.libs"), "librdkafka*.so*"),
        (package / ".dylibs", "librdkafka*.dylib"),
    ]
    found = [path for folder, pattern in places for path in sorted(folder.glob(pattern))]
    if not found:
        searched = " and ".join(str(folder / pattern) for folder, pattern in places)
        raise OperatorError(
            f"No librdkafka at {searched}: this confluent-kafka was not installed from a wheel. Install the wheel "
            "(pip install --only-binary confluent-kafka confluent-kafka), or use a real Kafka by its address."
        )
    return found[0]
