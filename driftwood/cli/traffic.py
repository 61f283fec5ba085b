"""`driftwood produce` and `driftwood tail`: events in, whatever comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from driftwood.cli import output
from driftwood.cli.options import (
    AsJson,
    Follow,
    FromStart,
    Overrides,
    PipelineArgument,
    SettingsFile,
    StopAfter,
    loaded,
    named,
)
from features.errors import DeveloperError

if TYPE_CHECKING:
    from driftwood.produce import Chunk, Sent, Summary
    from models.pipeline import Pipeline


# A worker that keeps up makes the sender wait for tenths of a second, one that starts for some seconds.
WAIT_SAID_AFTER_S = 5.0


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(
        short_help="Send events, or labels.",
        epilog="Examples: driftwood produce flights --rate 1000; driftwood produce shop.py events.parquet --speed 3600; "
        "driftwood produce shop.py labels.parquet --labels",
    )(produce)
    app.command(
        short_help="Print what a topic holds.",
        epilog="Example: driftwood tail predictions flights --from-start --limit 10 --json",
    )(tail)


def produce(
    pipeline: PipelineArgument,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Parquet or JSON Lines file, or a folder of them; may be left out for a shipped example.",
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", help="Events a second.")] = None,
    speed: Annotated[
        float | None,
        typer.Option(metavar="X", help="By their event times, X times as fast as they happened."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many events.")] = None,
    sort: Annotated[
        bool, typer.Option("--sort", help="Order them by event time first; needs them in memory.")
    ] = False,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels", help="The file holds labels: send them into `labels`, as they became known."
        ),
    ] = False,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Send events into a pipeline's `events` topic: at a rate, at the speed of their times, or as fast as they are read.

    With --labels the records go into `labels` instead, in the order in which they became known. Waits while more stands unread in a partition than the setting unread_bytes_max; so without a worker it stops there.
    """
    _check_pace(rate, speed)
    from driftwood.pipelines import example_files, topics_of
    from driftwood.produce import Production, Schedule, in_order
    from streams.topics import TopicAdmin, learn_group, predict_group

    values = loaded(settings, overrides)
    declared = named(pipeline)
    source = file
    if source is None:
        with output.progress("preparing the example's data") as told:
            source = example_files(pipeline, values, told)[1 if labels else 0]
    topics = topics_of(declared, values)
    topic, group = topics.events, predict_group(declared.name)
    if labels:
        topic, group = topics.learning.labels, learn_group(declared.name)
    found = _labels_of(declared, source, limit) if labels else _events_of(declared, source, limit)
    TopicAdmin(values).check([topic])
    with _shown(_total(source, limit)) as told_sent:
        production = Production(declared.name, topic, values, group=group, told=told_sent)
        summary = production.run(in_order(found) if sort else found, Schedule(rate, speed))
    _report(summary, as_json)


def tail(
    what: Annotated[
        str, typer.Argument(metavar="TOPIC", help="predictions, dead-letters, events or hop-<entity>.")
    ],
    pipeline: PipelineArgument,
    from_start: FromStart = False,
    follow: Follow = True,
    limit: StopAfter = None,
    personal: Annotated[
        bool,
        typer.Option(
            "--show-personal", help="Show personal and sensitive fields; they are masked otherwise."
        ),
    ] = False,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print what comes in one of a pipeline's topics; of predictions each once, as its consumers should read them."""
    from driftwood.pipelines import topics_of
    from driftwood.tail import View, read
    from streams.topics import TopicAdmin

    values = loaded(settings, overrides)
    declared = named(pipeline)
    view = View(declared, topics_of(declared, values), what, personal=personal)
    TopicAdmin(values).check([view.topic])
    printed = 0
    try:
        for message in read(values, view.topic, from_start=from_start, follow=follow, gone=_gone):
            for line in view.lines(message):
                output.data(line.data) if as_json else output.line(line.text)
                printed += 1
                if printed == limit:
                    return
    except BrokenPipeError:
        output.nobody_reads()
    finally:
        if view.copies.dropped:
            output.say(f"{view.copies.dropped:,} copies of predictions were dropped (docs/topics.md).")


def _events_of(pipeline: Pipeline, source: Path, limit: int | None) -> Iterator[Chunk]:
    import itertools
    import time

    from driftwood.produce import chunks
    from offline.events import ignored_columns, read_records

    if left_out := ignored_columns(source, pipeline.feature_set):
        output.say(f"Columns that are no fields of the event are left out: {', '.join(left_out)}")
    records: Iterable[bytes] = itertools.chain.from_iterable(read_records(source, pipeline.feature_set))
    return chunks(itertools.islice(records, limit), pipeline, lambda: time.time() * 1000)


def _labels_of(pipeline: Pipeline, source: Path, limit: int | None) -> Iterator[Chunk]:
    from driftwood.produce import Chunk
    from offline.label_records import label_records

    made = label_records(pipeline, source)
    if made.left_out:
        output.say(f"{made.left_out:,} rows without an id or the time they became known are left out.")
    for chunk in made.chunks(limit):
        yield Chunk(chunk.values, chunk.times_s, chunk.keys)


def _gone(records: int) -> None:
    output.say(
        f"{records:,} older records are in the log no more: what follows is not all that was ever there. (The embedded "
        "broker keeps 5 MiB of a partition; a real Kafka as long as the topic's retention says.)"
    )


def _check_pace(rate: float | None, speed: float | None) -> None:
    if rate is not None and speed is not None:
        raise DeveloperError(
            "--rate and --speed exclude each other: events a second, or times their own speed"
        )
    for name, value in (("--rate", rate), ("--speed", speed)):
        if value is not None and not value > 0:
            raise DeveloperError(f"{name} {value:g}: expected a number above 0")


def _total(source: Path, limit: int | None) -> int | None:
    from offline.events import count_rows

    rows = count_rows(source)
    return limit if rows is None else rows if limit is None else min(rows, limit)


@contextmanager
def _shown(total: int | None) -> Iterator[Callable[[Sent], None]]:
    from streams.units import size_text

    waited: list[float] = []  # when the wait that goes on began, while nobody has been told of it

    with output.progress("sending") as told:

        def told_sent(sent: Sent) -> None:
            _waiting(sent, waited)
            speed = sent.events / sent.seconds if sent.seconds else 0.0
            text = f"{sent.events:,} events, {speed:,.0f}/s, {size_text(sent.unread_bytes)} unread"
            if sent.waiting_for:
                text += f"; waiting until {sent.waiting_for} is read"
            told(text, sent.events / total if total else 0.0)

        yield told_sent


def _waiting(sent: Sent, since: list[float]) -> None:
    """Says once what holds the sender up, when it has done so for a while: a busy worker does for a moment."""
    if sent.waiting_for is None:
        since.clear()
        return
    if not since:
        since.append(sent.seconds)
    if sent.seconds - since[0] > WAIT_SAID_AFTER_S:
        since[0] = float("inf")
        output.say(f"Waiting until {sent.waiting_for} is read: is a worker running? (driftwood run)")


def _report(summary: Summary, as_json: bool) -> None:
    from streams.units import size_text

    if as_json:
        output.data(asdict(summary))
    else:
        speed = summary.events / summary.seconds if summary.seconds else 0.0
        what = "labels" if summary.topic.endswith(".labels") else "events"
        output.line(
            f"{summary.events:,} {what} ({size_text(summary.size)}) sent to {summary.topic} in {summary.seconds:,.1f} s "
            f"({speed:,.0f}/s), of it {summary.waited_s:,.1f} s waiting for workers"
        )
    if summary.out_of_order:
        output.say(
            f"{summary.out_of_order:,} events were older than one before them, by up to {summary.oldest_s:,.0f} s: sent as "
            "they stood. --sort orders a file by event time."
        )
    if summary.undecodable:
        output.say(f"{summary.undecodable:,} records cannot be decoded and become dead letters.")
