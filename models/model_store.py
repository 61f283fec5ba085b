"""Models as files: immutable versions, and one line that says which of them is the champion.

    <folder>/<pipeline>/<version>/model.txt    LightGBM's text
    <folder>/<pipeline>/<version>/card.json    what it reads, was trained on and achieved
    <folder>/<pipeline>/<version>/learners     learners that were taught the same labels, sealed; where there are any
    <folder>/<pipeline>/<version>/reference    what its training data look like, for the drift watch; where it is known
    <folder>/<pipeline>/champion               one line: the version in service
    <folder>/<pipeline>/snapshot               a copy of the learners' newest snapshot, sealed

A version's name is a digest of the first two, so a damaged or exchanged file is noticed at every load. Files are written
beside their place and renamed into it: a reader sees a whole version or none, and the old champion or the new one.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from features.errors import ModelError
from models.fallback import FALLBACK_PREFIX, FallbackScorer
from models.lightgbm_model import Fitted, LightGBMScorer
from models.model_card import VERSION_DIGITS, ModelCard, card_bytes, encoding_of, read_card, version_of
from models.pipeline import Pipeline
from models.scoring import Scorer

MODEL_FILE = "model.txt"
CARD_FILE = "card.json"
LEARNERS_FILE = "learners"
REFERENCE_FILE = "reference"
CHAMPION_FILE = "champion"
SNAPSHOT_FILE = "snapshot"

_VERSION = re.compile(rf"({FALLBACK_PREFIX})?[0-9a-f]{{{VERSION_DIGITS}}}")


class ModelStore:
    """The model files under `folder`, for any number of pipelines. Made on the first save."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, text: str, card: ModelCard) -> str:
        """Writes a version and gives its name. Saving the same model again changes nothing (and mends damaged files)."""
        version = version_of(text, card)
        place = self._place(card.pipeline, version)
        place.mkdir(parents=True, exist_ok=True)
        if not self._is_intact(card.pipeline, version):
            # The card comes last: a version without one is not there yet.
            _write(place / MODEL_FILE, text.encode())
            _write(place / CARD_FILE, card_bytes(card))
        return version

    def promote(self, pipeline: str, version: str) -> None:
        """Makes this version the champion, in one step; workers take it up within seconds.

        Raises ModelError when the version is missing or damaged; the champion stays.
        """
        if not version.startswith(FALLBACK_PREFIX):
            self.card(pipeline, version)
        _check_version(version, f"promote {pipeline}")
        (self.folder / pipeline).mkdir(parents=True, exist_ok=True)
        _write(self.folder / pipeline / CHAMPION_FILE, f"{version}\n".encode())

    def champion(self, pipeline: str) -> str | None:
        """The version in service, or None before the first promotion. Costs one small read.

        Raises ModelError when the file holds anything but a version.
        """
        path = self.folder / pipeline / CHAMPION_FILE
        try:
            version = path.read_text().strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{path} cannot be read ({error}): mend it, or promote a version again"
            ) from error
        _check_version(version, str(path))
        return version

    def versions(self, pipeline: str) -> list[str]:
        """The versions that have both files, by name."""
        return sorted(path.parent.name for path in (self.folder / pipeline).glob(f"*/{CARD_FILE}"))

    def card(self, pipeline: str, version: str) -> ModelCard:
        """The card of a version whose files are whole; raises ModelError otherwise."""
        return self._read(pipeline, version)[1]

    def load(self, pipeline: Pipeline, version: str) -> Scorer:
        """The scorer of this version, or the pipeline's declared fallback for a `fallback-…` version.

        Raises ModelError when files are missing or damaged, or the model was made for other features or another label.
        """
        if version.startswith(FALLBACK_PREFIX):
            return _fallback(pipeline, version)
        text, card = self._read(pipeline.name, version)
        _check_fits(pipeline, version, card)
        threshold = float("nan") if card.threshold is None else card.threshold
        fitted = Fitted(text, encoding_of(card))
        return LightGBMScorer(fitted, version, card.feature_hash, threshold, len(card.classes))

    def save_learners(self, pipeline: str, version: str, data: bytes) -> None:
        """Puts the learners of a version beside it: sealed bytes, with which a pipeline's learning begins."""
        _write(self._place(pipeline, version) / LEARNERS_FILE, data)

    def learners(self, pipeline: str, version: str) -> bytes | None:
        """The learners that were taught with a version, sealed; None where it has none."""
        path = self._place(pipeline, version) / LEARNERS_FILE
        return _bytes(path) if path.exists() else None

    def save_reference(self, pipeline: str, version: str, data: bytes) -> None:
        """Puts what the training data of a version look like beside it. It may be made anew: it is no part of the version."""
        _write(self._place(pipeline, version) / REFERENCE_FILE, data)

    def reference(self, pipeline: str, version: str) -> bytes | None:
        """What the training data of a version look like; None where nobody has counted them, as of a fallback."""
        path = self._place(pipeline, version) / REFERENCE_FILE
        return _bytes(path) if path.exists() else None

    def save_snapshot(self, pipeline: str, data: bytes) -> None:
        """Puts a copy of the learners' newest snapshot beside the models, in place of the one before."""
        (self.folder / pipeline).mkdir(parents=True, exist_ok=True)
        _write(self.folder / pipeline / SNAPSHOT_FILE, data)

    def snapshot(self, pipeline: str) -> bytes | None:
        """The copy of the learners' newest snapshot; None where there is none."""
        path = self.folder / pipeline / SNAPSHOT_FILE
        return _bytes(path) if path.exists() else None

    def _read(self, pipeline: str, version: str) -> tuple[str, ModelCard]:
        place = self._place(pipeline, version)
        if not place.is_dir():
            raise ModelError(
                f"{place} does not exist; there are: {', '.join(self.versions(pipeline)) or 'no versions'}"
            )
        card = read_card(_bytes(place / CARD_FILE), str(place / CARD_FILE))
        text = _bytes(place / MODEL_FILE).decode(errors="replace")
        if version_of(text, card) != version:
            raise ModelError(
                f"{place} is damaged: {MODEL_FILE} ({len(text)} characters) and {CARD_FILE} are not what was saved as "
                f"{version}. Restore both files from a copy, or train again"
            )
        return text, card

    def _is_intact(self, pipeline: str, version: str) -> bool:
        try:
            self._read(pipeline, version)
        except ModelError:
            return False
        return True

    def _place(self, pipeline: str, version: str) -> Path:
        return self.folder / pipeline / version


def _fallback(pipeline: Pipeline, version: str) -> Scorer:
    scorer = FallbackScorer(pipeline)
    if scorer.version != version:
        raise ModelError(
            f"pipeline {pipeline.name}: {version} is asked for, but its declared fallback is now {scorer.version}. "
            "Batches begun with the old one can only be finished by the pipeline file of that time"
        )
    return scorer


def _check_fits(pipeline: Pipeline, version: str, card: ModelCard) -> None:
    features = pipeline.feature_set
    if card.feature_hash != features.hash:
        old, new = {entry.name for entry in card.features}, {feature.name for feature in features.features}
        raise ModelError(
            f"model {version} was trained on features {card.feature_hash}, pipeline {pipeline.name} has {features.hash} "
            f"({_difference(old, new)}). Train again, or run the pipeline file it was trained with"
        )
    label = pipeline.label
    if (card.label, card.label_kind) != (label.name, label.kind) or card.classes != tuple(
        label.classes or ()
    ):
        raise ModelError(
            f"model {version} predicts {card.label} ({card.label_kind} {list(card.classes)}), pipeline {pipeline.name} "
            f"declares {label.name} ({label.kind} {list(label.classes)}). Train again"
        )


def _difference(old: set[str], new: set[str]) -> str:
    added, gone = sorted(new - old), sorted(old - new)
    parts = [f"new: {', '.join(added)}"] * bool(added) + [f"gone: {', '.join(gone)}"] * bool(gone)
    return "; ".join(parts) or "the same names, another order or other definitions"


def _check_version(version: str, place: str) -> None:
    if _VERSION.fullmatch(version) is None:
        raise ModelError(
            f"{place}: {version[:80]!r} is no model version ({VERSION_DIGITS} hex digits); promote one again"
        )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error}): restore it from a copy, or train again"
        ) from error


def _write(path: Path, data: bytes) -> None:
    """Puts the whole file in place or leaves what was there: also when the machine stops in between."""
    handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp makes it private; workers may run as another user
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
