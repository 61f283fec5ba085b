"""The program: its commands put together, and what becomes of errors."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from driftwood.cli import (
    alerts,
    checks,
    drift,
    learners,
    learning,
    models,
    monitor,
    recovery,
    running,
    topics,
    traffic,
)
from driftwood.cli.output import say
from features.errors import DriftwoodError

UNEXPECTED = 1  # exit code of an error that nobody foresaw; the others stand in features/errors.py
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="driftwood",
    help="Scores every event as it arrives: windowed features from Kafka into Feast on Redis; LightGBM and learners that "
    "follow late labels score them.",
    epilog=(
        "Try it: driftwood demo. Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 unexpected error, "
        "2 wrong usage or pipeline file, 3 something around it needs an operator (a server, a setting, a topic, a model), "
        "130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def program(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the code an error comes from.")
    ] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"driftwood {installed('driftwood')}")
        raise typer.Exit
    context.obj = {"debug": debug}


for group in (running, learners, monitor, topics, traffic, models, learning, alerts, drift, recovery, checks):
    group.add_to(app)


def main() -> None:
    """Run the program with the arguments of the process, and end it with the documented exit code."""
    debug = "--debug" in sys.argv
    try:
        app()
    except DriftwoodError as error:
        if debug:
            traceback.print_exc()
        say(f"driftwood: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception:  # noqa: BLE001  # the last door: the person gets the traceback and a word on whose fault it is
        traceback.print_exc()
        say(
            "driftwood: this should not have happened; the lines above say where. Please report it with them."
        )
        sys.exit(UNEXPECTED)
