"""The command line. `main` is the program `driftwood`; a module for each group of commands.

Data goes to stdout, everything else to stderr. Nothing heavy is imported before a command needs it.
"""

from driftwood.cli.program import main

__all__ = ["main"]
