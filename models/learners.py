"""The learners that a pipeline can name, one line each: `Pipeline(online=[scaled_logistic(), bounded_tree()])`.

Plain data: loading a pipeline file never loads River, nor does a scorer of the first three. The process that learns does,
and so do the scorers of `river_model`, which are River's own objects.

    scaled_logistic   binary, multiclass   River's logistic regression (AdaGrad), one for each class
    scaled_linear     regression           River's linear regression (AdaGrad) on a scaled target
    bounded_tree      all kinds            River's Hoeffding adaptive tree, of bounded depth
    river_model       all kinds            any other classifier or regressor of River
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from features.errors import PipelineError
from features.schema import is_name
from models.argument_checks import check_number, check_switch, check_whole

if TYPE_CHECKING:
    from models.label import Label
    from models.online_model import OnlineModel, OnlineScorer
    from models.pipeline import Pipeline


def scaled_logistic(
    name: str = "scaled_logistic",
    *,
    learning_rate: float = 0.1,
    rows_per_step: int = 32,
    over_champion: bool = False,
    champion_input: bool = False,
    soften: bool = False,
) -> Linear:
    """Logistic regression on scaled features: the learner to begin with. Binary and multiclass (one against the rest).

    A mini-batch of at most `rows_per_step` labels makes one step of AdaGrad (Duchi, Hazan, Singer 2011) of size
    `learning_rate`; fewer rows learn faster and cost more (about 0.5 ms a step). Numbers are scaled by what was seen so
    far, missing ones have weights of their own, and so has each of the first 200 texts of a category.

    `over_champion=True` makes it a residual learner: its log odds are those of the champion, as served, and a correction
    that is learnt and begins at 0. It says at first what the champion says, learns only from rows that this champion has
    answered, and begins anew when another version of it answers. `champion_input=True` hands it the champion's log odds as
    one more scaled input besides, so that the correction may also be to believe the champion less.

    `soften=True` takes asinh of the scaled numbers: unchanged near the mean, their logarithm far out. It helps where many
    windows have long tails and none of their far ends means much (flights: counts and mean delays), and harms where the
    far end is the message (payments: a burst, a first fraud).

    Example:
        >>> scaled_logistic(learning_rate=0.05).name
        'scaled_logistic'
        >>> scaled_logistic("residual", learning_rate=0.05, over_champion=True).over_champion
        True
    """
    return Linear(name, False, learning_rate, rows_per_step, over_champion, champion_input, soften)


def scaled_linear(
    name: str = "scaled_linear",
    *,
    learning_rate: float = 0.1,
    rows_per_step: int = 32,
    over_champion: bool = False,
    champion_input: bool = False,
    soften: bool = False,
) -> Linear:
    """Linear regression on scaled features and a scaled target; otherwise as `scaled_logistic`.

    `over_champion=True`: the champion's value and a learnt correction.
    """
    return Linear(name, True, learning_rate, rows_per_step, over_champion, champion_input, soften)


def bounded_tree(
    name: str = "bounded_tree",
    *,
    max_depth: int = 6,
    grace_period: int = 200,
    delta: float = 1e-5,
    tau: float = 0.05,
    smoothing: float = 10.0,
    seed: int = 7,
) -> Tree:
    """A Hoeffding adaptive tree (Bifet, Gavaldà 2009) of at most 2**`max_depth` leaves: finds interactions, follows drift.

    A leaf tries to split after every `grace_period` rows, and does when the best split is better than the second best with
    probability 1 - `delta`, or when the two differ by less than `tau` for certain: more of either splits sooner. Its answer is drawn towards the overall share (or mean) by as
    much as `smoothing` rows would: a leaf of three rows is not certain of anything; 0 leaves it as River has it.
    Costs some 100 µs a label to learn; scoring is a walk through flat arrays.
    """
    return Tree(name, max_depth, grace_period, delta, tau, smoothing, seed)


def river_model(
    estimator: Any, name: str | None = None, *, scale: bool = True, rows_per_step: int = 1, seed: int = 7
) -> RiverLearner:
    """Any classifier or regressor of River, or a River pipeline that ends in one. It is cloned: yours never learns.

    `scale=True` hands it numbers only: scaled features, `"<feature> missing"` where it was, `"<feature>=<text>": 1.0`.
    `scale=False` hands it the features as they are: numbers as floats, texts as texts, missing and infinite ones left out;
    scaling and encoding are then the estimator's own affair (a River pipeline with `preprocessing.StandardScaler`).

    It learns row by row (`learn_one`), in the order of the outcomes. `rows_per_step` above 1 uses `learn_many` for an
    estimator that has it, on at most that many rows. Every `seed` that the estimator leaves open is set to `seed`. `name`
    defaults to the class's, as in `arf_classifier`.

    Raises PipelineError for something that River cannot train, or that cannot be pickled (a lambda inside).
    """
    return RiverLearner(
        _river_name(estimator) if name is None else name, estimator, scale, rows_per_step, seed
    )


class ModelClass(Protocol):
    """The class of a declared learner's models: the two ways to come by one."""

    def made(self, spec: Any, pipeline: Pipeline) -> OnlineModel:
        """One that has learnt nothing."""

    def restored(self, spec: Any, pipeline: Pipeline, state: bytes) -> OnlineModel:
        """The one of these `state_bytes`; raises SnapshotError."""


@dataclass(frozen=True)
class Declared:
    """What all have: a name, an identity that is the same in every process, and models that are made and restored."""

    name: str

    def __post_init__(self) -> None:
        if not is_name(str(self.name), 40):
            expected = "letters, digits and _, beginning with a letter, at most 40"
            raise PipelineError("a learner", f"name={self.name!r}", expected)

    @property
    def identity(self) -> str:
        """Everything that decides what is learnt."""
        return repr(self)

    def check(self, label: Label, place: str) -> None:
        """Raises PipelineError, beginning with `place`, for a label that it cannot predict. Here: every label will do."""

    def make(self, pipeline: Pipeline) -> OnlineModel:
        """A model that has learnt nothing."""
        return self._model.made(self, pipeline)

    def restore(self, pipeline: Pipeline, state_bytes: bytes) -> OnlineModel:
        """The model of these `state_bytes` (unsealed: there may be a pickle in them); raises SnapshotError."""
        return self._model.restored(self, pipeline, state_bytes)

    @property
    def _model(self) -> ModelClass:
        """Imported when somebody learns: loading a pipeline file never loads River."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(Declared):
    """What `scaled_logistic` and `scaled_linear` make."""

    regression: bool
    learning_rate: float
    rows_per_step: int
    over_champion: bool = False
    champion_input: bool = False
    soften: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(f"{self.name}, learning_rate", self.learning_rate)
        check_whole(f"{self.name}, rows_per_step", self.rows_per_step, 1)
        for option in ("over_champion", "champion_input", "soften"):
            check_switch(f"{self.name}, {option}", getattr(self, option))
        if self.champion_input and not self.over_champion:
            raise PipelineError(f"{self.name}, champion_input", "True", "over_champion=True beside it")

    def check(self, label: Label, place: str) -> None:
        """Raises PipelineError for a label of the other kind."""
        if self.regression != (label.kind == "regression"):
            wanted = "scaled_linear()" if label.kind == "regression" else "scaled_logistic()"
            raise PipelineError(place, f"{self.name!r} for a {label.kind} label", wanted)

    @property
    def _model(self) -> ModelClass:
        from models.linear import LinearModel

        return LinearModel

    def scorer(self, pipeline: Pipeline, scoring_bytes: bytes) -> OnlineScorer:
        """NumPy alone: River is not loaded."""
        from models.linear_scorer import LinearScorer

        return LinearScorer.loaded(scoring_bytes)


@dataclass(frozen=True)
class Tree(Declared):
    """What `bounded_tree` makes."""

    max_depth: int
    grace_period: int
    delta: float
    tau: float
    smoothing: float
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(f"{self.name}, max_depth", self.max_depth, 1, 12)
        check_whole(f"{self.name}, grace_period", self.grace_period, 1)
        check_whole(f"{self.name}, seed", self.seed, 0)
        check_number(f"{self.name}, delta", self.delta)
        check_number(f"{self.name}, tau", self.tau)
        check_number(f"{self.name}, smoothing", self.smoothing, zero=True)

    @property
    def _model(self) -> ModelClass:
        from models.tree import TreeModel

        return TreeModel

    def scorer(self, pipeline: Pipeline, scoring_bytes: bytes) -> OnlineScorer:
        """NumPy alone: River is not loaded."""
        from models.tree_scorer import TreeScorer

        return TreeScorer.loaded(scoring_bytes)


@dataclass(frozen=True)
class RiverLearner(Declared):
    """What `river_model` makes."""

    estimator: Any
    scale: bool
    rows_per_step: int
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(f"{self.name}, rows_per_step", self.rows_per_step, 1)
        check_whole(f"{self.name}, seed", self.seed, 0)
        check_switch(f"{self.name}, scale", self.scale)
        from models.river_estimator import check_estimator

        check_estimator(self.estimator, f"river_model({self.name!r})", many=self.rows_per_step > 1)

    @property
    def identity(self) -> str:
        """River prints an estimator with all its parameters; a function among them with its address, left out here."""
        return re.sub(r" at 0x[0-9a-f]+", "", repr(self))

    def check(self, label: Label, place: str) -> None:
        """Raises PipelineError for a regressor of a class, a classifier of a number, or two classes where there are more."""
        from models.river_estimator import check_label

        check_label(self.estimator, label, place)

    @property
    def _model(self) -> ModelClass:
        from models.river_model import RiverModel

        return RiverModel

    def scorer(self, pipeline: Pipeline, scoring_bytes: bytes) -> OnlineScorer:
        """River's own object (unsealed: there is a pickle in it); raises SnapshotError."""
        from models.river_model import RiverScorer

        return RiverScorer.loaded(self, pipeline, scoring_bytes)


def checked_learners(given: object, label: Label, place: str) -> tuple[Any, ...]:
    """The learners of a pipeline, in order; raises PipelineError for something else, a name twice, or a wrong label."""
    example = "a list such as [scaled_logistic(), bounded_tree()]"
    if isinstance(given, str) or not isinstance(given, list | tuple):
        raise PipelineError(place, f"{given!r}", example)
    names: set[str] = set()
    for learner in given:
        if not isinstance(learner, Declared):
            raise PipelineError(
                place, f"{learner!r}", f"{example}; an estimator of River goes into river_model(…)"
            )
        if learner.name in names or learner.name in RESERVED:
            taken = "is there twice" if learner.name in names else "is taken"
            raise PipelineError(
                place, f"the name {learner.name!r} {taken}", "a name= of its own for each learner"
            )
        names.add(learner.name)
        learner.check(label, place)
    return tuple(given)


RESERVED = ("lightgbm", "fallback", "blend", "champion")
"""The other parts of a score, by which metrics and predictions name them."""


def _river_name(estimator: object) -> str:
    """`arf_classifier` for an ARFClassifier; of a River pipeline, its last step.

    Example:
        >>> class KNNClassifier: ...
        >>> _river_name(KNNClassifier())
        'knn_classifier'
    """
    steps = getattr(estimator, "steps", None)
    last = list(steps.values())[-1] if isinstance(steps, dict) and steps else estimator
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(last).__name__)
    return words.lower()[:40]
