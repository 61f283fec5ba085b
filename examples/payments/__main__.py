"""Prints the records of a world of payments, one a line: the key, a tab, the value.

    python -m examples.payments --days 30 --late 0.02 --poison 0.001 --limit 5
    python -m examples.payments --topic labels --label-outage 12,19 --genuine-reported 0.5
    python -m examples.payments --new-fraud-from 45 | kcat -b 127.0.0.1:9092 -t payments.events -P -K '\\t'

Times are days since the start; several of them stand with commas. Equal switches print equal bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any, NamedTuple

from examples.payments.frauds import simulated_payments
from examples.payments.records import ACTIONS, EVENTS, LABELS, action_records, event_records, label_records
from examples.payments.switches import Switches

RECORDS = {EVENTS: event_records, LABELS: label_records, ACTIONS: action_records}


class Option(NamedTuple):
    """How a switch is written on the command line."""

    read: Callable[[str], Any]
    shown: str
    help: str


def days(text: str) -> tuple[float, ...]:
    """Times with commas between them."""
    return tuple(float(part) for part in text.split(","))


def span(text: str) -> tuple[float, float]:
    """Two times, from and to."""
    begin, end = days(text)
    return begin, end


OPTIONS: Mapping[str, Option] = {
    "seed": Option(int, "N", "decides every draw"),
    "start": Option(str, "DATE", "the first day, UTC"),
    "days": Option(int, "N", "how long"),
    "customers": Option(int, "N", "who pay, 1.9 times a day each"),
    "terminals": Option(int, "N", "where they pay"),
    "label_delay": Option(float, "DAYS", "from a payment to its label"),
    "label_outage": Option(span, "FROM,TO", "labels of this time come after it, a hundred times as fast"),
    "genuine_reported": Option(float, "SHARE", "of genuine payments that get a label at all"),
    "corrected": Option(float, "SHARE", "of labels that are wrong at first and put right after 12 hours"),
    "labels_flipped": Option(
        span, "FROM,TO", "labels of this time say the opposite, the share --flipped of them"
    ),
    "flipped": Option(float, "SHARE", "of labels that say the opposite in that time"),
    "duplicates": Option(float, "SHARE", "of events and of labels that are sent twice"),
    "late": Option(float, "SHARE", "of events that arrive late"),
    "latest_minutes": Option(float, "MINUTES", "by which they do, at most"),
    "poison": Option(float, "SHARE", "unusable events and labels for each good one"),
    "blocked": Option(
        float, "SHARE", "of frauds that the bank's own controls block, and as many genuine payments"
    ),
    "reviewed": Option(float, "SHARE", "of those blocked that get a label a day later"),
    "new_fraud_from": Option(float, "DAY", "from then on cards are tested at night"),
    "amounts_moved_from": Option(float, "DAY", "from then on amounts are --amounts-moved-by times as high"),
    "amounts_moved_by": Option(float, "TIMES", "by how much"),
    "terminal_waves": Option(days, "DAY,…", "at each of them --wave-share of the terminals is compromised"),
    "wave_share": Option(float, "SHARE", "of terminals in a wave"),
}


def main(words: Sequence[str] | None = None) -> None:
    """Print the records that the options ask for. Ends with exit code 2 where one is wrong, and says which."""
    parser = _parser()
    given = vars(parser.parse_args(words))
    records, limit = RECORDS[given.pop("topic")], given.pop("limit")
    try:
        switches = Switches(**given)
    except ValueError as error:
        parser.error(str(error))
    out = sys.stdout.buffer
    try:
        for record in islice(records(simulated_payments(switches), switches), limit):
            out.write(record.key + b"\t" + record.value + b"\n")
        out.flush()
    except BrokenPipeError:  # the reader has seen enough (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.payments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--topic", choices=list(RECORDS), default=EVENTS, help="(default: events)")
    parser.add_argument("--limit", type=int, metavar="N", help="print at most so many")
    for field in fields(Switches):
        option = OPTIONS[field.name]
        default = "off" if field.default in (None, ()) else field.default
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=option.read,
            metavar=option.shown,
            default=field.default,
            help=f"{option.help} (default: {default})",
        )
    return parser


if __name__ == "__main__":
    main()
