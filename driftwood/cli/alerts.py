"""`driftwood alerts`: what the drift watch has seen, and what people decide about it."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from driftwood.cli import output
from driftwood.cli.deciding import decide, learning, now_text, time_text
from driftwood.cli.options import (
    AsJson,
    Follow,
    FromStart,
    Overrides,
    PipelineArgument,
    SettingsFile,
    StopAfter,
    loaded,
)

if TYPE_CHECKING:
    from driftwood.alerts import Board, Decisions
    from models.drift.alert import Alert
    from models.pipeline import Pipeline
    from streams.settings import Settings
    from streams.topics import LearnTopics

commands = typer.Typer(
    no_args_is_help=True,
    help="What the drift watch has seen: list and show alerts, follow them, acknowledge and silence them.",
    rich_markup_mode=None,
)

# While alerts are followed, decisions are read again for one that comes so long after they were read, in seconds.
DECISIONS_AGE_S = 5.0

AlertArgument = Annotated[
    str, typer.Argument(metavar="ALERT", help="Its number in the list, its name, or the beginning of it.")
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="A word to whoever reads it.")]
LevelOption = Annotated[
    str | None,
    typer.Option(
        "--level", metavar="LEVEL", help="Of this level: data, prediction, estimate, labels or concept."
    ),
]
Subject = Annotated[
    str | None,
    typer.Option("--subject", metavar="NAME", help="About this feature, raw field, score, model or feed."),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(commands, name="alerts")


@commands.command(
    name="list",
    short_help="The open alerts.",
    epilog="Examples: driftwood alerts list flights; driftwood alerts list flights --all --since 30d --json",
)
def list_(
    pipeline: PipelineArgument,
    every: Annotated[bool, typer.Option("--all", help="Also those that are resolved.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Those with a record of this event time or later: RFC 3339, or so long ago (2d).",
        ),
    ] = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """List the alerts of a pipeline: open ones first, each with the newest first. Acked and silenced ones are marked."""
    from driftwood.alerts import as_data, since_us
    from driftwood.alerts_view import HEADINGS, row
    from driftwood.drift_series import moment_us

    now = datetime.now(UTC)
    first_us = None if since is None else since_us(since, now)
    board = _board(loaded(settings, overrides), learning(pipeline))
    shown = [
        life
        for life in board.lives
        if (every or life.open) and (first_us is None or moment_us(life.last.at) >= first_us)
    ]
    shown.sort(key=lambda life: (not life.open, -life.number))
    if as_json:
        output.data([as_data(life, board.decisions, now) for life in shown])
        return
    if shown:
        output.table(HEADINGS, [row(life, board.decisions, now) for life in shown])
    resolved = sum(not life.open for life in board.lives)
    if not every and resolved:
        output.say(f"{resolved:,} resolved alerts are left out; --all shows them.")
    elif not shown:
        output.say("No alert." if board.lives else "No alert yet. Is a monitor running (driftwood monitor)?")


@commands.command(
    short_help="Everything of one alert.",
    epilog="Examples: driftwood alerts show flights 3; driftwood alerts show flights data/gust_kmh --json",
)
def show(
    pipeline: PipelineArgument,
    alert: AlertArgument,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show one alert: what moved, the evidence, what is probably behind it, what to do, and its life."""
    import msgspec

    from driftwood.alerts import as_data
    from driftwood.alerts_view import blocks

    board, now = _board(loaded(settings, overrides), learning(pipeline)), datetime.now(UTC)
    life = board.find(alert)
    if as_json:
        records = msgspec.to_builtins(life.records)
        output.data({**as_data(life, board.decisions, now), "records": records})
        return
    output.line("\n\n".join(block.text for block in blocks(life, board.decisions, now)))


@commands.command(
    short_help="Follow the alerts.",
    epilog="Example: driftwood alerts tail flights --from-start --json",
)
def tail(
    pipeline: PipelineArgument,
    from_start: FromStart = False,
    follow: Follow = True,
    silenced: Annotated[
        bool, typer.Option("--silenced", help="Also alerts that are silenced; they are left out otherwise.")
    ] = False,
    limit: StopAfter = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print each record of an alert as it is raised, updated and resolved; copies after a crash are dropped."""
    import msgspec

    from driftwood.alerts_view import line

    values, declared = loaded(settings, overrides), learning(pipeline)
    topics = _checked(declared, values)
    decisions = _fresh(values, topics)
    printed = 0
    try:
        for alert, number in _records(values, topics, from_start=from_start, follow=follow):
            known, now = decisions(), datetime.now(UTC)
            if not silenced and known.silenced(alert, now) is not None:
                continue
            if as_json:
                output.data({"number": number, **msgspec.to_builtins(alert)})
            else:
                output.line(line(alert, number, known, now))
            printed += 1
            if printed == limit:
                return
    except BrokenPipeError:
        output.nobody_reads()


@commands.command(
    short_help="Say that you look after an alert.",
    epilog="Example: driftwood alerts ack flights 3 --note storm",
)
def ack(
    pipeline: PipelineArgument,
    alert: AlertArgument,
    note: Note = "",
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Acknowledge an alert: written down on the topic control with your name, and shown beside it from then on."""
    from streams.control import AlertAck

    values, declared = loaded(settings, overrides), learning(pipeline)
    life = _board(values, declared).find(alert)
    record = AlertAck(life.last.alert, now_text(), getpass.getuser(), note)
    decide(declared, values, record)
    if as_json:
        output.data({"number": life.number, "alert": record.alert, "by": record.by, "at": record.at})
    output.say(f"#{life.number} {record.alert} is acked by {record.by}.")


@commands.command(
    short_help="Silence alerts for a while.",
    epilog="Examples: driftwood alerts silence flights --subject gust_kmh --for 2h; "
    "driftwood alerts silence flights --level data --for 3d --note airport",
)
def silence(
    pipeline: PipelineArgument,
    lasting: Annotated[str, typer.Option("--for", metavar="DURATION", help="For how long: 30m, 2h, 3d.")],
    level: LevelOption = None,
    subject: Subject = None,
    note: Note = "",
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Silence alerts of a level, about a subject, or both, for a while: tail leaves them out, list marks them.

    An alert is silenced while each of its signals is. It goes on meanwhile, and what it triggers happens.
    """
    from driftwood.alerts import checked_level
    from features.durations import duration_us
    from streams.control import AlertSilence

    _some(level, subject)
    length = timedelta(microseconds=duration_us(lasting, "--for"))
    until = time_text(datetime.now(UTC) + length)
    record = AlertSilence(until, now_text(), getpass.getuser(), checked_level(level), subject, note)
    decide(learning(pipeline), loaded(settings, overrides), record)
    if as_json:
        output.data({"level": level, "subject": subject, "until": until, "by": record.by})
    output.say(f"Alerts {_about(level, subject)} are silenced until {until}.")


@commands.command(
    short_help="End a silence.",
    epilog="Example: driftwood alerts unsilence flights --subject gust_kmh",
)
def unsilence(
    pipeline: PipelineArgument,
    level: LevelOption = None,
    subject: Subject = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """End a silence before its time; level and subject are those with which it began."""
    from driftwood.alerts import checked_level, decisions_of
    from features.errors import DeveloperError
    from streams.control import AlertUnsilence

    _some(level, subject)
    values, declared = loaded(settings, overrides), learning(pipeline)
    known = decisions_of(values, _checked(declared, values)).silences
    if (checked_level(level), subject) not in {(one.level, one.subject) for one in known}:
        there = "; ".join(_about(one.level, one.subject) for one in known) or "none"
        raise DeveloperError(f"no silence {_about(level, subject)}; there are: {there}")
    record = AlertUnsilence(now_text(), getpass.getuser(), level, subject)
    decide(declared, values, record)
    if as_json:
        output.data({"level": level, "subject": subject, "by": record.by})
    output.say(f"Alerts {_about(level, subject)} are heard again.")


def _some(level: str | None, subject: str | None) -> None:
    if level is None and subject is None:
        raise typer.BadParameter("say of which level, or about what", param_hint="--level or --subject")


def _about(level: str | None, subject: str | None) -> str:
    parts = [f"of level {level}"] if level else []
    return " ".join([*parts, *([f"about {subject}"] if subject else [])])


def _board(settings: Settings, pipeline: Pipeline) -> Board:
    from driftwood.alerts import board_of

    return board_of(settings, _checked(pipeline, settings))


def _checked(pipeline: Pipeline, settings: Settings) -> LearnTopics:
    """The topics, when the two that are read here are there."""
    from driftwood.pipelines import topics_of
    from streams.topics import TopicAdmin

    topics = topics_of(pipeline, settings).learning
    TopicAdmin(settings).check([topics.drift_alerts, topics.control])
    return topics


def _fresh(settings: Settings, topics: LearnTopics) -> Callable[[], Decisions]:
    """Decisions that are some seconds old at most."""
    from driftwood.alerts import decisions_of

    known = [(time.monotonic(), decisions_of(settings, topics))]

    def decisions() -> Decisions:
        if time.monotonic() - known[0][0] > DECISIONS_AGE_S:
            known[0] = (time.monotonic(), decisions_of(settings, topics))
        return known[0][1]

    return decisions


def _records(
    settings: Settings, topics: LearnTopics, *, from_start: bool, follow: bool
) -> Iterator[tuple[Alert, int]]:
    """Each record once, with the number of its alert. What came before is read as well, for the numbers."""
    from driftwood.alerts import numbered
    from driftwood.tail import read

    topic, last = topics.drift_alerts, -1
    if not from_start:
        last = max(
            (message.offset() or 0 for message in read(settings, topic, from_start=True, follow=False)),
            default=-1,
        )
    for alert, number, offset in numbered(read(settings, topic, from_start=True, follow=follow)):
        if offset > last:
            yield alert, number
