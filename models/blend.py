"""The blend: how much of each model goes into the score, learnt from mature labels.

Fixed-share exponential weights (Herbster and Warmuth 1998, Tracking the best expert). After each label a model's weight
shrinks by the factor exp(-rate * its loss); then every model hands a small `share` of its weight to all, so that one
that was bad for months can be back within days. Its regret against the best sequence of models with k changes is bounded
whatever the data do; nothing is assumed about them.

Three things are added. A model that did not exist when a row was served sleeps in that row and keeps its weight
(Freund, Schapire, Singer and Warmuth 1997, Using and combining predictors that specialize). The champion never has less
than `floor`, so no run of luck takes the answer far away from the model that was tested. A model that is frozen by its
guard has no weight at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from features.durations import duration_us
from features.errors import PipelineError
from features.plan import Floats
from models.losses import present

CHAMPION = "champion"
"""The blend's name for the batch model in service, or for the fallback while there is none."""

# Where the weights are judged, no probability counts as less than this: a row costs at most 9.2 nats, so that one wrong
# label does not decide who answers.
LEAST_JUDGED = 1e-4

# A probability nearer to 0 or 1 than this has no log odds to speak of, and is pooled as if it were this.
LEAST_POOLED = 1e-7

# Weight with which a model joins. The shares lift it from there, so it need not be exact.
ENTRY = 0.05

Pool = Literal["logit", "linear"]


@dataclass(frozen=True)
class Blend:
    """How the parts become one score.

    - `rate`: how sharply weights follow losses, in 1 over nats. 1 is Bayes' rule for a mixture of models of which one is
      right; less averages more, which is better where none is (docs/decisions/0032).
    - `share`: part of the weight that is handed round after each label. Its inverse is the number of labels after which
      the blend expects another model to be the best.
    - `floor`: the least weight of the champion, from 0 to 1.
    - `pool`: "logit" averages log odds (regression: the values), "linear" averages probabilities.
    - `calibrate`: whether the pooled score is corrected by what became of mature events.
    - `mature_after`: the delay after which the labels of a time are as good as complete ("7d"); default: learnt from
      the delays seen, and the label's horizon until enough are (`models/maturity.py`).

    Raises PipelineError for a number out of its range.

    Example:
        >>> Blend(floor=2)
        Traceback (most recent call last):
        features.errors.PipelineError: Blend(floor): 2; expected a number from 0 to 1
    """

    rate: float = 0.02
    share: float = 0.0001
    floor: float = 0.2
    pool: Pool = "logit"
    calibrate: bool = True
    mature_after: str | None = None

    def __post_init__(self) -> None:
        for name, top in (("rate", math.inf), ("share", 1.0), ("floor", 1.0)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0 <= value <= top and math.isfinite(value)):
                expected = "a number from 0 up" if top == math.inf else "a number from 0 to 1"
                raise PipelineError(f"Blend({name})", repr(value), expected)
        if self.pool not in ("logit", "linear"):
            raise PipelineError("Blend(pool)", repr(self.pool), "'logit' or 'linear'")
        if self.mature_after is not None:
            duration_us(self.mature_after, "Blend(mature_after)")


class FixedShare:
    """The weights of the champion and of the learners that were admitted; they add up to 1.

    Example:
        >>> weights = FixedShare(Blend(rate=1.0, share=0.001, floor=0.1))
        >>> weights.admit("logistic")
        >>> losses = {"champion": np.full(50, 0.7), "logistic": np.full(50, 0.4)}
        >>> weights.update(losses, np.ones(50))
        >>> {name: round(weight, 2) for name, weight in weights.weights.items()}
        {'champion': 0.1, 'logistic': 0.9}
    """

    def __init__(self, spec: Blend) -> None:
        self._spec = spec
        self.weights: dict[str, float] = {CHAMPION: 1.0}

    def admit(self, name: str) -> None:
        """Let a learner take part from now on, with a small weight. One that takes part already stays as it is."""
        if name not in self.weights:
            self.weights = {other: weight * (1 - ENTRY) for other, weight in self.weights.items()}
            self.weights[name] = ENTRY
            self._keep_floor()

    def drop(self, name: str) -> None:
        """Take a learner out; the others keep their proportions. The champion cannot be dropped."""
        if name in self.weights and name != CHAMPION:
            del self.weights[name]
            self._scale(self.weights.keys(), 1.0)
            self._keep_floor()

    def restart(self) -> None:
        """Another champion answers: what was earned beside the old one says nothing, so everybody joins anew."""
        names = [name for name in self.weights if name != CHAMPION]
        self.weights = fresh_weights(names)
        self._keep_floor()

    def update(self, losses: Mapping[str, Floats], importance: Floats) -> None:
        """Take in n labels, one after the other: `losses` float64[n] by model, NaN where it sleeps."""
        names = [name for name in self.weights if name in losses]
        columns = [losses[name].tolist() for name in names]
        for weight, *row in zip(importance.tolist(), *columns, strict=True):
            awake = [name for name, loss in zip(names, row, strict=True) if loss == loss]  # noqa: PLR0124  # NaN
            if len(awake) > 1:
                self._update_row(awake, [loss for loss in row if loss == loss], weight)  # noqa: PLR0124  # NaN

    def _update_row(self, awake: Sequence[str], losses: Sequence[float], importance: float) -> None:
        weights, best, rate = self.weights, min(losses), self._spec.rate * importance
        before = [weights[name] for name in awake]
        after = [held * math.exp(-rate * (loss - best)) for held, loss in zip(before, losses, strict=True)]
        total, left, share = sum(before), sum(after), self._spec.share
        equal = total / len(awake)
        for name, weight in zip(awake, after, strict=True):
            kept = weight * total / left if left > 0 else equal
            weights[name] = (1 - share) * kept + share * equal
        self._keep_floor()

    def _keep_floor(self) -> None:
        if len(self.weights) > 1 and self.weights[CHAMPION] < self._spec.floor:
            self._scale([name for name in self.weights if name != CHAMPION], 1 - self._spec.floor)
            self.weights[CHAMPION] = self._spec.floor

    def _scale(self, names: Any, total: float) -> None:
        """Make the weights of these models add up to `total`, in their proportions."""
        names = list(names)
        held = sum(self.weights[name] for name in names)
        for name in names:
            self.weights[name] = self.weights[name] * total / held if held > 0 else total / len(names)

    def state(self) -> dict[str, float]:
        """The weights, to be kept in a snapshot."""
        return dict(self.weights)

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on with kept weights."""
        self.weights = dict(state)


def fresh_weights(learners: Sequence[str]) -> dict[str, float]:
    """The weights beside a champion that was not judged yet.

    Example:
        >>> fresh_weights(["logistic"])
        {'champion': 0.95, 'logistic': 0.05}
    """
    entry = min(ENTRY, 0.5 / max(len(learners), 1))
    return {CHAMPION: 1 - entry * len(learners), **dict.fromkeys(learners, entry)}


def pooled(kind: str, pool: Pool, scores: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """float64[n] or [n, K]: the scores of the models that have a weight, as one.

    A row in which a model has no finite score is pooled from the others, in their proportions; NaN where none has one.
    Each row's result depends on that row alone, bit for bit.

    Example:
        >>> parts = {"champion": np.array([0.2, 0.2]), "logistic": np.array([0.8, np.nan])}
        >>> pooled("binary", "linear", parts, {"champion": 0.5, "logistic": 0.5})
        array([0.5, 0.2])
    """
    names = [name for name in scores if weights.get(name, 0.0) > 0]
    if not names:
        return np.full_like(next(iter(scores.values())), np.nan)
    to_pool, from_pool = _scales(kind, pool)
    first = scores[names[0]]
    total, held = np.zeros(first.shape), np.zeros(len(first))
    for name in names:
        awake = present(scores[name])
        held += np.where(awake, weights[name], 0.0)
        taken = np.where(_like(awake, first), to_pool(scores[name]), 0.0)
        total += weights[name] * taken
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = from_pool(total / _like(held, first))
    return found


def log_odds(probabilities: Floats) -> Floats:
    """float64: log(p / (1 - p)), p cut to LEAST_POOLED .. 1 - LEAST_POOLED.

    Example:
        >>> log_odds(np.array([0.5, 0.0])).round(3)
        array([  0.   , -16.118])
    """
    clipped = np.clip(probabilities, LEAST_POOLED, 1 - LEAST_POOLED)
    odds: Floats = np.log(clipped / (1 - clipped))
    return odds


def probability(log_odds_of: Floats) -> Floats:
    """float64: 1 / (1 + exp(-z)).

    Example:
        >>> probability(np.array([0.0, 2.0])).round(3)
        array([0.5  , 0.881])
    """
    with np.errstate(over="ignore"):
        found: Floats = 1.0 / (1.0 + np.exp(-log_odds_of))
    return found


def log_shares(probabilities: Floats) -> Floats:
    """float64[n, K]: logarithms, cut at LEAST_POOLED."""
    logs: Floats = np.log(np.clip(probabilities, LEAST_POOLED, 1.0))
    return logs


def shares(logs: Floats) -> Floats:
    """float64[n, K]: probabilities proportional to exp(logs). Columns are added in their order, row by row the same."""
    highest = logs[:, 0].copy()
    for column in range(1, logs.shape[1]):
        highest = np.maximum(highest, logs[:, column])
    raised = np.exp(logs - highest[:, None])
    total = np.zeros(len(logs))
    for column in range(logs.shape[1]):
        total += raised[:, column]
    found: Floats = raised / total[:, None]
    return found


def _scales(kind: str, pool: Pool) -> tuple[Any, Any]:
    if kind == "regression" or pool == "linear":
        return np.asarray, np.asarray
    return (log_odds, probability) if kind == "binary" else (log_shares, shares)


def _like(rows: Any, scores: Floats) -> Any:
    return rows if scores.ndim == 1 else rows[:, None]
