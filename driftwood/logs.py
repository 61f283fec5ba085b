"""Log lines on stderr, for people or one JSON object a line."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from datetime import UTC, datetime

from streams.settings import Settings

# These tell of every request and every rebalance step at `info`; what matters of it, driftwood says itself.
TALKATIVE = ("aiokafka", "faust", "mode", "asyncio", "kafka")

# Seconds in which one line of a kind is enough, and how many kinds are told apart.
PERIOD_S = 10.0
KINDS = 1_000
NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f]*")


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback where there is one.

    Example:
        >>> record = logging.LogRecord("streams.worker", logging.INFO, "", 0, "ready after %d s", (3,), None)
        >>> record.created = 1364811300.0
        >>> JsonLines().format(record)
        '{"time": "2013-04-01T10:15:00+00:00", "level": "info", "logger": "streams.worker", "message": "ready after 3 s"}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class OncePerPeriod(logging.Filter):
    """Lets one line of a kind through in `PERIOD_S`, and says at the next how many there were in between.

    Lines are of a kind when they differ in numbers only. A broker that is away makes the Kafka clients say the same tens
    of times a second. At most `KINDS` kinds are remembered; the one that spoke first is forgotten for a new one.

    Example:
        >>> records = [logging.LogRecord("aiokafka", 30, "", 0, "no connection to %d", (n,), None) for n in (1, 2, 3)]
        >>> for record, seconds in zip(records, (100.0, 101.0, 111.0)):
        ...     record.created = seconds
        >>> once = OncePerPeriod()
        >>> [record.getMessage() for record in records if once.filter(record)]
        ['no connection to 1', 'no connection to 3 (and 1 more like it in between)']
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may pass; adds the count to its message."""
        text = record.getMessage()
        kind = (record.name, record.levelno, NUMBER.sub("#", text))
        since, more = self._said.get(kind, (-math.inf, 0))
        if record.created - since < PERIOD_S:
            self._said[kind] = since, more + 1
            return False
        if kind not in self._said and len(self._said) >= KINDS:
            del self._said[next(iter(self._said))]
        self._said[kind] = record.created, 0
        if more:
            record.msg, record.args = f"{text} (and {more} more like it in between)", None
        return True


def set_up_logging(settings: Settings) -> None:
    """Send the process's log lines to stderr as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.addFilter(OncePerPeriod())
    handler.setFormatter(JsonLines() if settings.log_format == "json" else plain)
    level = settings.log_level.upper()
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(level if level == "DEBUG" else "WARNING")
