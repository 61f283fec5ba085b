"""`driftwood doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from driftwood.cli import output
from driftwood.cli.options import AsJson, Overrides, SettingsFile


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(
        short_help="Is everything as it should be?", epilog="Example: driftwood doctor flights --json"
    )(doctor)


def doctor(
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="PIPELINE", help="Look at this pipeline's topics and model, too."),
    ] = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look whether everything is reachable and set as it should be; each finding says what to do.

    Ends with 3 when something must be done. docs/operations.md has a heading for each finding.
    """
    from driftwood.doctor import examine
    from driftwood.findings import ACT

    findings = examine(settings, overrides or (), pipeline)
    if as_json:
        output.data([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            output.line(f"{finding.level:<5} {finding.check}: {finding.what}")
            if finding.do:
                output.line(f"      {finding.do} (docs/operations.md#{finding.heading})")
    if any(finding.level == ACT for finding in findings):
        raise typer.Exit(3)
