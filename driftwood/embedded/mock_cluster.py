"""librdkafka's in-process Kafka broker in a process of its own: run by `EmbeddedBroker`, not imported by anything.

librdkafka, the C library inside the confluent-kafka wheel, carries a broker that it tests itself with: it listens on a
real loopback port and speaks enough of Kafka's protocol for producers, consumer groups and commits. It lives inside the
process that makes it, so it gets one: a worker that is killed leaves the log as it was.

The parent talks JSON lines. On stdin `{"create": "name", "partitions": 4}`, on stdout first `{"address":
"127.0.0.1:…"}` and then `{}` or `{"error": "…"}` for each command. The process ends when stdin closes.

Only the standard library is imported, and the library's path is an argument, so it starts in a few milliseconds.
Functions and their argument types: librdkafka's `src/rdkafka_mock.h` and `src/rdkafka.h`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from typing import Any

RD_KAFKA_PRODUCER = 0  # rd_kafka_type_t: the cluster needs a client instance to live in, of whichever type
TOPIC_ALREADY_EXISTS = 36  # rd_kafka_resp_err_t
GROUP_REBALANCE_DELAY_MS = (
    20  # how long a new group waits for more members; librdkafka's 3,000 ms is a start 3 s slower
)
ERROR_TEXT_BYTES = 512  # the size that librdkafka's own examples use for error texts


class MockCluster:
    """One mock cluster with one broker, driven by ctypes."""

    def __init__(self, library_path: str) -> None:
        self._library = _declared(ctypes.CDLL(library_path))
        text = ctypes.create_string_buffer(ERROR_TEXT_BYTES)
        client = self._library.rd_kafka_new(RD_KAFKA_PRODUCER, None, text, len(text))
        if not client:
            raise RuntimeError(f"rd_kafka_new failed: {text.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(client, 1)
        if not self._cluster:
            raise RuntimeError("rd_kafka_mock_cluster_new failed: no loopback port could be bound")
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, GROUP_REBALANCE_DELAY_MS)

    @property
    def address(self) -> str:
        """`host:port` that clients bootstrap from."""
        found: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return found.decode()

    def create_topic(self, name: str, partitions: int) -> str | None:
        """Create a topic; None when it was created, else what was wrong."""
        code = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if code == 0:
            return None
        if code == TOPIC_ALREADY_EXISTS:
            return (
                f"topic {name!r} exists already: it was created before, or a client asked for it too early and the "
                "broker created it with its default of 4 partitions. Create topics before clients use them"
            )
        text: bytes = self._library.rd_kafka_err2str(code)
        return f"topic {name!r} with {partitions} partitions: {text.decode()}"


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    # Without these ctypes would cut 64-bit pointers down to C ints.
    pointer, text, integer, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_new": (pointer, [integer, pointer, text, size]),
        "rd_kafka_err2str": (text, [integer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, integer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (integer, [pointer, text, integer, integer]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (returned, taken) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = returned, taken
    return library


def main() -> None:
    """Serve until stdin closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", help="path of librdkafka's shared library")
    try:
        cluster = MockCluster(parser.parse_args().library)
    except (OSError, AttributeError, RuntimeError) as error:
        _say({"error": str(error)})
        return
    _say({"address": cluster.address})
    for line in sys.stdin:
        command = json.loads(line)
        problem = cluster.create_topic(command["create"], command["partitions"])
        _say({"error": problem} if problem else {})


def _say(answer: dict[str, str]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
