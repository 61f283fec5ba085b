"""River's objects inside a payload: a pickle, with the versions that can read it.

River moves its classes and changes their attributes between releases (pickles from before 0.25 do not load at all), so a
pickle is only read by the release that wrote it; any other is refused in words instead of failing somewhere inside.
"""

from __future__ import annotations

import pickle
import platform
from importlib.metadata import version
from typing import Any

from features.errors import SnapshotError
from models.snapshot import part_of, unpickled


def pickled(estimator: object) -> dict[str, Any]:
    """Fields for `models.snapshot.pack`."""
    return {**_versions(), "pickle": pickle.dumps(estimator, protocol=5)}


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
