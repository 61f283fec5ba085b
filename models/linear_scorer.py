"""The scorer of scaled_logistic and scaled_linear: the sums that River makes, as flat arrays and NumPy.

A row's score is the same bits however rows are cut into batches: columns are added one after the other, and no matrix
product is used, because BLAS groups its sums by the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import SnapshotError
from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.champion_input import offsets, parted
from models.online_input import OnlineInput, Seen, softened
from models.snapshot import pack, unpack


@dataclass(frozen=True)
class Weights:
    """K linear models over F numbers and C categories (K is 1 for a binary label and a regression)."""

    bias: Floats  # [K]
    numbers: Floats  # [K, F]
    missing: Floats  # [K, F]
    codes: tuple[Floats, ...]  # C of [K, codes of the category]

    def sums(self, part: int, seen: Seen) -> Floats:
        """float64[n]: the raw sums of one of the K models."""
        total = np.full(len(seen), self.bias[part])
        for at in range(self.numbers.shape[1]):
            total += seen.numbers[:, at] * self.numbers[part, at]
            total += seen.missing[:, at] * self.missing[part, at]
        for at, weights in enumerate(self.codes):
            total += weights[part, seen.codes[:, at]]
        return total

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """For `models.snapshot.pack`."""
        codes = {f"codes {at}": weights for at, weights in enumerate(self.codes)}
        return {"bias": self.bias, "numbers": self.numbers, "missing": self.missing, **codes}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Weights:
        """What `arrays` was taken from."""
        codes = tuple(arrays[f"codes {at}"] for at in range(len(arrays) - 3) if f"codes {at}" in arrays)
        return cls(arrays["bias"], arrays["numbers"], arrays["missing"], codes)


@dataclass(frozen=True)
class LinearScorer:
    """`kind` is the label's; of a regression, `target` is the mean and the deviation that sums are read with.

    `over_champion`: the matrix has what the champion said behind its features, and the sums are added to that.
    """

    kind: str
    encoding: OnlineInput
    weights: Weights
    target: tuple[float, float]
    over_champion: bool = False
    soften: bool = False

    def score(self, matrix: FeatureMatrix) -> Floats:
        """float64[n]; float64[n, K] for K classes, adding up to 1."""
        parts = len(self.weights.bias)
        begins = np.zeros((len(matrix), parts))
        if self.over_champion:
            features, said = parted(matrix, parts)
            begins = offsets(self.kind, said)
            matrix = features if len(features.names) == len(self.encoding.names) else matrix
        seen = self.encoding.see(matrix)
        seen = softened(seen) if self.soften else seen
        if self.kind == "regression":
            return self.weights.sums(0, seen) * self.target[1] + self.target[0] + begins[:, 0]
        found = [probability(self.weights.sums(part, seen) + begins[:, part]) for part in range(parts)]
        return found[0] if self.kind == "binary" else _shares(found)

    def to_bytes(self) -> bytes:
        """Flat arrays; no pickle."""
        fields, arrays = self.encoding.state()
        head = {
            "kind": self.kind,
            "target": list(self.target),
            "over_champion": self.over_champion,
            "soften": self.soften,
            "input": fields,
        }
        return pack(head, {**arrays, **self.weights.arrays()})

    @classmethod
    def loaded(cls, data: bytes) -> LinearScorer:
        """The scorer of `to_bytes`; raises SnapshotError."""
        fields, arrays = unpack(data)
        try:
            encoding = OnlineInput.restored(fields["input"], arrays)
            first, second = fields["target"]
            weights, over = Weights.of_arrays(arrays), bool(fields["over_champion"])
            return cls(fields["kind"], encoding, weights, (first, second), over, bool(fields["soften"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"the weights of a linear learner do not fit together: {error!r}") from error


def _shares(found: list[Floats]) -> Floats:
    """float64[n, K]: one against the rest, divided by their sum. All of them 0: as little as nothing is known."""
    total = np.zeros(len(found[0]))
    for column in found:
        total += column
    return np.stack(
        [np.where(total == 0, 1 / len(found), column / np.where(total == 0, 1.0, total)) for column in found],
        axis=1,
    )


def probability(sums: Floats) -> Floats:
    """The logistic function; sums beyond ±700 would overflow, and are certain long before."""
    return 1.0 / (1.0 + np.exp(-np.clip(sums, -700.0, 700.0)))
