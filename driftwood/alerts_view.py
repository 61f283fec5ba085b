"""Alerts for a person: a line of each, and everything of one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from driftwood.alerts import Decisions
from driftwood.drift_series import AlertLife
from driftwood.why_view import Block
from models.drift.alert import Alert, moment
from models.drift.signals import Evidence, Signal, Window
from models.drift.titles import statistic_words

HEADINGS = ("#", "status", "severity", "raised", "newest", "levels", "what", "")

# Signals whose evidence is shown; the table before it has all that are listed.
SHOWN = 3


def row(life: AlertLife, decisions: Decisions, now: datetime) -> list[str]:
    """One alert, under `HEADINGS`."""
    last = life.last
    levels = ", ".join(last.levels)
    what = last.title.removeprefix(f"{last.pipeline}: ")
    marks = "; ".join(_marks(last, decisions, now))
    return [str(life.number), last.status, last.severity, life.records[0].at, last.at, levels, what, marks]


def line(alert: Alert, number: int, decisions: Decisions, now: datetime) -> str:
    """One record, as `tail` prints it."""
    marks = "".join(f"  [{mark}]" for mark in _marks(alert, decisions, now))
    return f"{alert.at}  #{number}  {alert.status}  {alert.severity}  {alert.title}{marks}"


def blocks(life: AlertLife, decisions: Decisions, now: datetime) -> Iterator[Block]:
    """Everything of one alert: what it is, why, what to do, the evidence, and its life."""
    last, loudest = life.last, life.loudest
    yield Block(f"#{life.number}  {last.title}", list(_head(life, decisions, now)))
    yield Block("what is probably behind it", last.why or ["nothing that the counts would show"])
    yield Block("what to do", list(_to_do(life)))
    yield Block(
        "signals, the strongest first",
        [f"{loudest.more:,} more are not listed"] if loudest.more else (),
        ("signal", "statistic", "value", "threshold", "times", "PSI"),
        [_signal(signal) for signal in loudest.signals],
    )
    for signal in loudest.signals[:SHOWN]:
        yield from _evidence(signal)
    records = [
        [str(one.sequence), one.at, one.status, one.severity, str(len(one.signals) + one.more)]
        for one in life.records
    ]
    yield Block("life", (), ("record", "event time", "status", "severity", "signals"), records)


def _head(life: AlertLife, decisions: Decisions, now: datetime) -> Iterator[str]:
    last = life.last
    yield f"{last.alert}"
    end = f"resolved at {last.at}" if not life.open else f"open, newest record of {last.at}"
    yield f"{last.severity}; first signal at {last.since}, raised at {life.records[0].at}, {end}"
    budget = last.budget
    yield (
        "thresholds: the convention PSI > 0.2"
        if budget is None
        else f"thresholds calibrated to {budget:g} false alarm{'' if budget == 1 else 's'} a month over everything watched"
    )
    yield from _marks(last, decisions, now)


def _marks(alert: Alert, decisions: Decisions, now: datetime) -> Iterator[str]:
    if (ack := decisions.acks.get(alert.alert)) is not None:
        yield f"acked by {ack.by} at {ack.at}{f': {ack.note}' if ack.note else ''}"
    if (until := decisions.silenced(alert, now)) is not None:
        yield f"silenced until {until}"


def _to_do(life: AlertLife) -> Iterator[str]:
    yield f"docs/operations.md#{life.last.runbook}"
    triggered = [(record.at, trigger) for record in life.records for trigger in record.triggers]
    for at, trigger in triggered:
        yield f"triggered at {at}: {trigger}"


def _signal(signal: Signal) -> list[str]:
    psi = signal.evidence.psi
    return [
        _name(signal),
        statistic_words(signal.statistic),
        _number(signal.value),
        _number(signal.threshold),
        f"{signal.strength:.1f}",
        "" if psi is None else f"{psi:.3f}",
    ]


def _evidence(signal: Signal) -> Iterator[Block]:
    evidence = signal.evidence
    if evidence == Evidence():
        return
    rows = [
        [f"{_percentile(name)} quantile", *map(_number, pair)] for name, pair in evidence.quantiles.items()
    ]
    rows += [[f"share of {name}", *map(_share, pair)] for name, pair in evidence.shares.items()]
    rows += [[f"contributes: {name}", "", f"{strength:.1f} times"] for name, strength in evidence.top.items()]
    windows = [
        f"{said}: {_window(window)}"
        for said, window in (("reference", evidence.reference), ("current", evidence.current))
        if window is not None
    ]
    yield Block(
        f"evidence: {_name(signal)}, {statistic_words(signal.statistic)}",
        windows,
        ("", "before", "now") if rows else (),
        rows,
    )


def _window(window: Window) -> str:
    return f"{moment(window.start_us)} to {moment(window.end_us)}, {window.count:,}"


def _name(signal: Signal) -> str:
    place = f" ({signal.segment})" if signal.segment else ""
    return f"{signal.level} {signal.subject}{place}"


def _percentile(share: str) -> str:
    return f"{float(share):g}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"
