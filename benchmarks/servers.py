"""A broker and a Redis of a benchmark's own, on loopback, that end with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from deploy.kafka.real_kafka import HERE, RealKafka
from driftwood.embedded import EmbeddedBroker, EmbeddedRedis
from streams.settings import Settings
from streams.topics import Topic, TopicAdmin

BROKERS = ("kafka", "embedded")
ANSWER_WITHIN_S = 30.0  # a broker that shares two cores with everything else may be slow to answer


@dataclass(frozen=True)
class Servers:
    """Where they are; `pids` by name, to watch their CPU; `versions` for people."""

    brokers: str
    redis_url: str
    pids: dict[str, int]
    versions: dict[str, str]

    @property
    def addresses(self) -> dict[str, str]:
        """As the settings name them."""
        return {"brokers": self.brokers, "redis_url": self.redis_url}


@contextmanager
def servers(broker: str, folder: Path, topics: Iterable[Topic]) -> Iterator[Servers]:
    """Start both, with the topics on the broker; Redis keeps an append-only file, as it would in production.

    Raises `OperatorError` where one of them does not start; for "kafka" a JDK is needed.
    """
    with ExitStack() as ending:
        redis = ending.enter_context(EmbeddedRedis().start(folder / "redis"))
        started: RealKafka | EmbeddedBroker
        if broker == "kafka":
            started = ending.enter_context(RealKafka().start(folder / "kafka"))
            TopicAdmin(Settings(brokers=started.address)).create(topics)
        else:
            started = ending.enter_context(
                EmbeddedBroker().start({topic.name: topic.partitions for topic in topics})
            )
        versions = {"redis-server": redis.version}
        versions |= {"apache-kafka": kafka_version()} if broker == "kafka" else {"broker": "embedded"}
        yield Servers(started.address, redis.url, {"broker": started.pid, "redis": redis.pid}, versions)


def kafka_version() -> str:
    """Of the jars that were fetched: kafka_<Scala>-<version>.jar."""
    found = sorted(path.stem for path in (HERE / "libs").glob("kafka_*.jar"))
    return found[0].partition("-")[2] if found else "unknown"


class LogEnds:
    """How many records a topic has had, as cheaply as a broker can be asked."""

    def __init__(self, brokers: str, topic: Topic) -> None:
        self._client = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library leaves it without types
        self._asked = {TopicPartition(topic.name, number): latest for number in range(topic.partitions)}

    def total(self) -> int:
        """The sum of the ends of its partitions."""
        answers = self._client.list_offsets(self._asked, request_timeout=ANSWER_WITHIN_S).values()
        return sum(int(answer.result().offset) for answer in answers)
