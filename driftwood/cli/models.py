"""`driftwood train`, `promote` and `features`: models, and what they are made from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from driftwood.cli import output
from driftwood.cli.options import AsJson, Overrides, PipelineArgument, SettingsFile, loaded, named


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(
        short_help="Train a model.",
        epilog="Examples: driftwood train flights --until 2013-04-01 --promote; driftwood train shop.py events.parquet labels.parquet",
    )(train)
    app.command(
        short_help="Put a model into service.",
        epilog="Examples: driftwood promote flights; driftwood promote flights 0a1b2c3d4e5f",
    )(promote)
    app.command(short_help="Show the features.", epilog="Example: driftwood features flights --json")(
        features
    )


def train(
    pipeline: PipelineArgument,
    events: Annotated[
        Path | None,
        typer.Argument(
            metavar="EVENTS",
            help="Parquet or JSON Lines file, or a folder of them; may be left out for a shipped example.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Argument(metavar="LABELS", help="Likewise; left out: the label is a column of the events."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Train on events from here on, such as 2013-01-01.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Train on what was known then; later events measure the model."),
    ] = None,
    label_gap: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Time kept free before each cut, instead of the measured delay."
        ),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The labels' column with the event id.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The labels' column with the label.")
    ] = None,
    known_at_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The column with the time when the label was known, in the labels or, without such a file, in the events.",
        ),
    ] = None,
    promotion: Annotated[
        bool, typer.Option("--promote", help="Put the model into service when it is trained.")
    ] = False,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a pipeline's model through the same feature code that serves it, measure it, and save it."""
    from datetime import UTC, datetime

    from driftwood.pipelines import example_files
    from features.durations import duration_us
    from models.model_store import ModelStore
    from offline.labels import LabelColumns
    from offline.train import train as train_model
    from streams.foundation import shared_key

    values = loaded(settings, overrides)
    declared = named(pipeline)
    gap_us = None if label_gap is None else duration_us(label_gap, "--label-gap")
    store = ModelStore(values.models_dir)
    with output.progress("training") as told:
        if events is None:
            events, labels = example_files(pipeline, values, told)
        report = train_model(
            declared,
            events,
            labels,
            store=store,
            since=since,
            until=until,
            label_gap_us=gap_us,
            columns=LabelColumns(id_column, label_column, known_at_column),
            trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
            progress=told,
            signing_key=shared_key(values),
        )
    if promotion:
        store.promote(declared.name, report.version)
    if as_json:
        card = report.card
        output.data(
            {
                "pipeline": report.pipeline,
                "version": report.version,
                "promoted": promotion,
                "folder": str(report.folder),
                "metrics": card.metrics,
                "threshold": card.threshold,
                "warnings": list(card.warnings),
            }
        )
    else:
        output.line(str(report))
    if not promotion:
        output.say(f"Not in service yet: driftwood promote {pipeline} {report.version}")


def promote(
    pipeline: PipelineArgument,
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help="The version to put into service; left out: show them all."),
    ] = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Put a saved model into service, or show which there are; running workers take it up within champion_poll."""
    from features.errors import ModelError
    from models.model_store import ModelStore

    values = loaded(settings, overrides)
    declared = named(pipeline)
    store = ModelStore(values.models_dir)
    if version is not None:
        store.load(declared, version)  # a model for other features is refused here, not by every worker
        store.promote(declared.name, version)
        output.say(f"{declared.name}: {version} is in service.")
        return
    versions = store.versions(declared.name)
    if not versions:
        raise ModelError(
            f"no model of {declared.name} under {values.models_dir} (setting models_dir): driftwood train {pipeline}"
        )
    champion = store.champion(declared.name)
    cards = [(name, store.card(declared.name, name)) for name in versions]
    if as_json:
        output.data(
            [
                {
                    "version": name,
                    "champion": name == champion,
                    "trained_at": card.trained_at,
                    "metrics": card.metrics,
                }
                for name, card in cards
            ]
        )
        return
    rows = [
        (
            name,
            "in service" if name == champion else "",
            card.trained_at,
            card.training.since,
            card.training.until,
        )
        for name, card in cards
    ]
    output.table(["version", "", "trained at", "from", "to"], rows)


def features(
    pipeline: PipelineArgument,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show a pipeline's features: unit, window, tile, default and range; and what an entity costs in memory."""
    from features.table import entity_table, feature_table
    from streams.assembly import hot_entities

    values, declared = loaded(settings, overrides), named(pipeline)
    feature_set, hot = declared.feature_set, hot_entities(declared, values)
    table, entities = feature_table(feature_set), entity_table(feature_set)
    if as_json:
        output.data(
            {
                "hash": feature_set.hash,
                "features": [asdict(row) for row in table],
                "entities": [{**asdict(row), "hot_entities": hot} for row in entities],
            }
        )
        return
    headings = ["feature", "declared", "unit", "window", "tile", "default", "range", "privacy"]
    rows = [(r.name, r.declared, r.unit, r.window, r.tile, r.default, r.range, r.privacy) for r in table]
    output.table(headings, rows, title=f"{len(table)} features, hash {feature_set.hash}")
    if entities:
        costs = [(e.name, e.keys, e.features, f"{e.memory_bytes:,}", f"{e.stored_bytes:,}") for e in entities]
        output.line("")
        output.table(["entity", "key", "features", "bytes in memory", "bytes in Redis, at most"], costs)
        output.line(
            f"A worker keeps up to {hot:,} entities of each kind in memory for each of {values.partitions} partitions "
            "(settings hot_entities, hot_memory); others are read from Redis when they come again."
        )
