"""bounded_tree: River's Hoeffding adaptive tree over scaled numbers, flattened for scoring.

It is bounded in every direction: leaves by the depth, what a leaf keeps by Gaussians (classes) or quantised sums
(regression), its inputs by ±10 deviations, its texts by their number. River's own bound (`max_size`) measures the whole
tree every million rows, and divides by an estimate that is 0 here; it is switched off.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from river import tree
from river.tree.nodes.branch import NumericBinaryBranch
from river.tree.splitter import QOSplitter

from features.errors import SnapshotError
from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.online_input import OnlineInput, Seen
from models.online_model import labelled
from models.river_pickle import pickled, unpickled_from
from models.running_target import RunningTarget
from models.snapshot import pack, unpack
from models.target_codes import TargetCodes
from models.tree_scorer import FlatTree, TreeScorer, tree_values

if TYPE_CHECKING:
    from models.learners import Tree
    from models.pipeline import Pipeline

NEVER = 2**53

# Deviations of a scaled number that one slot of a regression's splitter covers: at most 80 slots a feature.
SLOT = 0.25


class TreeModel:
    """One adaptive tree, its encoding, and the mean target of every text."""

    def __init__(self, spec: Tree, kind: str, classes: int, encoding: OnlineInput) -> None:
        self.name = spec.name
        self._spec = spec
        self._kind = kind
        self._classes = classes
        self._input = encoding
        self._codes = TargetCodes.of(len(encoding.category_names))
        self._target = RunningTarget()
        self.tree = _regressor(spec) if kind == "regression" else _classifier(spec)
        self._seen_of_class = np.zeros(classes)
        self._scorer: TreeScorer | None = None

    @classmethod
    def made(cls, spec: Tree, pipeline: Pipeline) -> TreeModel:
        """A model that has learnt nothing."""
        label = pipeline.label
        classes = {"binary": 2, "regression": 1}.get(label.kind, len(label.classes))
        return cls(spec, label.kind, classes, OnlineInput.of(pipeline.feature_set))

    def learn(self, matrix: FeatureMatrix, codes: Floats, weights: Floats | None = None) -> None:
        """Row by row, in order."""
        matrix, codes, weights = labelled(matrix, codes, weights)
        if not len(codes):
            return
        self._scorer = None
        self._input.learn(matrix)
        seen = self._input.see(matrix)
        targets: list[Any] = codes.tolist() if self._kind == "regression" else codes.astype(np.int64).tolist()
        rows = self._rows(seen)
        for row, target, weight in zip(rows, targets, weights.tolist(), strict=True):
            self.tree.learn_one(row, target, w=weight)
        self._codes.learn(seen.codes, codes)
        self._target.learn(codes)
        if self._kind != "regression":
            np.add.at(self._seen_of_class, codes.astype(np.int64), weights)

    def score(self, matrix: FeatureMatrix) -> Floats:
        """As the scorer of `scoring_bytes`."""
        return self._scoring().score(matrix)

    def scoring_bytes(self) -> bytes:
        """Flat arrays."""
        return self._scoring().to_bytes()

    def state_bytes(self) -> bytes:
        """Flat arrays, and the pickle of River's tree."""
        fields, arrays = self._input.state()
        arrays |= {**self._codes.arrays(), "seen of class": self._seen_of_class}
        head = {
            "kind": self._kind,
            "input": fields,
            "target": self._target.state(),
            "tree": pickled(self.tree),
        }
        return pack(head, arrays)

    @classmethod
    def restored(cls, spec: Tree, pipeline: Pipeline, state: bytes) -> TreeModel:
        """The model of `state_bytes`, which must have been unsealed; raises SnapshotError."""
        fields, arrays = unpack(state)
        try:
            seen_of_class = arrays["seen of class"].copy()
            encoding = OnlineInput.restored(fields["input"], arrays)
            model = cls(spec, fields["kind"], len(seen_of_class), encoding)
            model._codes = TargetCodes.of_arrays(arrays)
            model._target = RunningTarget.restored(fields["target"])
            model._seen_of_class = seen_of_class
            model.tree = _as_made(unpickled_from(state, fields["tree"]))
            return model
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"the state of {spec.name} does not fit together: {error!r}") from error

    def _rows(self, seen: Seen) -> list[dict[int, float]]:
        """Rows as River takes them, by column number. What was never missing has no column: it would cost its time."""
        values = tree_values(seen.numbers, seen.missing, self._codes.values(seen.codes, self._target))
        width = seen.numbers.shape[1]
        kept = [at for at in range(values.shape[1]) if not width <= at < 2 * width]
        kept += [width + at for at in np.flatnonzero(self._input.ever_missing).tolist()]
        return [dict(zip(kept, row, strict=True)) for row in values[:, kept].tolist()]

    def _scoring(self) -> TreeScorer:
        if self._scorer is None:
            prior = self._prior()
            flat = flatten(self.tree._root, prior, self._spec.smoothing)  # noqa: SLF001  # River has no door to it
            self._scorer = TreeScorer(self._kind, self._input, self._codes, self._target, flat)
        return self._scorer

    def _prior(self) -> Floats:
        """float64[K]: the mean target, or the shares of the classes."""
        if self._kind == "regression":
            return np.array([self._target.mean])
        total = self._seen_of_class.sum()
        return self._seen_of_class / total if total > 0 else np.full(self._classes, 1.0 / self._classes)


def flatten(root: Any, prior: Floats, smoothing: float = 0.0) -> FlatTree:
    """River's nodes as arrays; a tree that has learnt nothing is one leaf that says `prior`."""
    nodes: list[list[float]] = []
    votes: list[Floats] = []

    def add(node: Any) -> int:
        here = len(nodes)
        nodes.append([-1, 0.0, -1, -1, -1])
        if not isinstance(node, NumericBinaryBranch):
            votes.append(prior if node is None else _votes(node, prior, smoothing))
            return here
        votes.append(np.zeros(len(prior)))
        left, right = (add(child) for child in node.children)
        alternate = -1 if node._alternate_tree is None else add(node._alternate_tree)  # type: ignore[attr-defined]  # noqa: SLF001  # see _scoring
        nodes[here] = [node.feature, node.threshold, left, right, alternate]
        return here

    add(root)
    table = np.array(nodes)
    feature, left, right, alternate = (table[:, at].astype(np.int32) for at in (0, 2, 3, 4))
    return FlatTree(feature, table[:, 1].copy(), left, right, alternate, np.stack(votes))


def _votes(leaf: Any, prior: Floats, smoothing: float) -> Floats:
    """What a leaf says, and how loudly: River divides a class leaf's shares by its squared error, where it has one."""
    if not isinstance(leaf.stats, dict):
        mean, rows = leaf.stats.mean.get(), leaf.stats.mean.n
        return (rows * mean + smoothing * prior) / (rows + smoothing) if rows else prior
    counted = np.array([leaf.stats.get(code, 0.0) for code in range(len(prior))])
    total = counted.sum()
    if total <= 0:
        return prior
    squared_error = leaf._mean_error.get() ** 2  # noqa: SLF001  # see _scoring
    shares: Floats = (counted + smoothing * prior) / (total + smoothing)
    return shares / squared_error if squared_error > 0 else shares


def _as_made(restored: Any) -> Any:
    """Its words are the interpreter's own again, as in a tree that was never written.

    A pickle writes a word once where it is one object with another ("mean", a parameter and the name of an attribute), and
    twice where it is not: equal trees would be different bytes.
    """
    words = {name: value for name, value in vars(restored).items() if isinstance(value, str)}
    vars(restored).update({name: sys.intern(value) for name, value in words.items()})
    return restored


def _classifier(spec: Tree) -> Any:
    return tree.HoeffdingAdaptiveTreeClassifier(
        max_depth=spec.max_depth,
        grace_period=spec.grace_period,
        delta=spec.delta,
        tau=spec.tau,
        seed=spec.seed,
        leaf_prediction="mc",
        binary_split=True,
        memory_estimate_period=NEVER,
    )


def _regressor(spec: Tree) -> Any:
    return tree.HoeffdingAdaptiveTreeRegressor(
        max_depth=spec.max_depth,
        grace_period=spec.grace_period,
        delta=spec.delta,
        tau=spec.tau,
        seed=spec.seed,
        leaf_prediction="mean",
        splitter=QOSplitter(radius=SLOT),
        binary_split=True,
        memory_estimate_period=NEVER,
    )
