"""Log lines on stderr, for people or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from streams.settings import Settings

# These tell of every request and every rebalance step at `info`; what matters of it, driftwood says itself.
TALKATIVE = ("aiokafka", "faust", "mode", "asyncio", "kafka")


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


def set_up_logging(settings: Settings) -> None:
    """Send the process's log lines to stderr as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if settings.log_format == "json" else plain)
    level = settings.log_level.upper()
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(level if level == "DEBUG" else "WARNING")
