"""`driftwood rebuild`: what to do when Redis was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from driftwood.cli import output
from driftwood.cli.options import AsJson, Overrides, PipelineArgument, SettingsFile, loaded, named

if TYPE_CHECKING:
    from offline.rebuild import StageRebuilt
    from offline.rebuilt_ledger import LedgerRebuilt


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(
        short_help="Redis was lost: make its state anew.",
        epilog="Example: driftwood rebuild flights, with all workers stopped; then start them again.",
    )(rebuild)


def rebuild(
    pipeline: PipelineArgument,
    discard: Annotated[
        bool, typer.Option("--discard", help="Throw away what Redis has of the pipeline, and begin anew.")
    ] = False,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild a pipeline's state in Redis from its hop topics, as far as they reach. Nothing is published again.

    All workers and learn processes have to be stopped. An interrupted rebuild goes on where it stopped when it is run again; before it has
    ended no worker starts. docs/operations.md has the steps.
    """
    from driftwood.rebuilding import rebuild as rebuild_now

    values = loaded(settings, overrides)
    declared = named(pipeline)
    with output.progress("rebuilding") as told:
        done = rebuild_now(declared, values, told, discard=discard)
    if as_json:
        output.data(asdict(done))
    else:
        begun = "rebuilt, going on with one that was interrupted" if done.resumed else "rebuilt"
        output.line(f"{done.pipeline} {begun} in {done.seconds:,.1f} s")
        headings = ["stage", "records", "new rows", "left to workers", "windows complete"]
        output.table(headings, rows_of(done.stages))
        if done.ledger is not None:
            output.line(ledger_line(done.ledger))
    for stage in done.stages:
        warn(stage)
    if done.ledger is not None:
        warn_of_ledger(done.ledger)
    learns = "" if done.ledger is None else f", and driftwood learn {pipeline}"
    output.say(f"Start the workers: driftwood run {pipeline}{learns}")


def rows_of(stages: Sequence[StageRebuilt]) -> list[tuple[str, ...]]:
    """The table: a row a stage."""
    complete = [
        "yes" if stage.whole else f"for events from {stage.complete_from or 'now on'}" for stage in stages
    ]
    return [
        (stage.entity, f"{stage.records:,}", f"{stage.rows:,}", f"{stage.to_answer:,}", text)
        for stage, text in zip(stages, complete, strict=True)
    ]


def ledger_line(ledger: LedgerRebuilt) -> str:
    """What became of the ledger."""
    return (
        f"ledger of the join: {ledger.records:,} records, {ledger.rows:,} rows, {ledger.to_settle:,} records left to the learn "
        "process"
    )


def warn_of_ledger(ledger: LedgerRebuilt) -> None:
    """Say what the ledger lacks, if anything."""
    if ledger.deleted_unread:
        output.say(
            f"WARNING: {ledger.deleted_unread:,} records were deleted from hop-join, and nobody knows that they had been joined: "
            "labels in them may not have been learnt."
        )
    if not ledger.whole:
        since = "now on" if ledger.reaches_back_to is None else ledger.reaches_back_to
        output.say(
            f"WARNING: hop-join holds what was answered from {since} on: labels of events that were answered before wait for "
            "them, and become unknown."
        )


def warn(stage: StageRebuilt) -> None:
    """Say what a stage lacks, if anything."""
    if stage.deleted_unread:
        output.say(
            f"WARNING: {stage.deleted_unread:,} records of the stage {stage.entity} were deleted from its hop topic, and "
            "nobody knows that they had been worked on: their events may be without an answer."
        )
    if stage.whole:
        return
    if stage.complete_from is None:
        output.say(
            f"WARNING: the hop topic of {stage.entity} holds nothing any more: all its windows begin empty."
        )
    else:
        output.say(
            f"WARNING: the hop topic of {stage.entity} reaches back to {stage.reaches_back_to} only. Windows began empty "
            f"there; they lack older events, until all are complete for events from {stage.complete_from} on."
        )
