"""The names of what can become of an event and its label. They stand on `outcomes`, in metrics and in the documents.

| name | what happened | carries a code |
|---|---|---|
| `matched` | a label came in time, and what was served is known | yes |
| `corrected` | another label of the same event, known later, takes the place of the first | yes, and the code it replaces |
| `silent` | no label came within the horizon, and the pipeline says what that means | yes: `when_silent` |
| `censored` | it cannot be known: an action prevented it, or the label is null | no |
| `expired` | no label came and silence means nothing; or what was served is not known any more | no |
| `late` | a label became known after the horizon, or came when the event had been settled | no |
| `early` | a label or an action came before the prediction, and waits for it | no |
| `duplicate` | a label says what is known already, or was known before what replaced it | no |
| `unknown` | no event came for a label within the horizon | no |
| `repeat` | an event came again under an id that is there; the first one stays | no |
"""

from __future__ import annotations

from typing import Final

MATCHED: Final = "matched"
CORRECTED: Final = "corrected"
SILENT: Final = "silent"
CENSORED: Final = "censored"
EXPIRED: Final = "expired"
LATE: Final = "late"
EARLY: Final = "early"
DUPLICATE: Final = "duplicate"
UNKNOWN: Final = "unknown"
REPEAT: Final = "repeat"

NAMES: Final = (MATCHED, CORRECTED, SILENT, CENSORED, EXPIRED, LATE, EARLY, DUPLICATE, UNKNOWN, REPEAT)
"""All of them. Their places are their numbers in the records of `outcomes`: new ones go at the end."""

LEARNT: Final = frozenset((MATCHED, CORRECTED, SILENT))
"""Those that are measured and learnt, where they carry a code."""
