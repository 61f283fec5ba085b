"""`driftwood topics create` and `driftwood topics show`."""

from __future__ import annotations

import typer

from driftwood.cli import output
from driftwood.cli.options import AsJson, Overrides, PipelineArgument, SettingsFile, loaded, named

commands = typer.Typer(
    no_args_is_help=True, help="Create a pipeline's topics, or show them.", rich_markup_mode=None
)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(commands, name="topics")


@commands.command(epilog="Example: driftwood topics create flights --set partitions=8")
def create(
    pipeline: PipelineArgument,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Create the topics that are missing, and check those that are there."""
    from driftwood.pipelines import topics_of
    from streams.topics import TopicAdmin

    values = loaded(settings, overrides)
    wanted = topics_of(named(pipeline), values)
    created = TopicAdmin(values).create(wanted)
    if as_json:
        output.data([{"topic": topic.name, "created": topic.name in created} for topic in wanted])
        return
    for topic in wanted:
        output.line(f"{topic.name}  {'created' if topic.name in created else 'was there'}")


@commands.command(epilog="Example: driftwood topics show flights --json")
def show(
    pipeline: PipelineArgument,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show a pipeline's topics as the broker has them; ends with 3 when one is missing or has other partitions."""
    from driftwood.pipelines import topics_of
    from streams.topics import TopicAdmin

    values = loaded(settings, overrides)
    wanted = topics_of(named(pipeline), values)
    admin = TopicAdmin(values)
    cluster = admin.cluster()
    rows = [(topic, cluster.topics.get(topic.name)) for topic in wanted]
    if as_json:
        output.data(
            [
                {
                    "topic": topic.name,
                    "expected_partitions": topic.partitions,
                    "partitions": seen.partitions if seen else None,
                    "identity": seen.identity if seen else None,
                }
                for topic, seen in rows
            ]
        )
    else:
        cells = [
            (
                topic.name,
                seen.partitions if seen else "missing",
                topic.partitions,
                seen.identity if seen else "",
            )
            for topic, seen in rows
        ]
        output.table(["topic", "partitions", "expected", "identity"], cells)
    admin.check(wanted)
