"""The versions of an answer: everything that decides which bytes it is, as the store pins it to a batch."""

from __future__ import annotations

import json
from typing import NamedTuple

NO_SNAPSHOT = -2
"""The snapshot version that stands for none: there is none yet, or the pipeline does not learn. (-1 is the one of learners that
only training has taught, `features.snapshot_store.FIRST`.)"""

BLEND, CHAMPION, FALLBACK = "blend", "champion", "fallback"
"""Serve modes: the blend answers, the champion alone, or the declared fallback."""


class Versions(NamedTuple):
    """`model`: the champion's version, or the fallback's. `snapshot`: an offset in `outcomes`. `mode`: the serve mode."""

    model: str
    pipeline: str
    mode: str = CHAMPION
    snapshot: int = NO_SNAPSHOT


def versions_text(model: str, pipeline: str, mode: str = CHAMPION, snapshot: int = NO_SNAPSHOT) -> str:
    """The versions as canonical JSON: equal versions are equal bytes.

    Example:
        >>> versions_text("7", "v1", "blend", 18233)
        '{"mode": "blend", "model": "7", "pipeline": "v1", "snapshot": 18233}'
    """
    return json.dumps(Versions(model, pipeline, mode, snapshot)._asdict(), sort_keys=True)


def read_versions(text: str) -> Versions:
    """What a pin says. Pins of workers that knew neither snapshots nor modes are those of the champion.

    Example:
        >>> read_versions('{"model": "7", "pipeline": "v1"}')
        Versions(model='7', pipeline='v1', mode='champion', snapshot=-2)
    """
    return Versions(**json.loads(text))
