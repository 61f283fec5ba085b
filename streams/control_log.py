"""The topic `control`, read from its beginning: the watch that a worker keeps on it, and the end of it for commands."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.errors import TopicError, UnreachableError
from streams.batch import Partition
from streams.control import COMMAND, ControlRecord, ControlState, LearnerCommand, ServeMode, encoded, fold
from streams.headers import PIPELINE_VERSION
from streams.predict_road import Publishing
from streams.producer import Outgoing
from streams.settings import Settings
from streams.topics import LearnTopics, Topic

log = logging.getLogger(__name__)

# How long one look waits for records, in seconds. What an operator decides is in force on every worker after this, and
# the broker's own wait of half a second: well within the promised five.
LOOK_S = 1.0

# How long a worker that starts, or a command, waits for the end of the topic.
CAUGHT_UP_WITHIN_S = 10.0

_quiet = logging.getLogger("driftwood.kafka.control")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class ControlLog:
    """Reads `control` in order, from its first record on, outside any consumer group. Its calls block: use a thread.

    `state` is the fold of what was read so far.

    Raises:
        TopicError: the broker does not let the topic be read.
    """

    def __init__(self, settings: Settings, control: Topic) -> None:
        self._name = control.name
        self._brokers = settings.brokers
        config: dict[str, Any] = {
            **settings.kafka_client(),
            "group.id": f"{control.name}-watch",  # librdkafka asks for one; it is never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "error_cb": lambda error: None,
        }
        self._consumer = Consumer(config, logger=_quiet)
        self._consumer.assign([TopicPartition(control.name, 0, 0)])
        self._in_use = threading.Lock()  # closing beneath a look would crash the process
        self.state = ControlState()

    def look(self, within_s: float) -> bool:
        """Fold what comes within so long into `state`; whether the end of the topic was reached."""
        with self._in_use:
            return self._fold(self._consumer.consume(100, within_s))

    def catch_up(self) -> ControlState:
        """The state as of the end of the topic. Raises `UnreachableError` when it is not reached in time."""
        waited_s, step_s = 0.0, 0.1
        while not self.look(step_s):
            waited_s += step_s
            if waited_s > CAUGHT_UP_WITHIN_S:
                remedy = f"the topic {self._name} could not be read to its end"
                raise UnreachableError("Kafka", "brokers", self._brokers, remedy)
        return self.state

    def close(self) -> None:
        """Close the connections."""
        with self._in_use:
            self._consumer.close()

    def _fold(self, messages: Sequence[Message]) -> bool:
        records = [message for message in messages if message.error() is None]
        self.state = fold(self.state, [_offset_and_value(message) for message in records])
        errors = [message.error() for message in messages if message.error() is not None]
        for error in errors:
            if error is not None and error.code() != KafkaError._PARTITION_EOF and not error.retriable():  # noqa: SLF001  # its public name has the underscore
                raise TopicError(f"{self._name} cannot be read: {error.str()}")
        return any(error is not None and error.code() == KafkaError._PARTITION_EOF for error in errors)  # noqa: SLF001  # as above


class ControlWatch:
    """The serve mode in force, for a worker: right from `begin` on, and newer within two seconds while `watch` runs.

    A broker that is away changes nothing: the mode stays as it was last known.
    """

    def __init__(self, control: ControlLog) -> None:
        self._control = control

    @property
    def mode(self) -> ServeMode:
        """What answers: the blend, the champion, or the fallback."""
        return self._control.state.mode

    def mode_now(self) -> str:
        """`mode`, for who asks each time."""
        return self.mode

    async def begin(self) -> None:
        """Read what was decided before this worker started; raises as `ControlLog.catch_up`."""
        await asyncio.to_thread(self._control.catch_up)
        if self.mode != "blend":
            log.warning("serve mode is %s (driftwood serve-mode)", self.mode)

    async def watch(self) -> None:
        """Look for ever; a task of the worker."""
        while True:
            before = self.mode
            try:
                await asyncio.to_thread(self._control.look, LOOK_S)
            except KafkaException as error:
                log.warning("control cannot be read at the moment: %s", error)
                await asyncio.sleep(LOOK_S)
            if self.mode != before:
                log.warning("serve mode is %s from now on, %s before", self.mode, before)

    async def aclose(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._control.close)


async def decide(record: ControlRecord, topics: LearnTopics, version: str, publisher: Publishing) -> int:
    """Write a decision down, and hand one about a learner to the learner; its offset in `control`.

    A crash between the two leaves the record without its effect: the command that failed is given again.
    """
    value = encoded(record)
    headers = [(PIPELINE_VERSION, version.encode())]
    control: Partition = (topics.control.name, 0)
    offsets: Mapping[Partition, int] = await publisher.deliver([Outgoing(*control, None, value, headers)])
    if isinstance(record, LearnerCommand):
        place = (COMMAND, str(offsets[control]).encode())
        await publisher.deliver([Outgoing(topics.outcomes.name, 0, None, value, [*headers, place])])
    return offsets[control]


def _offset_and_value(message: Message) -> tuple[int, bytes | None]:
    offset: Any = message.offset()  # the stubs know of messages that have none
    value: Any = message.value()
    return offset, value
