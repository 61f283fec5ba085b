"""`driftwood monitor`: the process that watches for drift."""

from __future__ import annotations

import logging

import typer

from driftwood.cli.options import Overrides, PipelineArgument, SettingsFile, loaded, named

log = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(
        short_help="Run the process that watches for drift.", epilog="Example: driftwood monitor flights"
    )(monitor)


def monitor(pipeline: PipelineArgument, settings: SettingsFile = None, overrides: Overrides = None) -> None:
    """Watch what comes in, what is answered and what labels say, until Ctrl-C: alerts are written to drift-alerts.

    Nothing waits for it, and it may be started at any time: it begins with the oldest records there are. More of them share
    the partitions; one raises the alerts, and others stand by.
    """
    from driftwood.logs import set_up_logging
    from driftwood.pipelines import topics_of
    from streams.run import Started
    from streams.watch_run import run_monitor

    def ready(started: Started) -> None:
        log.info(
            "ready: watches %s; metrics at %s; Ctrl-C stops it",
            ", ".join(started.stages),
            started.metrics_url,
        )

    values = loaded(settings, overrides)
    set_up_logging(values)
    declared = named(pipeline)
    _ = topics_of(declared, values).learning  # one that does not learn has nothing to be watched
    run_monitor(declared, values, ready)
