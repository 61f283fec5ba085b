"""What may be handed to river_model: checked when the pipeline file is loaded, not at the first label."""

from __future__ import annotations

import pickle
from typing import Any

from river import base, compose

from features.errors import PipelineError
from models.label import Label


def check_estimator(estimator: Any, place: str, *, many: bool) -> None:
    """Raises PipelineError for what is no supervised estimator of River, or cannot be written into a snapshot."""
    expected = "a classifier or regressor of River, such as forest.ARFClassifier(), or a River pipeline ending in one"
    if isinstance(estimator, type) and issubclass(estimator, base.Estimator):
        raise PipelineError(
            place, f"the class {estimator.__name__}", f"an object of it: {estimator.__name__}()"
        )
    if not isinstance(last_step(estimator), base.Classifier | base.Regressor):
        raise PipelineError(place, f"{estimator!r}", expected)
    if many and not learns_many(estimator):
        raise PipelineError(place, "rows_per_step above 1", "1: this estimator has no learn_many")
    try:
        pickle.dumps(estimator)
    except Exception as error:
        raise PipelineError(
            place,
            f"cannot be pickled ({error})",
            "functions that a module of their own defines, no lambdas",
        ) from error


def check_label(estimator: Any, label: Label, place: str) -> None:
    """Raises PipelineError where the estimator predicts another kind of label."""
    last = last_step(estimator)
    name = type(last).__name__
    if label.kind == "regression":
        if not isinstance(last, base.Regressor):
            raise PipelineError(place, f"{name} for a regression label", "a regressor of River")
    elif not isinstance(last, base.Classifier):
        raise PipelineError(place, f"{name} for a {label.kind} label", "a classifier of River")
    elif label.kind == "multiclass" and not last._multiclass:  # noqa: SLF001  # River's own question
        seen = f"{name}, which knows two classes, for {len(label.classes)}"
        raise PipelineError(place, seen, f"multiclass.OneVsRestClassifier({name}(…))")


def last_step(estimator: Any) -> Any:
    """The estimator itself, or the last step of a River pipeline."""
    if isinstance(estimator, compose.Pipeline) and estimator.steps:
        return last_step(list(estimator.steps.values())[-1])
    return estimator


def learns_many(estimator: Any) -> bool:
    """Whether it, and every step before it, takes mini-batches."""
    if isinstance(estimator, compose.Pipeline):
        steps = list(estimator.steps.values())
        return all(hasattr(step, "transform_many") for step in steps[:-1]) and learns_many(steps[-1])
    return hasattr(estimator, "learn_many")


def has_probabilities(estimator: Any) -> bool:
    """False for a classifier that only names a class."""
    own = getattr(type(last_step(estimator)), "predict_proba_one", None)
    return own is not base.Classifier.predict_proba_one


def fresh(estimator: Any, seed: int) -> Any:
    """A clone that has learnt nothing, with every seed that was left open set."""
    parameters = estimator._get_params()  # noqa: SLF001  # what clone itself begins with
    return estimator.clone(parameters) if _seed(parameters, seed) else estimator.clone()


def _seed(parameters: Any, seed: int) -> bool:
    """Sets open seeds in River's nested parameters, {name: value | (class, parameters) | parameters}; True if any."""
    found = False
    if isinstance(parameters, tuple) and len(parameters) == 2 and isinstance(parameters[0], type):
        return _seed(parameters[1], seed)
    if isinstance(parameters, dict):
        for name, value in parameters.items():
            if name == "seed" and value is None:
                parameters[name] = seed
                found = True
            else:
                found = _seed(value, seed) or found
    return found
