"""The demo as a person watches it: figures while it streams, and a summary at the end."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, repeat
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from driftwood.answers import RECENT, Answers
from driftwood.by_period import CARDS, SHOWN
from driftwood.demo import DemoResult
from driftwood.demo_stream import Standing

BAR_WIDTH = 30


def training(what: str, share: float) -> Group:
    """What the training does, and how much of it is done."""
    return Group(Text(what), ProgressBar(total=1.0, completed=share, width=BAR_WIDTH))


def live(standing: Standing) -> Panel:
    """Events a second, lag, latency, predictions by score, dead letters, and how much is done."""
    answers = standing.answers
    done = len(answers.ids) + standing.dead_letters
    rate = done / standing.seconds if standing.seconds else 0.0
    figures = Table.grid(padding=(0, 2))
    figures.add_row("answered", f"{done:,} of {standing.total:,}", "events/s", f"{rate:,.0f}")
    figures.add_row(
        "latency ms", _latency(answers.latency_ms(RECENT)), "lag", f"{standing.sent - done:,} events"
    )
    figures.add_row("dead letters", f"{standing.dead_letters:,}", "late", f"{answers.late:,}")
    if standing.labels:
        figures.add_row("labels joined", f"{standing.labels:,}", "snapshot", _snapshot(answers))
    if standing.alerts is not None:
        figures.add_row("open alerts", f"{standing.alerts:,}", "", "")
    bar = ProgressBar(total=max(standing.total, 1), completed=done)
    return Panel(Group(figures, bar, _histogram(answers)), title="driftwood", border_style="cyan")


def summary(result: DemoResult) -> str:
    """The block that the demo prints at its end."""
    figures = result.summary
    latency = figures["latency_ms"]
    lines = [
        ("pipeline", f"{figures['pipeline']}, model {result.training.version}"),
        (
            "events",
            f"{figures['events']:,} in, {figures['predictions']:,} predictions, {figures['dead_letters']:,} dead letters",
        ),
        (
            "speed",
            f"{figures['events_per_second']:,} events/s, {figures['cpu_us_per_event']:g} µs of worker CPU an event",
        ),
        (
            "latency",
            f"p50 {latency['p50']:g} ms, p95 {latency['p95']:g} ms, p99 {latency['p99']:g} ms, at full speed",
        ),
    ]
    if "labels" in figures:
        lines += _learnt(figures)
    named = ", ".join(f"{count:,} {name}" for name, count in result.outcomes.items())
    judged = (
        "only those with a label are judged"
        if "actions" not in figures
        else "all are judged, those blocked too"
    )
    lines += [("truth", f"{named}; {judged}")]
    ends = [
        ("picture", str(result.picture)),
        ("folder", f"{result.folder}: also summary.json, the logs, and why.txt, one answer explained"),
    ]
    alerts = [_alert(one) for one in figures.get("alerts", [])]
    watched = ["", *(alerts or ["no alert"])] if "alerts" in figures else []
    return "\n".join([*map(_line, lines), *watched, "", *_quality(result), "", *map(_line, ends)])


def _alert(alert: Mapping[str, Any]) -> str:
    until = f"to {alert['resolved']}" if alert["resolved"] else "still open"
    return _line(("alert", f"{alert['raised']} {until}, {alert['severity']}: {alert['title']}"))


def _line(told: tuple[str, str]) -> str:
    return f"{told[0]:<10}{told[1]}"


def _learnt(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    waits, skew = figures["label_to_weights_seconds"], figures["label_skew_hours"]
    named = ", ".join(f"{count:,} {name}" for name, count in sorted(figures["outcomes"].items()))
    waited = f"label to new weights p50 {waits['p50']:g} s, p95 {waits['p95']:g} s"
    behind = f"at this speed labels are {skew['p50']:g} h behind the events (p95 {skew['p95']:g} h)"
    lines = [("labels", f"{figures['labels']:,} in: {named}"), ("learning", f"{waited}; {behind}")]
    if "actions" in figures:
        lines.append(
            (
                "actions",
                "{blocked:,} blocked, {held_out:,} held out and let pass".format(**figures["actions"]),
            )
        )
    return lines


def _quality(result: DemoResult) -> list[str]:
    """The models side by side: a block of lines for each figure, a line for each period."""
    parts = list(result.all.figures[result.figures[0]])
    widths = [max(len(part), len("0.0000")) for part in parts]
    first = max(len(SHOWN[figure]) for figure in result.figures) + 2
    lines = [
        f"{'':<{first}}{'':<10}"
        + "".join(f"  {part:>{width}}" for part, width in zip(parts, widths, strict=True))
    ]
    for figure in result.figures:
        for title, period in zip(
            chain([SHOWN[figure]], repeat("")), [*result.periods, result.all], strict=False
        ):
            cells = [
                _cell(period.figures[figure].get(part), width)
                for part, width in zip(parts, widths, strict=True)
            ]
            possible = f"  of {period.possible:.4f}" if figure == CARDS and period.possible else ""
            lines.append(f"{title:<{first}}{period.name:<10}" + "".join(cells) + possible)
    return lines


def _cell(value: float | None, width: int) -> str:
    return f"  {'' if value is None else f'{value:.4f}':>{width}}"


def _snapshot(answers: Answers) -> str:
    return f"{answers.snapshots[-1]:,}" if answers.snapshots and answers.snapshots[-1] >= 0 else "none yet"


def _latency(values: dict[str, float]) -> str:
    return f"p50 {values['p50']:g}  p95 {values['p95']:g}  p99 {values['p99']:g}"


def _histogram(answers: Answers) -> Table:
    counts = answers.by_score()
    most = max(*counts, 1)
    shown = Table.grid(padding=(0, 1))
    for number, count in enumerate(counts):
        bar = Text("█" * round(BAR_WIDTH * count / most), style="cyan")
        shown.add_row(f"score {number / 10:.1f}", bar, f"{count:,}")
    return shown
