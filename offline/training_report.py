"""What a training did, for people: the command line prints it as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.model_card import ModelCard
from offline.history import ReadReport

TOP_FEATURES = 10


@dataclass(frozen=True)
class TrainingReport:
    """A saved model: its version and folder, its card, and what became of the records and labels it was made from."""

    pipeline: str
    version: str
    folder: Path
    card: ModelCard
    read: ReadReport
    labels: Mapping[str, int]

    def rows(self) -> list[tuple[str, str]]:
        """Pairs of what and how much, in the order in which to read them."""
        training = self.card.training
        rows = [("model", f"{self.pipeline} {self.version}")]
        rows += [("events", sentence) for sentence in self.read.sentences()]
        rows += [("labels", f"{count:,} {what}") for what, count in self.labels.items() if count]
        rows += [("training range", f"{training.since} to {training.until}")]
        rows += [("label delay", f"{_delay(training.gap_s)} kept free before each cut")]
        rows += [("training rows", f"{training.rows:,} ({_counts(training.labels)})")]
        rows += [("left out", f"{count:,} {why}") for why, count in training.left_out.items() if count]
        for period, figures in self.card.metrics.items():
            rows += [(period, ", ".join(f"{name} {_figure(value)}" for name, value in figures.items()))]
        if self.card.threshold is not None:
            rows += [("decision", f"{self.card.decision}: from a score of {self.card.threshold:.4g} on")]
        rows += [("top features", ", ".join(self.top_features()))]
        return rows + [("warning", warning) for warning in self.card.warnings]

    def top_features(self) -> list[str]:
        """The features that lowered the training loss most, with their share of all gains."""
        total = sum(entry.gain for entry in self.card.features)
        best = sorted(self.card.features, key=lambda entry: -entry.gain)[:TOP_FEATURES]
        return [f"{entry.name} {entry.gain / total:.0%}" for entry in best if entry.gain > 0]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows())


def _counts(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in labels.items())


def _delay(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.2f} {unit}"
    return f"{seconds:.2f} seconds"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and value > 1 else f"{value:.4f}"
