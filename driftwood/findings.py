"""What the doctor finds: one finding for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Level = Literal["ok", "hint", "act"]
OK: Final = "ok"
HINT: Final = "hint"  # works, and will hurt some day
ACT: Final = "act"  # does not work, or loses data


@dataclass(frozen=True)
class Finding:
    """`check` is what was looked at, `what` was found, `do` the remedy ("" when all is well), `heading` where to read.

    `figures` are the numbers in `what`, for programs, where there are some to watch.
    """

    check: str
    level: Level
    what: str
    do: str = ""
    heading: str = ""
    figures: Mapping[str, int] = field(default_factory=dict)
