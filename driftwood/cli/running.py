"""`driftwood demo`, `up` and `run`: what starts servers and workers."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Annotated

import typer

from driftwood.cli import output
from driftwood.cli.options import AsJson, Overrides, PipelineArgument, SettingsFile, loaded, named

log = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(
        short_help="A shipped example, start to end.",
        epilog="Examples: driftwood demo --json > demo.json; driftwood demo --pipeline payments --drift amounts-moved",
    )(demo)
    app.command(
        short_help="Embedded broker and Redis.",
        epilog="Example: driftwood up flights, then the printed exports in another terminal.",
    )(up)
    app.command(
        short_help="Run a worker.",
        epilog="Examples: driftwood run flights; driftwood run shop.py --stages ingest,card",
    )(run)


def demo(
    example: Annotated[
        str, typer.Option("--pipeline", metavar="NAME", help="The shipped example: flights or payments.")
    ] = "flights",
    drift: Annotated[
        str | None,
        typer.Option(
            "--drift",
            metavar="NAME",
            help="Of payments: what drifts, new-fraud-pattern (as without this), amounts-moved, labels-flipped or none.",
        ),
    ] = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a shipped example on its first months, stream the following ones, and say how good the answers were.

    flights: January to March 2013 train, April to June are streamed. payments: simulated card payments, April trains, May
    and half of June are streamed, a bank blocks what gets a decision, a new fraud comes up, and a monitor watches for drift. Starts an embedded broker
    and Redis for itself; nothing needs to be installed or running. The models stand side by side at the end; the run's
    folder has them as a picture, the figures as summary.json, and one answer explained.
    """
    from rich.live import Live

    from driftwood import demo_view
    from driftwood.demo import run_demo

    with Live(console=output.stderr, transient=True) as shown:
        result = run_demo(
            example,
            loaded(settings, overrides),
            told=lambda what, share: shown.update(demo_view.training(what, share)),
            watched=lambda standing: shown.update(demo_view.live(standing)),
            stage=output.say,
            drift=drift,
        )
    if as_json:
        output.data(result.summary)
    else:
        output.line(demo_view.summary(result))


def up(
    pipelines: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PIPELINE]...", help="Pipelines whose topics are created."),
    ] = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run the embedded broker and Redis until Ctrl-C: for trying driftwood, not for data that matters."""
    from driftwood.embedded import Runtime
    from driftwood.embedded.broker import RETAINED_BYTES_PER_PARTITION
    from driftwood.pipelines import topics_of
    from streams.units import size_text

    values = loaded(settings, overrides)
    wanted = {
        topic.name: topic.partitions for name in pipelines or () for topic in topics_of(named(name), values)
    }
    # Asked for before the servers start: whatever stops us then finds a handler that ends them properly.
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Runtime().start(wanted) as runtime:
        addresses = {"brokers": runtime.broker_address, "redis_url": runtime.redis_url}
        if as_json:
            output.data({**addresses, "topics": wanted})
        else:
            for name, value in addresses.items():
                output.line(f"export DRIFTWOOD_{name.upper()}={value}")
        output.say(
            f"Broker and Redis are up, with {len(wanted)} topics. The broker keeps {size_text(RETAINED_BYTES_PER_PARTITION)} "
            "a partition, in memory. Paste the exports into another terminal; Ctrl-C here ends both."
        )
        # Short waits: a signal is only handled between them, as the main thread cannot be woken from one for ever.
        while not stop.wait(0.5):
            pass
    output.say("Broker and Redis have ended.")


def run(
    pipeline: PipelineArgument,
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages", metavar="NAMES", help="Only these stages, with commas: ingest and entities' names."
        ),
    ] = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
) -> None:
    """Run a worker of a pipeline until Ctrl-C: it takes its share of the partitions, and more workers share the rest.

    Says on stderr when it is ready, which partitions it has, and when another model answers (unless log_level hides it).
    """
    from driftwood.logs import set_up_logging
    from models.fallback import FALLBACK_PREFIX
    from streams.run import Started, run_worker

    def ready(started: Started) -> None:
        answers = f"model {started.model}"
        if started.model.startswith(FALLBACK_PREFIX):
            answers = f"its fallback, as no model is in service (driftwood train {pipeline} … --promote)"
        log.info(
            "ready: reads %s; %s answers with %s; metrics at %s; Ctrl-C stops it",
            ", ".join(started.stages),
            started.pipeline,
            answers,
            started.metrics_url,
        )

    values = loaded(settings, overrides)
    set_up_logging(values)
    chosen = [name.strip() for name in stages.split(",") if name.strip()] if stages else []
    run_worker(named(pipeline), values, chosen, ready)
