"""What the join tells the learner about the label feed: that it stalls, and that it flows again and what was held up is done.

A notice is a record of its own on `outcomes`, from one partition of `hop-join`. It has a position among the outcomes of that
partition, so it stands between the same two of them however batches are cut, and its copies are known. While a feed is silent
there are no outcomes: without a record of its own nobody behind the join would hear of it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from features.store import Position
from streams.batch import Record
from streams.headers import FRAME, UPSTREAM, header
from streams.producer import Outgoing

NOTICE_FRAME: Final = b"label-feed-1"
"""The header FRAME of a notice."""


class FeedNotice(msgspec.Struct, frozen=True):
    """`stalled` begins or ends at the wall clock `at_ms`; `since_ms` is the wall clock of the last label before that.

    `offset` and `row` are its position. An end comes when labels flow *and* every time-out that was held up is settled.
    """

    stalled: bool
    since_ms: int
    at_ms: int
    offset: int
    row: int

    @property
    def position(self) -> Position:
        """Where it stands among the outcomes of its partition."""
        return Position(self.offset, self.row)


_decode = msgspec.json.Decoder(FeedNotice).decode


def notice_message(notice: FeedNotice, topic: str, upstream: str) -> Outgoing:
    """The notice as a record for partition 0 of `topic`."""
    headers = [(UPSTREAM, upstream.encode()), (FRAME, NOTICE_FRAME)]
    return Outgoing(topic, 0, None, msgspec.json.encode(notice), headers)


def read_notice(record: Record) -> tuple[str, FeedNotice]:
    """The partition of `hop-join` and what it says. Raises ValueError for junk.

    Example:
        >>> from streams.topic_log import StoredRecord
        >>> sent = notice_message(FeedNotice(True, 1_000, 61_001, 7, 0), "shop.outcomes", "shop.hop-join@c/t/0")
        >>> upstream, notice = read_notice(StoredRecord(3, 0, None, sent.value, sent.headers))
        >>> upstream, notice.stalled, notice.position
        ('shop.hop-join@c/t/0', True, Position(offset=7, row=0))
    """
    upstream = header(record, UPSTREAM)
    if upstream is None:
        raise ValueError("the header of a notice is missing")
    return upstream.decode(), _decode(record.value or b"")  # msgspec's errors are ValueErrors
