"""River's objects inside a payload: a pickle, with the versions that can read it.

River moves its classes and changes their attributes between releases (pickles from before 0.25 do not load at all), so a
pickle is only read by the release that wrote it; any other is refused in words instead of failing somewhere inside.
"""

from __future__ import annotations

import io
import pickle
import platform
import random
from importlib.metadata import version
from typing import Any

from river.proba.base import Distribution

from features.errors import SnapshotError
from models.river_splitters import reduced
from models.snapshot import part_of, unpickled


def pickled(estimator: object) -> dict[str, Any]:
    """Fields for `models.snapshot.pack`."""
    into = io.BytesIO()
    _Pickler(into, protocol=5).dump(estimator)
    return {**_versions(), "pickle": into.getvalue()}


class _Pickler(pickle.Pickler):
    """Writes what the leaves of trees keep as arrays, and leaves out the random generators of River's distributions.

    They are seeded by the operating system and only draw samples for people: learning never asks them. With them no two
    trees would be equal, and each leaf would have 3 KB more for every class and number.
    """

    def reducer_override(self, obj: object) -> Any:
        if not isinstance(obj, Distribution):
            return reduced(obj)
        state = {name: value for name, value in vars(obj).items() if name != "_rng"}
        return _distribution, (type(obj),), state


def _distribution(kind: type[Any]) -> Any:
    """What `_Pickler` has written, without its state."""
    made = object.__new__(kind)
    made._rng = random.Random(0)  # as its own constructor does
    return made


def unpickled_from(whole: bytes, fields: dict[str, Any]) -> Any:
    """The object; `whole` is the unsealed payload that `fields` were decoded from. Raises SnapshotError."""
    found = {name: fields.get(name) for name in _versions()}
    if found != _versions():
        raise SnapshotError(
            f"a learner was pickled by river {found['river']} on Python {found['python']}, this is river"
            f" {_versions()['river']} on Python {_versions()['python']}: run the same release, or reset the learner"
        )
    return unpickled(part_of(whole, fields["pickle"]))


def _versions() -> dict[str, str]:
    return {"river": version("river"), "python": ".".join(platform.python_version_tuple()[:2])}
