"""Reads a pipeline's topics as a consumer should: copies of predictions dropped, personal fields masked.

A prediction can stand twice in its topic after a crash: same event id, same position, same bytes. Whoever keeps a set of
the positions that came before, as `Copies` does, sees each once.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from features.errors import DeveloperError, PositionError, TopicError
from features.label_rows import NO_TIME
from features.plan import EntityPlan
from features.rows import entity_keys
from features.schema import MASK
from models.pipeline import Pipeline
from streams.entity_batch import stage_plans
from streams.frames import FrameCodec
from streams.headers import FRAME, POSITION
from streams.label_frames import LabelFrameCodec
from streams.prediction import utc_texts
from streams.settings import Settings
from streams.topics import ANSWER_WITHIN_S, PipelineTopics, Topic

# Positions that are remembered. Copies come from batches that were repeated after a crash, so they stand within a batch
# or two of the original; a million positions take about 100 MB and cover many times that.
REMEMBERED = 1_000_000

POLL_S = 0.2
MESSAGES = 1000

_quiet = logging.getLogger("driftwood.kafka.tail")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Message(Protocol):
    """A record as confluent-kafka hands it over."""

    def partition(self) -> int | None: ...
    def offset(self) -> int | None: ...
    def key(self) -> bytes | str | None: ...
    def value(self) -> bytes | str | None: ...
    def headers(self) -> Any: ...


class Copies:
    """Positions that came before; beyond `limit` the oldest are forgotten. `dropped` counts the copies.

    Example:
        >>> copies = Copies()
        >>> [copies.seen(position) for position in (b"events/0/7", b"events/0/8", b"events/0/7")], copies.dropped
        ([False, False, True], 1)
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._positions: dict[bytes, None] = {}
        self.dropped = 0

    def seen(self, position: bytes) -> bool:
        """Whether this position was there before; it is remembered from now on."""
        if position in self._positions:
            self.dropped += 1
            return True
        self._positions[position] = None
        if len(self._positions) > self._limit:
            del self._positions[next(iter(self._positions))]
        return False


def read(
    settings: Settings,
    topic: Topic,
    *,
    from_start: bool,
    follow: bool,
    gone: Callable[[int], None] = lambda records: None,
) -> Iterator[Message]:
    """The records of all partitions of a topic: from the oldest or from now on, to the present end or for ever.

    Within a partition they come in order, between partitions in any. When reading from the start, `gone` is told how
    many records were there once and are in the log no more.

    Raises:
        PositionError: records were removed from the log before they could be read.
        TopicError: the topic cannot be read.
    """
    # A consumer without a group of its own: nothing is committed, and no worker is disturbed.
    config: dict[str, Any] = {
        **settings.kafka_client(),
        "group.id": "driftwood-tail",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": not follow,
        "isolation.level": "read_committed",
        "error_cb": lambda error: None,
    }
    consumer = Consumer(config, logger=_quiet)
    where = OFFSET_BEGINNING if from_start else OFFSET_END
    consumer.assign([TopicPartition(topic.name, number, where) for number in range(topic.partitions)])
    try:
        if from_start and (removed := _removed(consumer, topic)):
            gone(removed)
        ended: set[int] = set()
        while len(ended) < topic.partitions:
            for message in consumer.consume(MESSAGES, POLL_S):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # its public name has the underscore
                    ended.add(message.partition() or 0)
                else:
                    raise _failure(topic, error)
    finally:
        consumer.close()


def _removed(consumer: Consumer, topic: Topic) -> int:
    """Records that stood before the oldest one; transaction markers and compacted ones count, too."""
    try:
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic.name, number), timeout=ANSWER_WITHIN_S)[0]
            for number in range(topic.partitions)
        )
    except KafkaException as error:
        raise _failure(topic, error.args[0]) from error


def _failure(topic: Topic, error: KafkaError) -> Exception:
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001  # as above
        return PositionError(
            f"{topic.name}: records were removed from the log before they were read ({error.str()}): read faster, or begin "
            "again with --from-start"
        )
    return TopicError(f"{topic.name} cannot be read: {error.str()}")


@dataclass(frozen=True)
class Line:
    """One thing read: `data` for programs, `text` for people."""

    data: Mapping[str, Any]
    text: str


class View:
    """Turns records of one topic into lines. `kind` is events, predictions, dead-letters or hop-<entity>.

    `personal` shows personal and sensitive fields; otherwise they are masked, and so are keys, event ids and texts that
    may hold one.

    Raises:
        DeveloperError: the pipeline has no such topic.
    """

    def __init__(
        self, pipeline: Pipeline, topics: PipelineTopics, kind: str, *, personal: bool = False
    ) -> None:
        schema = pipeline.feature_set.schema
        self._pipeline, self._schema, self._personal = pipeline, schema, personal
        self._private = not personal and any(field.privacy != "free" for field in schema.fields)
        self._private_id = not personal and schema[pipeline.feature_set.id_field].privacy != "free"
        self._hidden = {spec.name for spec in pipeline.feature_set.features if spec.privacy != "free"}
        self.copies = Copies()
        views: dict[str, tuple[Topic, Callable[[Message], Iterator[Line]]]] = {
            "events": (topics.events, self._event),
            "predictions": (topics.predictions, self._prediction),
            "dead-letters": (topics.dead_letters, self._dead_letter),
        }
        for number, plan in enumerate(stage_plans(pipeline.feature_set)):
            views[f"hop-{plan.entity}"] = (topics.hops[plan.entity], self._hop(number))
        if kind not in views:
            raise DeveloperError(
                f"tail of {pipeline.name}: it cannot show {kind!r}; expected one of {', '.join(views)}"
            )
        self.topic, self.lines = views[kind]

    def _event(self, message: Message) -> Iterator[Line]:
        value = self._shown_value(_bytes(message.value()))
        yield _line({**_place(message), "key": self._shown_key(message), "value": value})

    def _prediction(self, message: Message) -> Iterator[Line]:
        position = _headers(message).get(POSITION, b"")
        if self.copies.seen(position):
            return
        data = json.loads(_bytes(message.value()))
        if not self._personal:
            features = data["features"]
            data["features"] = {
                name: MASK if name in self._hidden and value is not None else value
                for name, value in features.items()
            }
        if self._private_id:
            data["event_id"] = MASK
        score = data["score"]
        shown = f"{score:.4f}" if isinstance(score, int | float) else json.dumps(score)
        shown += _bounds(data.get("uncertainty"))
        mode = data.get("mode", "blend")
        shown += "" if mode == "blend" else f"  by the {mode} alone"
        decision = "no decision" if data["decision"] is None else f"decision {_word(data['decision'])}"
        flags = f"  [{', '.join(data['flags'])}]" if data["flags"] else ""
        text = f"{data['event_time']}  {data['event_id']}  score {shown}  {decision}{flags}"
        yield Line(data, text)

    def _dead_letter(self, message: Message) -> Iterator[Line]:
        headers = {name: value.decode(errors="replace") for name, value in _headers(message).items()}
        data = {
            "topic": headers.get("topic"),
            "partition": int(headers.get("partition", -1)),
            "offset": int(headers.get("offset", -1)),
            "reason": headers.get("reason"),
            "path": headers.get("path"),
            "detail": headers.get("detail"),
            "length": int(headers["length"]) if "length" in headers else len(_bytes(message.value())),
            "sha256": headers.get("sha256"),
            "key": self._shown_key(message),
            "value": self._shown_value(_bytes(message.value())),
        }
        place = f"{data['topic']}/{data['partition']}/{data['offset']}"
        text = f"{place}  {data['reason']} at {data['path']}: {data['detail']}  {json.dumps(data['value'], ensure_ascii=False)}"
        yield Line(data, text)

    def _hop(self, number: int) -> Callable[[Message], Iterator[Line]]:
        plan = stage_plans(self._pipeline.feature_set)[number]
        codec, label_codec = FrameCodec(self._pipeline.feature_set, number), LabelFrameCodec(plan)

        def lines(message: Message) -> Iterator[Line]:
            if dict(_headers(message)).get(FRAME) == label_codec.version:
                yield from self._label_rows(message, plan, label_codec)
                return
            rows = codec.decode(_bytes(message.value())).rows
            keys = entity_keys(rows, plan.keys) if plan.keys else [None] * len(rows)
            hidden = any(self._schema[name].privacy != "free" for name in plan.keys) and not self._personal
            times, ids = utc_texts(rows.times_us), rows.event_ids.to_pylist()
            for row, (time, event_id, key) in enumerate(zip(times, ids, keys, strict=True)):
                data = {
                    **_place(message),
                    "row": row,
                    "event_id": MASK if self._private_id else event_id,
                    "event_time": time,
                    "key": MASK if hidden and key is not None else key,
                }
                yield _line(data)

        return lines

    def _label_rows(self, message: Message, plan: EntityPlan, codec: LabelFrameCodec) -> Iterator[Line]:
        """What became known of an entity's events, for its windows over labels."""
        rows = codec.decode(_bytes(message.value())).rows
        hidden = any(self._schema[name].privacy != "free" for name in plan.keys) and not self._personal
        every = zip(rows.keys, utc_texts(rows.known_us), rows.values.tolist(), strict=True)
        for row, (key, known_at, values) in enumerate(every):
            said = dict(zip(plan.label_inputs, values, strict=True))
            known = {name: None if math.isnan(value) else value for name, value in said.items()}
            corrects = bool(rows.replaced_known_us[row] != NO_TIME) or None
            shown = MASK if hidden else key
            yield _line(
                {
                    **_place(message),
                    "row": row,
                    "known_at": known_at,
                    "key": shown,
                    **known,
                    "corrects": corrects,
                }
            )

    def _shown_key(self, message: Message) -> str | None:
        key = message.key()
        if key is None:
            return None
        return MASK if self._private else _bytes(key).decode(errors="replace")

    def _shown_value(self, value: bytes) -> object:
        """The JSON object, masked. Anything else may hold whatever its sender put there: shown where nothing is private."""
        try:
            decoded = json.loads(value)
        except (ValueError, RecursionError):
            return f"{len(value):,} bytes" if self._private else value.decode(errors="replace")
        if isinstance(decoded, dict):
            return decoded if self._personal else self._schema.masked(decoded)
        return f"{len(value):,} bytes" if self._private else decoded


def _bounds(uncertainty: object) -> str:
    """The two bounds of a score, where there are any."""
    if not isinstance(uncertainty, list):
        return ""
    return f" ({uncertainty[0]:.4f} to {uncertainty[1]:.4f})"


def _line(data: Mapping[str, Any]) -> Line:
    return Line(
        data, "  ".join(f"{name} {_word(value)}" for name, value in data.items() if value is not None)
    )


def _place(message: Message) -> dict[str, Any]:
    return {"partition": message.partition(), "offset": message.offset()}


def _headers(message: Message) -> dict[str, bytes]:
    return {name: value or b"" for name, value in reversed(message.headers() or [])}


def _bytes(value: bytes | str | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _word(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
