"""Servers and settings for every test.

Session fixtures start a server once; what a test must not share it gets from a function fixture: a flushed Redis
(`redis_url`) and names of its own for topics, groups and keys (`unique_name`).
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from deploy.kafka.real_kafka import RealKafka, what_is_missing
from driftwood.embedded import EmbeddedBroker, EmbeddedRedis, Runtime
from tests.delaying_proxy import DelayingProxy
from tests.own_redis import OwnRedis, own_redis
from tests.worker_process import Start, worker_processes

# Deadlines are off: a slow machine is no bug, and timed assertions are none of the tests' business.
settings.register_profile(
    "quick", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=2_000)
settings.load_profile("quick")  # `pytest --hypothesis-profile=thorough` overrides this

# A test's folder decides these markers, so none can forget them; `crash` is set by hand where a process is killed.
MARKED_FOLDERS = ("property", "functional", "integration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by folder, and refuse one that uses the real Kafka without being an integration test."""
    for item in items:
        folder = item.path.relative_to(item.config.rootpath).parts[1:2]
        item.add_marker(folder[0]) if folder and folder[0] in MARKED_FOLDERS else None
        if "kafka" in getattr(item, "fixturenames", ()) and item.get_closest_marker("integration") is None:
            raise pytest.UsageError(f"{item.nodeid} uses the fixture 'kafka': move it to tests/integration.")


@pytest.fixture(scope="session")
def embedded() -> Iterator[Runtime]:
    """Embedded broker and Redis, shared by all tests of the session: use `unique_name` and `redis_url`."""
    with Runtime().start() as runtime:
        yield runtime


@pytest.fixture(scope="session")
def embedded_broker(embedded: Runtime) -> EmbeddedBroker:
    """The broker of `embedded`; create topics with `embedded_broker.create_topic(name, partitions)`."""
    return embedded.broker


@pytest.fixture(scope="session")
def embedded_redis(embedded: Runtime) -> EmbeddedRedis:
    """The Redis of `embedded`, not flushed: most tests want `redis_url`."""
    return embedded.redis


@pytest.fixture
def redis_url(embedded_redis: EmbeddedRedis) -> str:
    """URL of the embedded Redis, empty at the start of the test."""
    address = urlsplit(embedded_redis.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10.0) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(5) == b"+OK\r\n"
    return embedded_redis.url


@pytest.fixture(scope="session")
def kafka_proxy() -> Iterator[DelayingProxy]:
    """A proxy in front of `kafka`: a client that bootstraps at its address stays behind it."""
    with DelayingProxy() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, kafka_proxy: DelayingProxy) -> Iterator[RealKafka]:
    """A real single-node Apache Kafka, shared by all tests of the session: use `unique_name`."""
    _need_real_kafka()
    with RealKafka().start(tmp_path_factory.mktemp("kafka"), proxy_port=kafka_proxy.port) as running:
        kafka_proxy.target = ("127.0.0.1", running.second_port)
        yield running


@pytest.fixture
def kafka_data_dir(tmp_path: Path) -> Path:
    """A folder for a Kafka of the test's own (`RealKafka().start(kafka_data_dir)`), where it kills or restarts one."""
    _need_real_kafka()
    return tmp_path / "kafka"


@pytest.fixture(scope="module")
def module_kafka_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for a Kafka that the tests of a module kill and restart in turn."""
    _need_real_kafka()
    return tmp_path_factory.mktemp("kafka")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts worker processes, which end with the test."""
    with worker_processes(tmp_path / "workers") as starting:
        yield starting


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnRedis]:
    """A Redis of the test's own, to be stopped, filled or emptied."""
    with own_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def unique_name(request: pytest.FixtureRequest) -> str:
    """A name that no other test has, legal as a topic, group and key prefix; it begins with the test's name."""
    test = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")[:60]
    return f"{test}-{uuid.uuid4().hex[:8]}"


def _need_real_kafka() -> None:
    missing = what_is_missing()
    if missing is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must test against a real Kafka: {missing}")
    pytest.skip(f"real Kafka left out: {missing}")
