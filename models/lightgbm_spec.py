"""What a pipeline says about its LightGBM model: plain data, so that loading a pipeline file never loads LightGBM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from features.errors import PipelineError
from models.argument_checks import check_whole

Parameter = str | int | float | bool | tuple[str | int | float, ...]

# Names (with LightGBM's aliases) that `parameters` may not hold, and who decides them. A model that ignored one of
# these would be trained on another objective than its label, or differ from one run to the next.
DECIDED_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("objective", "objective_type", "app", "application", "loss"), "the label's kind"),
        **dict.fromkeys(("num_class", "num_classes"), "the label's classes"),
        **dict.fromkeys(("num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees"), "rounds"),
        **dict.fromkeys(
            ("num_round", "num_rounds", "nrounds", "num_boost_round", "n_estimators", "max_iter"), "rounds"
        ),
        **dict.fromkeys(("num_leaves", "num_leaf", "max_leaf", "max_leaves", "max_leaf_nodes"), "num_leaves"),
        **dict.fromkeys(("learning_rate", "eta", "shrinkage_rate"), "learning_rate"),
        **dict.fromkeys(("min_data_in_leaf", "min_data", "min_samples_leaf"), "min_data_in_leaf"),
        **dict.fromkeys(("min_child_samples", "min_data_per_leaf"), "min_data_in_leaf"),
        **dict.fromkeys(("seed", "random_seed", "random_state"), "seed"),
        **dict.fromkeys(
            ("categorical_feature", "categorical_features", "cat_feature"), "the feature declarations"
        ),
        **dict.fromkeys(("categorical_column", "cat_column"), "the feature declarations"),
        **dict.fromkeys(
            ("num_threads", "num_thread", "nthread", "nthreads", "n_jobs"), "driftwood (always 1)"
        ),
        **dict.fromkeys(
            ("deterministic", "force_row_wise", "force_col_wise"), "driftwood (equal runs, equal models)"
        ),
        **dict.fromkeys(("device_type", "device"), "driftwood (equal runs, equal models)"),
        **dict.fromkeys(
            ("tree_learner", "tree", "tree_type", "tree_learner_type"), "driftwood (equal runs, equal models)"
        ),
        **dict.fromkeys(
            ("early_stopping_round", "early_stopping_rounds", "early_stopping", "n_iter_no_change"), "rounds"
        ),
        **dict.fromkeys(("verbosity", "verbose"), "driftwood"),
    }
)


@dataclass(frozen=True)
class LightGBM:
    """Gradient-boosted trees, trained on history and frozen until the next training.

    `rounds` trees of at most `num_leaves` leaves, each adding `learning_rate` of its answer; no leaf stands on fewer
    than `min_data_in_leaf` rows. More rounds or leaves cost answer time in proportion (200 x 31: about 6 µs an event).
    `seed` decides every random choice: the same rows and the same declaration give the same model, byte for byte.
    `parameters` are any other LightGBM parameters by their own names, e.g. `{"lambda_l2": 1.0}`.

    Raises PipelineError for a value out of range or a parameter that is decided elsewhere.

    Example:
        >>> LightGBM(rounds=300, num_leaves=63).rounds
        300
        >>> LightGBM(parameters={"eta": 0.1})
        Traceback (most recent call last):
        features.errors.PipelineError: LightGBM(parameters): 'eta' is decided by learning_rate; expected it not here
    """

    rounds: int = 200
    num_leaves: int = 31
    learning_rate: float = 0.05
    min_data_in_leaf: int = 100
    seed: int = 7
    parameters: Mapping[str, Parameter] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("num_leaves", 2), ("min_data_in_leaf", 1), ("seed", 0)):
            check_whole(f"LightGBM({name})", getattr(self, name), least)
        if not 0 < self.learning_rate <= 1:
            raise PipelineError(
                "LightGBM(learning_rate)", repr(self.learning_rate), "a number above 0, at most 1"
            )
        for name in self.parameters:
            if name in DECIDED_ELSEWHERE:
                seen = f"{name!r} is decided by {DECIDED_ELSEWHERE[name]}"
                raise PipelineError("LightGBM(parameters)", seen, "it not here")
