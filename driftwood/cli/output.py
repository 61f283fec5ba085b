"""Where things are printed: data on stdout, what a person should know beside it on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

stderr = Console(stderr=True, highlight=False)


class Told(Protocol):
    """Hears what is being done, and how much of it is done (0.0 to 1.0)."""

    def __call__(self, what: str, share: float, /) -> None: ...


def say(text: str) -> None:
    """A sentence for the person, on stderr."""
    stderr.print(text, markup=False, soft_wrap=True)


def data(value: Any) -> None:
    """One JSON document on stdout, in one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def line(text: str) -> None:
    """One line of data on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table on stdout; in a pipe it is as wide as it needs to be, so that nothing is cut off."""
    width = None if sys.stdout.isatty() else 240
    shown = Table(*headings, title=title, title_justify="left", box=None, header_style="bold")
    for row in rows:
        shown.add_row(*(str(cell) for cell in row))
    Console(width=width, highlight=False).print(shown)


@contextmanager
def progress(what: str) -> Iterator[Told]:
    """A bar on stderr while something is done; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as shown:
        task = shown.add_task(what, total=1.0)

        def told(now: str, share: float, /) -> None:
            shown.update(task, description=now, completed=share)

        yield told


def nobody_reads() -> None:
    """The reader of our stdout has seen enough (`| head`): nothing more is written, also not at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
