"""`driftwood drift report`: what has moved, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from driftwood.cli import output
from driftwood.cli.options import AsJson, Overrides, PipelineArgument, SettingsFile, loaded, named

drift = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

DAYS = 28


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(drift, name="drift", short_help="What has moved, as a page.")
    drift.command(
        short_help="Write the drift report.",
        epilog="Examples: driftwood drift report flights; driftwood drift report flights --days 90 --json",
    )(report)


@drift.callback()
def about() -> None:
    """What the drift watch has seen of a pipeline."""


def report(
    pipeline: PipelineArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to write; by default drift/PIPELINE below runs_dir."),
    ] = None,
    days: Annotated[int, typer.Option(metavar="N", min=1, help="The newest days of event time.")] = DAYS,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page, which needs nothing beside it, and its pictures: alerts, time lines, now beside the reference.

    Read from what the monitor left on its topics; the strengths over time are worked out again from there.
    """
    from driftwood.drift_report import figures_of, write
    from driftwood.drift_watched import watched

    values, declared = loaded(settings, overrides), named(pipeline)
    folder = out or values.runs_dir / "drift" / declared.name
    with output.progress("reading what the monitor has seen") as told:
        seen = watched(declared, values, days)
        told("drawing", 0.5)
        written = write(seen, folder)
    if as_json:
        files = {"page": str(written.page), "pictures": [str(path) for path in written.pictures]}
        output.data(files | figures_of(seen, written.features))
        return
    output.line(str(written.page))
    count = len(seen.open)
    output.say(
        f"{declared.name}: {'no alert is' if not count else '1 alert is' if count == 1 else f'{count} alerts are'} open."
    )
