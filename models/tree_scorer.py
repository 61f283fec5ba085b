"""The scorer of bounded_tree: the tree as flat arrays, which load in a fraction of a millisecond, walked with NumPy.

    node        feature  threshold  left  right  alternate  votes
    0 (root)        3       0.52      1     2       -1        -        column 3 <= 0.52: go left
    1 (leaf)       -1        -       -1    -1       -1      [.9 .1]
    2 …

A branch that has begun to doubt itself has an alternate subtree, which is asked as well (Bifet, Gavaldà 2009).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from features.errors import SnapshotError
from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.online_input import OnlineInput
from models.running_target import RunningTarget
from models.snapshot import pack, unpack
from models.target_codes import TargetCodes

Places = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FlatTree:
    """m nodes in depth-first order; -1 where there is none. `votes` float64[m, K], weighted; a regression has K = 1."""

    feature: Places
    threshold: Floats
    left: Places
    right: Places
    alternate: Places
    votes: Floats

    def reached(self, values: Floats) -> tuple[Floats, Floats]:
        """The sum of the votes float64[n, K] of all leaves that each row of `values` reaches, and their number."""
        votes = np.zeros((len(values), self.votes.shape[1]))
        leaves = np.zeros(len(values))
        rows, nodes = np.arange(len(values)), np.zeros(len(values), np.int64)
        while len(rows):
            here = self.left[nodes] < 0
            np.add.at(votes, rows[here], self.votes[nodes[here]])
            np.add.at(leaves, rows[here], 1.0)
            rows, nodes = rows[~here], nodes[~here]
            lower = values[rows, self.feature[nodes]] <= self.threshold[nodes]
            doubted = self.alternate[nodes] >= 0
            # Alternates first: each row adds its votes in the order in which its own path meets them.
            below = np.where(lower, self.left[nodes], self.right[nodes])
            rows = np.concatenate([rows[doubted], rows])
            nodes = np.concatenate([self.alternate[nodes[doubted]], below])
        return votes, leaves


@dataclass(frozen=True)
class TreeScorer:
    """`kind` is the label's."""

    kind: str
    encoding: OnlineInput
    codes: TargetCodes
    target: RunningTarget
    tree: FlatTree

    def score(self, matrix: FeatureMatrix) -> Floats:
        """float64[n]; float64[n, K] for K classes."""
        seen = self.encoding.see(matrix)
        votes, leaves = self.tree.reached(
            tree_values(seen.numbers, seen.missing, self.codes.values(seen.codes, self.target))
        )
        if self.kind == "regression":
            return votes[:, 0] / leaves
        total = np.zeros(len(votes))
        for part in range(votes.shape[1]):
            total += votes[:, part]
        shares: Floats = votes / np.where(total > 0, total, 1.0)[:, None]
        shares[total <= 0] = 1.0 / votes.shape[1]
        return shares[:, 1] if self.kind == "binary" else shares

    def to_bytes(self) -> bytes:
        """Flat arrays; no pickle."""
        head, arrays = self.encoding.state()
        tree = {field.name: getattr(self.tree, field.name) for field in fields(FlatTree)}
        plain = {"kind": self.kind, "input": head, "target": self.target.state()}
        return pack(plain, {**arrays, **self.codes.arrays(), **tree})

    @classmethod
    def loaded(cls, data: bytes) -> TreeScorer:
        """The scorer of `to_bytes`; raises SnapshotError."""
        plain, arrays = unpack(data)
        try:
            return cls(
                plain["kind"],
                OnlineInput.restored(plain["input"], arrays),
                TargetCodes.of_arrays(arrays),
                RunningTarget.restored(plain["target"]),
                FlatTree(**{field.name: arrays[field.name] for field in fields(FlatTree)}),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"the arrays of a tree do not fit together: {error!r}") from error


def tree_values(numbers: Floats, missing: npt.NDArray[np.bool_], codes: Floats) -> Floats:
    """What a tree splits on, float64[n, F + F + C]: scaled numbers, what was missing, categories by their target."""
    return np.concatenate([numbers, missing.astype(np.float64), codes], axis=1)
