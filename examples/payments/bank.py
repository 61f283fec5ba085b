"""A bank that acts on predictions: what gets a decision is blocked, but for the hold-out; of what is blocked no label comes.

prediction ── decision? ── no ───────────────> paid: its label comes
                 │ yes
                 ├── flag `holdout` ─────────> paid all the same: its label stands for those that were blocked
                 └── else ── action `blocked`, and nobody will ever say whether it was fraud
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

BLOCKED = "blocked"


class Bank:
    """What it did with the payments it has seen predictions of. `passed`: held out although there was a decision.

    Example:
        >>> bank = Bank()
        >>> answer = {"event_id": "p1", "event_time": "2024-05-01T10:00:00Z", "decision": True, "flags": []}
        >>> print((bank.act(answer) or b"").decode())
        {"event_id": "p1", "action": "blocked", "at": "2024-05-01T10:00:00Z"}
        >>> bank.act({**answer, "event_id": "p2", "flags": ["holdout"]}), bank.act({**answer, "decision": False})
        (None, None)
        >>> sorted(bank.blocked), sorted(bank.passed)
        (['p1'], ['p2'])
    """

    def __init__(self) -> None:
        self.blocked: set[str] = set()
        self.passed: set[str] = set()

    def act(self, prediction: Mapping[str, Any]) -> bytes | None:
        """The record for the `actions` topic, keyed by the event's id; None where the payment goes on."""
        if not prediction["decision"]:
            return None
        name = prediction["event_id"]
        if "holdout" in prediction["flags"]:
            self.passed.add(name)
            return None
        self.blocked.add(name)
        action = {"event_id": name, "action": BLOCKED, "at": prediction["event_time"]}
        return json.dumps(action).encode()
