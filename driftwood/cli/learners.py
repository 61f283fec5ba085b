"""`driftwood learn`, `serve-mode` and `learners`: the process that learns, and what operators decide about it."""

from __future__ import annotations

import asyncio
import getpass
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from driftwood.cli import output
from driftwood.cli.deciding import decide, learning, now_text, time_text
from driftwood.cli.options import AsJson, Overrides, PipelineArgument, SettingsFile, loaded
from streams.control import ACTIONS, SERVE_MODES

if TYPE_CHECKING:
    from features.snapshots_kept import Standing
    from models.pipeline import Pipeline
    from streams.settings import Settings

log = logging.getLogger(__name__)

HOUR_S = 3_600


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(
        short_help="Run the process that learns from labels.", epilog="Example: driftwood learn flights"
    )(learn)
    app.command(
        name="serve-mode",
        short_help="What answers: blend, champion or fallback.",
        epilog="Examples: driftwood serve-mode flights; driftwood serve-mode flights champion",
    )(serve_mode)
    app.command(
        short_help="Freeze, reset or restore an online learner.",
        epilog="Examples: driftwood learners flights; driftwood learners flights reset bounded_tree",
    )(learners)


def learn(
    pipeline: PipelineArgument,
    afresh: Annotated[
        bool,
        typer.Option(
            "--afresh",
            help="Where the newest snapshot cannot be used, go on behind it with learners that have seen nothing.",
        ),
    ] = False,
    settings: SettingsFile = None,
    overrides: Overrides = None,
) -> None:
    """Run the learn road of a pipeline until Ctrl-C: labels meet what was served, and the online learners learn.

    One process owns the learners. More of them share the join of labels, and stand by to take the learners over.
    """
    from driftwood.logs import set_up_logging
    from offline.prediction_archive import archive_of
    from streams.learn_run import run_learner
    from streams.run import Started

    def ready(started: Started) -> None:
        log.info(
            "ready: learns from %s; metrics at %s; Ctrl-C stops it",
            ", ".join(started.stages),
            started.metrics_url,
        )

    values = loaded(settings, overrides)
    set_up_logging(values)
    declared = learning(pipeline)
    run_learner(declared, values, ready, afresh=afresh, archive=archive_of(declared, values))


def serve_mode(
    pipeline: PipelineArgument,
    mode: Annotated[
        str | None,
        typer.Argument(metavar="MODE", help=f"{', '.join(SERVE_MODES)}; left out: show which is in force."),
    ] = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what answers on all workers of a pipeline: the blend, the batch model alone, or the declared fallback.

    In force within five seconds, without a restart; written down on the topic control, and named on every prediction.
    """
    from streams.control import ServeModeChange

    values, declared = loaded(settings, overrides), learning(pipeline)
    if mode is None:
        state = _control_state(declared, values)
        output.data({"mode": state}) if as_json else output.line(state)
        return
    chosen = next((known for known in SERVE_MODES if known == mode), None)
    if chosen is None:
        raise typer.BadParameter(f"{mode!r}; expected one of {', '.join(SERVE_MODES)}", param_hint="MODE")
    decide(declared, values, ServeModeChange(chosen, now_text(), getpass.getuser()))
    if as_json:
        output.data({"mode": chosen})
    output.say(f"{declared.name}: {chosen} answers on all workers within five seconds.")


def learners(
    pipeline: PipelineArgument,
    action: Annotated[
        str | None,
        typer.Argument(metavar="ACTION", help=f"{', '.join(ACTIONS)}; left out: show the learners."),
    ] = None,
    learner: Annotated[str | None, typer.Argument(metavar="LEARNER", help="Its name.")] = None,
    snapshot: Annotated[
        int | None,
        typer.Option(
            metavar="VERSION",
            help="Of restore: the snapshot to go back to; by default the newest that is an hour old.",
        ),
    ] = None,
    settings: SettingsFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Decide about one online learner: freeze it (it leaves the blend), begin it anew, or set it back to an older snapshot.

    The decision is written down on the topic control, and takes effect at its place among the labels.
    """
    from streams.control import LearnerCommand

    values, declared = loaded(settings, overrides), learning(pipeline)
    names = [spec.name for spec in declared.online]
    if action is None:
        standing = asyncio.run(_standing(declared, values))
        made = [(one.version, time_text(datetime.fromtimestamp(one.at_s, UTC))) for one in standing]
        if as_json:
            snapshots = [{"version": version, "made_at": at} for version, at in made]
            output.data({"learners": names, "snapshots": snapshots})
        else:
            output.line("\n".join(names))
            if made:
                output.table(["snapshot", "made at"], [(str(version), at) for version, at in made])
            else:
                output.say("No snapshot yet: 'driftwood learn' publishes the first one.")
        return
    chosen = next((known for known in ACTIONS if known == action), None)
    if chosen is None:
        raise typer.BadParameter(f"{action!r}; expected one of {', '.join(ACTIONS)}", param_hint="ACTION")
    if learner not in names:
        seen = "missing" if learner is None else repr(learner)
        raise typer.BadParameter(f"{seen}; {declared.name} has: {', '.join(names)}", param_hint="LEARNER")
    if snapshot is not None and chosen != "restore":
        raise typer.BadParameter(f"{chosen} takes none", param_hint="--snapshot")
    version = asyncio.run(_held(declared, values, snapshot)) if chosen == "restore" else None
    command = LearnerCommand(chosen, learner, now_text(), getpass.getuser(), version)
    decide(declared, values, command)
    if as_json:
        output.data({"action": chosen, "learner": learner, "snapshot": version})
    back = "" if version is None else f" to snapshot {version}"
    output.say(
        f"{declared.name}: {chosen} {learner}{back}; in the snapshots within seconds, while 'driftwood learn' runs."
    )


def _control_state(pipeline: Pipeline, settings: Settings) -> str:
    from driftwood.pipelines import topics_of
    from streams.control_log import ControlLog
    from streams.topics import TopicAdmin

    control = topics_of(pipeline, settings).learning.control
    TopicAdmin(settings).check([control])
    log_of_control = ControlLog(settings, control)
    try:
        return log_of_control.catch_up().mode
    finally:
        log_of_control.close()


async def _standing(pipeline: Pipeline, settings: Settings) -> list[Standing]:
    from features.redis_snapshots import RedisSnapshots

    snapshots = RedisSnapshots.connect(settings.redis_url)
    try:
        return await snapshots.standing(pipeline.name)
    finally:
        await snapshots.aclose()


async def _held(pipeline: Pipeline, settings: Settings, version: int | None) -> int:
    """The version to restore from, kept for as long as outcomes are; raises StoreError when there is none."""
    from features.errors import StoreError
    from features.redis_snapshots import RedisSnapshots

    snapshots = RedisSnapshots.connect(settings.redis_url)
    try:
        kept = await snapshots.standing(pipeline.name)
        chosen = version if version is not None else an_hour_old(kept, datetime.now(UTC).timestamp())
        seconds = int(settings.events_retention.total_seconds())
        if chosen is not None and await snapshots.hold(pipeline.name, chosen, seconds):
            return chosen
    finally:
        await snapshots.aclose()
    kept_text = f"those from {kept[0].version} to {kept[-1].version}, with gaps" if kept else "none"
    raise StoreError(f"there is no snapshot {chosen} of {pipeline.name} any more; Redis has {kept_text}")


def an_hour_old(kept: Sequence[Standing], now_s: float) -> int | None:
    """The newest snapshot made an hour before `now_s` (seconds since 1970) or earlier, else the oldest; None of none.

    Whoever sets a learner back has seen it go wrong a while ago, and loses no more of what it has learnt than that.

    Example:
        >>> from features.snapshots_kept import Standing
        >>> kept = [Standing(3, 1, 0), Standing(8, 1, 6_000), Standing(9, 1, 9_000)]
        >>> an_hour_old(kept, 10_000), an_hour_old(kept[2:], 10_000), an_hour_old([], 10_000)
        (8, 9, None)
    """
    old = [one.version for one in kept if now_s - one.at_s >= HOUR_S]
    return old[-1] if old else next((one.version for one in kept), None)
