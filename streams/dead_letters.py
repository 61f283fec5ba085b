"""Dead letters: records that cannot be used, with their original bytes and the reason.

The value is the original value, so that it can be mended and sent again; what is wrong stands in the headers. Of a
record above the size limit only the head is kept, with its length and hash (of the value; a key is cut likewise). A dead
letter is written at least once: its identity is the original topic, partition and offset.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from streams.batch import Record
from streams.producer import Outgoing, partition_of

# What is kept of an oversized record: enough to see who sent it, small enough for any broker's message limit.
HEAD_BYTES = 64 * 1024

# Of a path or a detail, which may quote a name from the record: longer ones say nothing more, and together with the
# value they could be too large for the broker, which would stop the worker at this record for ever.
MAX_TEXT_BYTES = 1024


@dataclass(frozen=True)
class DeadLetter:
    """A record that cannot be used. `reason` is one stable word, `path` a JSON path, `detail` a sentence for a person."""

    partition: int
    record: Record
    reason: str
    path: str
    detail: str


@dataclass(frozen=True)
class DeadLetterWriter:
    """Makes the messages for `topic`, which has so many partitions, from records of `source` (a topic name)."""

    topic: str
    partitions: int
    source: str
    pipeline_version: str
    max_record_bytes: int

    def message(self, letter: DeadLetter) -> Outgoing:
        """The dead letter as a Kafka message: original key and value, headers that say what is wrong."""
        record = letter.record
        key, value = record.key, record.value or b""
        headers = [
            ("topic", self.source.encode()),
            ("partition", str(letter.partition).encode()),
            ("offset", str(record.offset).encode()),
            ("reason", letter.reason.encode()),
            ("path", _text(letter.path)),
            ("detail", _text(letter.detail)),
            ("pipeline_version", self.pipeline_version.encode()),
            ("ce_specversion", b"1.0"),
            ("ce_id", f"{self.source}/{letter.partition}/{record.offset}".encode()),
            ("ce_type", b"driftwood.dead-letter.v1"),
            ("ce_source", self.source.encode()),
        ]
        if len(value) > self.max_record_bytes:
            headers.append(("length", str(len(value)).encode()))
            headers.append(("sha256", hashlib.sha256(value).hexdigest().encode()))
            value = value[:HEAD_BYTES]
        if key is not None and len(key) > HEAD_BYTES:
            headers.append(("key_length", str(len(key)).encode()))
            key = key[:HEAD_BYTES]
        return Outgoing(self.topic, self._partition(letter, key), key, value, headers)

    def _partition(self, letter: DeadLetter, key: bytes | None) -> int:
        # Without a key they take turns, by where the record stood: a copy comes to the same partition as the original.
        return (
            partition_of(key, self.partitions)
            if key
            else (letter.partition + letter.record.offset) % self.partitions
        )


def _text(text: str) -> bytes:
    # JSON may escape half of a surrogate pair in a name; UTF-8 has no bytes for it.
    return text.encode(errors="backslashreplace")[:MAX_TEXT_BYTES]
