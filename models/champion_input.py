"""The champion's score as an input of a learner that corrects the champion (a residual learner).

A learner whose declaration has `over_champion = True` is handed the features and, behind them, what the champion said. It
learns only from rows that this champion has answered, and begins anew when another one does.
"""

from __future__ import annotations

import numpy as np

from features.feature_set import FeatureMatrix
from features.plan import Floats
from models.blend import log_odds, log_shares

# No feature can have such a name, so none is hidden by it.
CHAMPION_SAID = "champion said"


def champion_names(kind: str, classes: int) -> tuple[str, ...]:
    """The names of the columns, which stand behind those of the features.

    Example:
        >>> champion_names("binary", 2), champion_names("multiclass", 2)
        (('champion said',), ('champion said 0', 'champion said 1'))
    """
    if kind != "multiclass":
        return (CHAMPION_SAID,)
    return tuple(f"{CHAMPION_SAID} {label}" for label in range(classes))


def with_champion(kind: str, matrix: FeatureMatrix, said: Floats) -> FeatureMatrix:
    """The matrix with what the champion said: log odds (binary), the value (regression), the logarithm of each class.

    Example:
        >>> matrix = FeatureMatrix(("km",), np.array([[3.0]]), {})
        >>> with_champion("regression", matrix, np.array([0.5])).values.tolist()
        [[3.0, 0.5]]
    """
    columns = said if kind == "regression" else log_odds(said) if kind == "binary" else log_shares(said)
    columns = columns[:, None] if columns.ndim == 1 else columns
    names = matrix.names + champion_names(kind, columns.shape[1])
    return FeatureMatrix(names, np.hstack([matrix.values, columns]), matrix.categories)


def parted(matrix: FeatureMatrix, columns: int) -> tuple[FeatureMatrix, Floats]:
    """What `with_champion` put together: the features, and the last `columns` columns, float64[n, columns].

    Example:
        >>> matrix = FeatureMatrix(("km", CHAMPION_SAID), np.array([[3.0, 0.5]]), {})
        >>> features, said = parted(matrix, 1)
        >>> features.names, said.tolist()
        (('km',), [[0.5]])
    """
    end = len(matrix.names) - columns
    features = FeatureMatrix(matrix.names[:end], matrix.values[:, :end], matrix.categories)
    return features, matrix.values[:, end:]


def offsets(kind: str, said: Floats) -> Floats:
    """float64[n, K]: where the sums of K linear models begin, so that with weights of 0 they say what the champion said.

    A class has the log odds of its own share: there each model decides between one class and the rest.
    """
    return log_odds(np.exp(said)) if kind == "multiclass" else said


def is_over_champion(spec: object) -> bool:
    """Whether a learner's declaration asks for it."""
    return bool(getattr(spec, "over_champion", False))
