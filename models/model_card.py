"""The card of a model: what it reads, what it was trained on, and how well it did. Kept beside the model as JSON."""

from __future__ import annotations

import hashlib
import math

import msgspec
import numpy as np

from features.errors import ModelError
from models.encoding import Encoding, Vocabulary

# Raised when the card changes in a way that older code must not read.
CARD_FORMAT = 1

# Hex digits of a version: 48 bits, so that two of a million models share one with a chance of 0.2 %.
VERSION_DIGITS = 12


class FeatureEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in the model's order. `categories`: the texts whose place is the code; `fill`: see `Encoding`."""

    name: str
    kind: str
    categories: tuple[str, ...] | None = None
    fill: float | None = None
    gain: float = 0.0


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The rows behind the model. Times are ISO 8601, UTC; `gap_s` is the label delay kept free before each cut."""

    since: str
    until: str
    validation_since: str | None
    gap_s: float
    events: int
    rows: int
    labels: dict[str, int]
    left_out: dict[str, int]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a model but its trees.

    `threshold` is frozen with the model; None where nothing is decided (NaN and infinity have no JSON).
    `metrics` maps a period ("validation", "later") to its figures. `libraries` and `trained_at` do not enter the
    version: the same model trained on another day is the same model.
    """

    pipeline: str
    pipeline_version: str
    feature_hash: str
    label: str
    label_kind: str
    classes: tuple[str | int | bool, ...]
    features: tuple[FeatureEntry, ...]
    parameters: dict[str, str | int | float | bool | list[str | int | float]]
    threshold: float | None
    decision: str
    training: TrainingRecord
    metrics: dict[str, dict[str, float]]
    warnings: tuple[str, ...] = ()
    libraries: dict[str, str] = {}
    trained_at: str = ""
    format: int = CARD_FORMAT


def encoding_of(card: ModelCard) -> Encoding:
    """The encoding that was frozen with the model."""
    vocabularies = {
        column: Vocabulary(entry.categories)
        for column, entry in enumerate(card.features)
        if entry.categories is not None
    }
    fills = np.array([math.nan if entry.fill is None else entry.fill for entry in card.features])
    return Encoding(tuple(entry.name for entry in card.features), vocabularies, fills)


def version_of(text: str, card: ModelCard) -> str:
    """The version of a model: the first hex digits of SHA-256 over its trees and its card (see `ModelCard`)."""
    semantic = msgspec.structs.replace(card, libraries={}, trained_at="")
    digest = hashlib.sha256(text.encode())
    digest.update(msgspec.json.encode(semantic, order="deterministic"))
    return digest.hexdigest()[:VERSION_DIGITS]


def card_bytes(card: ModelCard) -> bytes:
    """The card as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(card, order="deterministic"), indent=2) + b"\n"


def read_card(data: bytes, place: str) -> ModelCard:
    """The card in these bytes; `place` is named in the error.

    Raises ModelError when they are no card of this format.
    """
    try:
        card = msgspec.json.decode(data, type=ModelCard)
    except msgspec.DecodeError as error:
        raise ModelError(f"{place} is no model card ({error}): restore the file, or train again") from error
    if card.format != CARD_FORMAT:
        raise ModelError(
            f"{place} has card format {card.format}, this driftwood reads {CARD_FORMAT}: train again, or run the "
            "driftwood that wrote it"
        )
    return card
