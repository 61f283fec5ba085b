"""LightGBM: fit once, then score. The only place, with training, that knows the library.

The model is kept as LightGBM's text, which is stable across machines and readable. Every call runs on one thread:
processes are the parallelism here, and LightGBM's own threads cost more than they give at a stream's batch sizes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import lightgbm
import numpy as np
import numpy.typing as npt

from features.errors import ModelError, PipelineError
from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.encoding import Encoded, Encoding, learn_encoding
from models.lightgbm_spec import LightGBM
from models.scoring import Flags

OBJECTIVES: Mapping[str, str] = {"binary": "binary", "regression": "regression", "multiclass": "multiclass"}

# Equal rows must give an equal model, byte for byte: no choice of layout by timing, no threads whose sums race.
REPRODUCIBLE: dict[str, object] = {
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "device_type": "cpu",
    "verbosity": -1,
}

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Fitted:
    """A trained model before it has a version: LightGBM's text and how its input is made."""

    text: str
    encoding: Encoding


class LightGBMScorer:
    """A LightGBM model in service. About 6 µs an event for 200 trees of 31 leaves in batches of 500."""

    name = "lightgbm"
    flags: tuple[str, ...] = ()

    def __init__(
        self,
        fitted: Fitted,
        version: str = "",
        feature_hash: str = "",
        threshold: float = 0.5,
        classes: int = 1,
    ) -> None:
        self.version = version
        self.feature_hash = feature_hash
        self.threshold = threshold
        self._encoding = fitted.encoding
        self._columns = classes if classes > 1 else None
        self._booster = _booster(fitted, version)
        self._newest: tuple[FeatureMatrix, Encoded] | None = None

    def score(self, matrix: FeatureMatrix) -> Floats:
        """float64[n], or float64[n, K] for K classes.

        Raises ModelError when the matrix holds other features than the model was trained on.
        """
        values = self._encoded(matrix).values
        if not len(values):
            return np.zeros(0 if self._columns is None else (0, self._columns))
        return np.asarray(self._booster.predict(values, num_threads=1), dtype=np.float64)

    def unseen_categories(self, matrix: FeatureMatrix) -> Flags:
        """bool[n]: the row holds a category that training never saw (or that was beyond the most frequent ones)."""
        return self._encoded(matrix).unseen

    def _encoded(self, matrix: FeatureMatrix) -> Encoded:
        """A batch is scored and then asked for what is unseen in it: encoded once for both."""
        newest = self._newest
        if newest is None or newest[0] is not matrix:
            newest = self._newest = matrix, self._encoding.encode(matrix)
        return newest[1]

    def gains(self) -> Floats:
        """float64[F]: how much each feature's splits lowered the training loss, in total."""
        return np.asarray(self._booster.feature_importance("gain"), dtype=np.float64)


def fit(
    spec: LightGBM,
    kind: str,
    matrix: FeatureMatrix,
    targets: npt.NDArray[np.float64],
    classes: int = 1,
    progress: Progress | None = None,
) -> Fitted:
    """Trains on n rows: `targets` is float64[n] (binary: 0 or 1; multiclass: the class number, below `classes`).

    Raises PipelineError for a parameter that LightGBM does not know, or whose value it refuses.
    """
    _check_parameters(spec.parameters)
    encoding = learn_encoding(matrix)
    names = _safe_names(encoding.names)
    parameters = _parameters(spec, kind, classes)
    data = lightgbm.Dataset(
        encoding.encode(matrix).values,
        label=targets,
        feature_name=names,
        categorical_feature=sorted(encoding.vocabularies),
        params=parameters,
    )
    callbacks = [_reporter(progress, spec.rounds)] if progress is not None else None
    try:
        booster = lightgbm.train(parameters, data, num_boost_round=spec.rounds, callbacks=callbacks)
    except (lightgbm.basic.LightGBMError, ValueError, TypeError) as error:
        raise PipelineError(
            "LightGBM", f"the library refused to train: {error}", "parameters that fit"
        ) from error
    return Fitted(booster.model_to_string(num_iteration=-1), encoding)


def _parameters(spec: LightGBM, kind: str, classes: int) -> dict[str, object]:
    chosen: dict[str, object] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in spec.parameters.items()
    }
    chosen |= {
        "objective": OBJECTIVES[kind],
        "num_leaves": spec.num_leaves,
        "learning_rate": spec.learning_rate,
        "min_data_in_leaf": spec.min_data_in_leaf,
        "seed": spec.seed,
    }
    if kind == "multiclass":
        chosen["num_class"] = classes
    return {**chosen, **REPRODUCIBLE}


def _check_parameters(parameters: Mapping[str, object]) -> None:
    # LightGBM itself only warns of a name it does not know, and trains without it. Its list of names has no public door.
    aliases = lightgbm.basic._ConfigAliases._get_all_param_aliases()  # noqa: SLF001
    known = {name for names in aliases.values() for name in names}
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise PipelineError(
                "LightGBM(parameters)",
                f"LightGBM has no parameter {name!r}{hint}",
                "a name from LightGBM's own list",
            )


def _safe_names(names: tuple[str, ...]) -> list[str]:
    """Names that LightGBM's text format can hold: it has no place for spaces, JSON signs or letters beyond ASCII."""
    safe = [re.sub(r"[^A-Za-z0-9_.-]", "_", name) for name in names]
    return safe if len(set(safe)) == len(safe) else [f"{place}_{name}" for place, name in enumerate(safe)]


def _reporter(progress: Progress, rounds: int) -> Callable[[lightgbm.callback.CallbackEnv], None]:
    def report(state: lightgbm.callback.CallbackEnv) -> None:
        progress((state.iteration + 1) / rounds)

    return report


def _booster(fitted: Fitted, version: str) -> lightgbm.Booster:
    try:
        booster = lightgbm.Booster(model_str=fitted.text)
    except lightgbm.basic.LightGBMError as error:
        raise ModelError(f"model {version}: LightGBM cannot read its text ({error}); train again") from error
    if booster.feature_name() != _safe_names(fitted.encoding.names):
        raise ModelError(
            f"model {version}: its trees read {booster.feature_name()[:5]} …, its card says "
            f"{list(fitted.encoding.names[:5])} …: the two files do not belong together; train again"
        )
    return booster
