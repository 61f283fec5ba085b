"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from models.pipeline import Pipeline
    from streams.settings import Settings

PipelineArgument = Annotated[
    str,
    typer.Argument(
        metavar="PIPELINE", help="A shipped example (flights, payments) or the path of a pipeline file."
    ),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        metavar="FILE",
        help="TOML file with settings; by default ./driftwood.toml if it is there.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="One setting, over environment and file. May be repeated."
    ),
]
FromStart = Annotated[bool, typer.Option("--from-start", help="From the oldest record, not from now on.")]
Follow = Annotated[
    bool, typer.Option("--follow/--no-follow", help="Wait for more at the end, or stop there.")
]
StopAfter = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Stop after so many.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of text.")]


def loaded(file: Path | None, overrides: list[str] | None) -> Settings:
    """The settings of this command; raises SettingError."""
    from streams.settings_sources import load_settings

    return load_settings(file, overrides or ())


def named(pipeline: str) -> Pipeline:
    """The pipeline of this name or path; raises PipelineError."""
    from models.loading import load_pipeline

    return load_pipeline(pipeline)
