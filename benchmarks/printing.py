"""How the benchmarks tell what they found: progress on stderr, and on stdout a table for people or one JSON document."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def arguments(about: str) -> argparse.ArgumentParser:
    """A parser whose --help shows the module's docstring as it stands, with `--json`."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def tell(
    figures: Mapping[str, Any], *, as_json: bool, show: Callable[[Console, Mapping[str, Any]], None]
) -> None:
    """The figures: one JSON document, or what `show` prints for people."""
    if as_json:
        json.dump(figures, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        # Into a file or a pipe: wide enough for every table.
        show(Console(width=None if sys.stdout.isatty() else 140), figures)


def print_steps(console: Console, title: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    """A table of stages by steps; a stage lacks the steps that it has not."""
    steps = list(dict.fromkeys(step for stage in figures.values() for step in stage))
    table = Table("stage", *steps, title=title)
    for stage, row in figures.items():
        table.add_row(stage, *(f"{row[step]:,}" if step in row else "" for step in steps))
    console.print(table)


def print_machine(console: Console, machine: Mapping[str, Any]) -> None:
    """The machine and the versions, a line each."""
    for name, value in machine.items():
        shown = (
            ", ".join(f"{key} {version}" for key, version in value.items())
            if isinstance(value, dict)
            else value
        )
        console.print(f"{name:14} {shown}")
