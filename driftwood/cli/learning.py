"""`driftwood models` and `driftwood why`: how good the models are just now, and one answer explained."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from driftwood.cli import output
from driftwood.cli.options import AsJson, Overrides, PipelineArgument, SettingsFile, loaded, named
from features.errors import OperatorError

if TYPE_CHECKING:
    from models.pipeline import Pipeline
    from streams.settings import Settings

# What is shown of each kind of label, with its heading; everything stands in the JSON.
SHOWN = {
    "binary": ("auc", "ap", "log_loss", "brier", "calibration_error", "precision", "recall", "cost"),
    "multiclass": ("log_loss", "brier", "calibration_error", "accuracy", "macro_f1"),
    "regression": ("mae", "rmse"),
}


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(
        short_help="How good the models are, live.",
        epilog="Examples: driftwood models flights; driftwood models flights --total --json",
    )(models)
    app.command(
        short_help="Why one event got its score.",
        epilog="Example: driftwood why flights 2013-04-01T06:00-UA-1545-EWR",
    )(why)


def models(
    pipeline: PipelineArgument,
    total: Annotated[
        bool, typer.Option("--total", help="Since the beginning, not over the last outcomes.")
    ] = False,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show how good each model and the blend were on the labels that came, measured before anybody learnt from them."""
    from driftwood.feed_view import feed_lines

    values, declared = loaded(settings, overrides), named(pipeline)
    figures = asyncio.run(_figures(declared, values))
    if as_json:
        output.data(figures)
        return
    output.line(_summary(figures))
    for line in feed_lines(figures):
        output.line(line)
    if figures.get("snapshot_age_s", 0.0) > values.label_silence.total_seconds():
        output.line(
            f"Nothing was learnt for long: no label came, or no learn process runs (driftwood doctor {pipeline})."
        )
    names = SHOWN[declared.label.kind]
    period = "total" if total else "rolling"
    headings = ["model", "weight", "labels", *(name.replace("_", " ") for name in names), ""]
    title = "since the beginning" if total else "over the last outcomes"
    output.table(headings, _rows(figures["models"], period, names), title=title)


async def _figures(pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    from features.redis_snapshots import RedisSnapshots

    store = RedisSnapshots.connect(settings.redis_url)
    try:
        found = await store.figures(pipeline.name)
        version = await store.latest(pipeline.name)
    finally:
        await store.aclose()
    if found is None:
        raise OperatorError(
            f"no learner of {pipeline.name} has published anything yet: is one running (driftwood learn), and have "
            "labels come (driftwood produce … --labels)?"
        )
    figures: dict[str, Any] = json.loads(found)
    if (published_ms := figures.pop("published_ms", None)) is not None:
        figures["snapshot_age_s"] = round(time.time() - published_ms / 1e3, 1)
    return {"pipeline": pipeline.name, "snapshot": version, **figures}


def _summary(figures: Mapping[str, Any]) -> str:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in figures["outcomes"].items())
    age = f", {figures['snapshot_age_s']:,.1f} s old" if "snapshot_age_s" in figures else ""
    return f"{figures['pipeline']}: snapshot {figures['snapshot']}{age}. Outcomes: {outcomes or 'none'}."


def _rows(models: Mapping[str, Any], period: str, names: tuple[str, ...]) -> Iterator[list[str]]:
    for name, row in models.items():
        figures = row[period]
        weight = "" if row["weight"] is None else f"{row['weight']:.3f}"
        shown = [f"{figures[figure]:.4f}" if figure in figures else "" for figure in names]
        frozen = f"frozen: {row['frozen']}" if row["frozen"] else ""
        yield [name, weight, f"{figures['rows']:,.0f}", *shown, frozen]


def why(
    pipeline: PipelineArgument,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event's id.")],
    personal: Annotated[
        bool,
        typer.Option(
            "--show-personal", help="Show personal and sensitive features; they are masked otherwise."
        ),
    ] = False,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Explain one answer: the score and its parts, the features with windows and ages, the label, what was learnt."""
    from driftwood.pipelines import topics_of
    from driftwood.why import why as found_why
    from driftwood.why_view import blocks
    from streams.topic_log import TopicLog
    from streams.topics import TopicAdmin

    values, declared = loaded(settings, overrides), named(pipeline)
    topics = topics_of(declared, values)
    TopicAdmin(values).check([topics.predictions, *([topics.learn.outcomes] if topics.learn else [])])
    found = found_why(declared, topics, TopicLog(values), event_id)
    if as_json:
        prediction = dict(found.prediction)
        if not personal:
            prediction["features"] = declared.feature_set.masked(prediction["features"])
        output.data({"prediction": prediction, "outcomes": [asdict(one) for one in found.outcomes]})
        return
    output.line("\n\n".join(block.text for block in blocks(declared, found, personal=personal)))
