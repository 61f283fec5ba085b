"""From history to a model: time-ordered, and with nothing that was not known at the time.

    since                        split                         until = the cut-off
    ──┬────────────────┬───────────┬──────────────┬───────────────┬────────────────────> event time
      │ fit the model  │ gap: label│ validate it: │ gap: label    │ later period: metrics
      │ of the past    │ delay     │ threshold,   │ delay         │ of the final model
      │                │           │ metrics      │               │
      └──── the final model is fitted on all of this ─────────────┘  (labels known by the cut-off only)

Events shortly before a cut are left out, because of those only the quick labels are known, and quick labels are not like
the others. The gap is the label delay: 99 % of the labels known by the cut-off had come by then. Where silence is a
label it is the horizon, after which silence speaks.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from features.durations import DAY_US
from features.errors import DeveloperError
from features.event_times import moment_us
from features.feature_set import FeatureMatrix
from features.plan import Floats, Ints
from features.rows import Rows
from models.lightgbm_model import Fitted, LightGBMScorer, fit
from models.metrics import measure, no_better
from models.model_card import FeatureEntry, ModelCard, TrainingRecord
from models.model_store import ModelStore
from models.online_model import taken
from models.pipeline import Pipeline
from offline.backfill import Backfill, backfill_chunks, joined
from offline.columns import column_names
from offline.drift_reference import TrainingCounts, training_scores
from offline.events import CHUNK_ROWS, Source
from offline.history import Progress, ReadReport, read_history
from offline.label_history import known_names
from offline.labels import LabelColumns, Labels, match_labels
from offline.training_problem import Problem, gap_text, iso, left_out, pose, split
from offline.training_report import TrainingReport
from offline.warm_start import warm_start

LIBRARIES = ("lightgbm", "numpy", "pyarrow", "scikit-learn")


def train(
    pipeline: Pipeline,
    events: Source,
    labels: Source | None = None,
    *,
    store: ModelStore,
    since: str | int | None = None,
    until: str | int | None = None,
    label_gap_us: int | None = None,
    columns: LabelColumns | None = None,
    trained_at: str = "",
    progress: Progress | None = None,
    signing_key: bytes | None = None,
) -> TrainingReport:
    """Trains the pipeline's model on what was known at `until`, measures it, and saves it with its card.

    `events` and `labels` are files, folders or tables (`labels` None: the label is a column of `events`). `since` and
    `until` are moments such as "2013-04-01" (UTC; an int counts microseconds); by default everything there is. Events
    from `until` on, where there are any with labels, are the later period that the final model is measured on; their
    labels are not used otherwise. `label_gap_us` replaces the measured label delay. `trained_at` is noted on the card.
    The new version is saved, not promoted (`ModelStore.promote`), and beside it what its training data look like, for the
    drift watch (`offline/drift_reference.py`). Where the pipeline has online learners and a `signing_key` is given, they are taught the same labels (`offline/warm_start.py`) and saved beside it.

    Memory: 8 bytes a feature and event, three times while fitting.

    Raises DeveloperError where files or columns are missing, or where no model can be learnt from what is left.
    """
    for place, moment in (("since", since), ("until", until)):
        if isinstance(moment, str):
            moment_us(moment, place)  # refused before the files are read, which can take minutes
    if labels is not None:
        column_names(labels)  # likewise
    counts = TrainingCounts(pipeline)
    past, matched, read = labelled_features(
        pipeline, events, labels, columns=columns, progress=progress, seen=counts.add
    )
    problem = split(pose(pipeline, past, matched, since, until, label_gap_us))
    warnings: list[str] = []
    validation, threshold, unfitted = _validate(problem, warnings, progress)
    chosen, targets = problem.rows(problem.until_us)
    final = _fit(problem, chosen, targets, progress, "fitting the model")
    metrics = {"validation": validation, "later": _later(problem, final, targets, threshold)}
    metrics = {period: figures for period, figures in metrics.items() if figures}
    _compare(metrics, warnings)
    card = _card(problem, final, targets, threshold, metrics, warnings, trained_at)
    version = store.save(final.text, card)
    scores = training_scores(problem, LightGBMScorer(final, classes=_columns(pipeline)), unfitted)
    reference = counts.reference(problem, scores, threshold, version)
    if reference is not None:
        store.save_reference(pipeline.name, version, reference)
    if pipeline.online and signing_key is not None:
        store.save_learners(pipeline.name, version, warm_start(problem, version, signing_key, progress))
    return TrainingReport(
        pipeline.name, version, store.folder / pipeline.name / version, card, read, matched.counts
    )


def labelled_features(
    pipeline: Pipeline,
    events: Source,
    labels: Source | None = None,
    *,
    columns: LabelColumns | None = None,
    chunk_rows: int = CHUNK_ROWS,
    progress: Progress | None = None,
    seen: Callable[[Rows, FeatureMatrix], None] | None = None,
) -> tuple[Backfill, Labels, ReadReport]:
    """The features of all events, by event time and id; their labels; and what became of the records.

    `seen` is shown the events and their features piece by piece. Windows over labels count what was known before each event. Raises DeveloperError as `train` does.
    """
    with tempfile.TemporaryDirectory(prefix="driftwood-") as scratch:
        history, read = read_history(events, pipeline.feature_set, Path(scratch), progress=progress)
        if not len(history):
            raise DeveloperError("no usable event: " + "; ".join(read.sentences()))
        source = events if labels is None else labels
        matched = match_labels(
            pipeline, source, columns or LabelColumns(), history.event_ids, history.times_us
        )
        known = matched.history(history.event_ids) if known_names(pipeline.feature_set) else None
        pieces = []
        shown, used = itertools.tee(history.chunks(chunk_rows))  # side by side: one chunk is in memory
        for rows, piece in zip(shown, backfill_chunks(pipeline.feature_set, used, known), strict=True):
            pieces.append(piece)
            if seen is not None:
                seen(rows, piece.matrix)
            _say(progress, "computing features", sum(map(len, pieces)) / len(history))
        return joined(pipeline.feature_set, pieces), matched, read


# ---- fitting and measuring


def _validate(
    problem: Problem, warnings: list[str], progress: Progress | None
) -> tuple[dict[str, float], float | None, Floats | None]:
    """(metrics, threshold, scores): of a model fitted before the split, on all events of the rest of the training range."""
    pipeline, split_us = problem.pipeline, problem.split_us
    if split_us is None:
        warnings.append(
            f"no validation: too few labelled events lie more than the label delay ({gap_text(problem)}) before the last "
            "fifth of the training range"
        )
        return {}, _threshold_without_scores(problem), None
    earlier, earlier_targets = problem.rows(split_us)
    scorer = LightGBMScorer(
        _fit(problem, earlier, earlier_targets, progress, "fitting on the earlier part"),
        classes=_columns(pipeline),
    )
    times = problem.past.times_us
    period = np.flatnonzero((times >= split_us) & (times < problem.until_us))
    scores = scorer.score(taken(problem.past.matrix, period))
    threshold = None
    if pipeline.decide is not None:
        # A cut-off beyond the last event must not thin the days out.
        end_us = min(problem.until_us, int(times[-1]) + 1)
        days = (end_us - split_us) / DAY_US
        threshold = pipeline.decide.threshold(scores, len(period) / days)
    chosen, targets = problem.rows(problem.until_us)
    later = chosen >= period[0]
    figures = measure(
        pipeline.label.kind,
        targets[later],
        scores[chosen[later] - period[0]],
        threshold,
        _base(pipeline, earlier_targets),
    )
    return figures, threshold, scores


def _threshold_without_scores(problem: Problem) -> float | None:
    rule = problem.pipeline.decide
    if rule is None:
        return None
    nothing = rule.threshold(np.array([0.25]), 1.0)
    if nothing != rule.threshold(np.array([0.75]), 1.0):
        raise DeveloperError(
            f"{rule} needs scores of a later period to choose its threshold, and the training range is too short for one "
            f"(label delay {gap_text(problem)}). Train on a longer range, or declare Threshold(…) or CostMatrix(…)"
        )
    return nothing


def _later(
    problem: Problem, final: Fitted, fitted_targets: Floats, threshold: float | None
) -> dict[str, float]:
    """Metrics of the final model on the events from the cut-off on whose labels are known by now."""
    pipeline = problem.pipeline
    known = problem.labels.as_of(problem.labels.end_us)
    chosen = (problem.past.times_us >= problem.until_us) & known.known & ~np.isnan(known.codes)
    if not np.isnan(problem.labels.label.silent_code):
        # Of the newest events only those have a label that did not stay silent: they alone would look far too positive.
        chosen &= problem.past.times_us <= problem.labels.end_us - problem.labels.label.horizon_us
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return {}
    scores = LightGBMScorer(final, classes=_columns(pipeline)).score(taken(problem.past.matrix, rows))
    return measure(pipeline.label.kind, known.codes[rows], scores, threshold, _base(pipeline, fitted_targets))


def _compare(metrics: dict[str, dict[str, float]], warnings: list[str]) -> None:
    """Warns of a model that is no better than no model, on the newest events that it was measured on."""
    period = "later" if "later" in metrics else "validation"
    if said := no_better(metrics.get(period, {})):
        warnings.append(
            f"the model is no better than always saying the average ({period} period: {said}): its features tell nothing "
            "of the label there, or there are too few rows"
        )


def _fit(problem: Problem, rows: Ints, targets: Floats, progress: Progress | None, what: str) -> Fitted:
    pipeline = problem.pipeline
    return fit(
        pipeline.batch,
        pipeline.label.kind,
        taken(problem.past.matrix, rows),
        targets,
        _columns(pipeline),
        lambda share: _say(progress, what, share),
    )


def _columns(pipeline: Pipeline) -> int:
    return len(pipeline.label.classes) if pipeline.label.kind == "multiclass" else 1


def _base(pipeline: Pipeline, targets: Floats) -> Floats:
    if pipeline.label.kind == "multiclass":
        return np.bincount(targets.astype(np.int64), minlength=_columns(pipeline)) / len(targets)
    return np.array([targets.mean()])


# ---- the card


def _card(
    problem: Problem,
    final: Fitted,
    targets: Floats,
    threshold: float | None,
    metrics: dict[str, dict[str, float]],
    warnings: list[str],
    trained_at: str,
) -> ModelCard:
    pipeline = problem.pipeline
    spec = asdict(pipeline.batch)
    extra = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in spec.pop("parameters").items()
    }
    never = problem.labels.counts["labels known before their event"]
    if never:
        warnings.append(
            f"{never:,} labels were known before their event: does the event time say when it was decided?"
        )
    entries = _entries(pipeline, final)
    if not any(entry.gain for entry in entries):
        warnings.append(
            f"the model never splits and scores every event alike: {len(targets):,} rows, at least "
            f"{pipeline.batch.min_data_in_leaf:,} for a leaf (min_data_in_leaf)"
        )
    return ModelCard(
        pipeline=pipeline.name,
        pipeline_version=pipeline.version,
        feature_hash=pipeline.feature_set.hash,
        label=pipeline.label.name,
        label_kind=pipeline.label.kind,
        classes=tuple(pipeline.label.classes),
        features=entries,
        parameters=spec | extra,
        threshold=threshold,
        decision=repr(pipeline.decide) if pipeline.decide is not None else "none",
        training=_record(problem, targets),
        metrics=metrics,
        warnings=tuple(warnings),
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
        trained_at=trained_at,
    )


def _entries(pipeline: Pipeline, final: Fitted) -> tuple[FeatureEntry, ...]:
    gains = LightGBMScorer(final, classes=_columns(pipeline)).gains()
    vocabularies, fills = final.encoding.vocabularies, final.encoding.fills
    return tuple(
        FeatureEntry(
            name=feature.name,
            kind=feature.kind,
            categories=vocabularies[column].texts if column in vocabularies else None,
            fill=None if np.isnan(fills[column]) else float(fills[column]),
            gain=float(gains[column]),
        )
        for column, feature in enumerate(pipeline.feature_set.features)
    )


def _record(problem: Problem, targets: Floats) -> TrainingRecord:
    return TrainingRecord(
        since=iso(problem.since_us),
        until=iso(problem.until_us),
        validation_since=None if problem.split_us is None else iso(problem.split_us),
        gap_s=problem.gap_us / 1e6,
        events=int((problem.past.times_us < problem.until_us).sum()),
        rows=len(targets),
        labels=_label_counts(problem.pipeline, targets),
        left_out=dict(left_out(problem)),
    )


def _label_counts(pipeline: Pipeline, targets: Floats) -> dict[str, int]:
    if pipeline.label.kind == "regression":
        return {"numbers": len(targets)}
    names = [str(value) for value in pipeline.label.classes] or ["0", "1"]
    return {name: int((targets == code).sum()) for code, name in enumerate(names)}


def _say(progress: Progress | None, what: str, share: float) -> None:
    if progress is not None:
        progress(what, share)
