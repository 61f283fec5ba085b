"""What operators decide about a running pipeline: records on `control`, and the state that they add up to.

One JSON object a record, told apart by `kind`:

    {"kind": "serve-mode", "mode": "champion", "at": "2013-04-01T10:15:00Z", "by": "ann@ops1"}
    {"kind": "learner", "action": "reset", "learner": "scaled_logistic", "at": …, "by": …, "snapshot": null}
    {"kind": "alert-ack", "alert": "flights/data/gust_kmh/2013-05-01T00:00:00Z", "at": …, "by": …, "note": "known"}
    {"kind": "alert-silence", "until": "2013-05-03T00:00:00Z", "at": …, "by": …, "level": "data", "subject": null, "note": ""}
    {"kind": "alert-unsilence", "at": …, "by": …, "level": "data", "subject": null}
    {"kind": "retrain-requested", "alert": …, "reason": …, "at": …, "by": "monitor"}

The topic is kept for ever and never compacted: it is the audit log, and the state is its fold. Records of kinds that
this version does not know are left out. A record about a learner stands in `outcomes` as well, where it has its place
among the labels: a learner that starts again must come upon it at the same place (docs/decisions/0036).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec

log = logging.getLogger(__name__)

ServeMode = Literal["blend", "champion", "fallback"]
Action = Literal["freeze", "reset", "restore"]

SERVE_MODES: tuple[ServeMode, ...] = get_args(ServeMode)
ACTIONS: tuple[Action, ...] = get_args(Action)

COMMAND = "learner-command"
"""Header of a learner's record in `outcomes`: its offset in `control`, by which a copy is known."""


class ServeModeChange(msgspec.Struct, frozen=True, tag_field="kind", tag="serve-mode"):
    """What answers from now on: the blend, the batch model alone, or the pipeline's fallback."""

    mode: ServeMode
    at: str  # RFC 3339
    by: str


class LearnerCommand(msgspec.Struct, frozen=True, tag_field="kind", tag="learner"):
    """One learner is frozen, begun anew, or set back to what it was in an older snapshot."""

    action: Action
    learner: str
    at: str  # RFC 3339
    by: str
    snapshot: int | None = None  # of a restore: the snapshot's version


class AlertAck(msgspec.Struct, frozen=True, tag_field="kind", tag="alert-ack"):
    """Somebody has seen an alert and looks after it."""

    alert: str
    at: str
    by: str
    note: str = ""


class AlertSilence(msgspec.Struct, frozen=True, tag_field="kind", tag="alert-silence"):
    """Alerts of a level, of a subject, or of a subject on a level need nobody's attention until some wall clock time."""

    until: str  # RFC 3339
    at: str
    by: str
    level: str | None = None
    subject: str | None = None
    note: str = ""


class AlertUnsilence(msgspec.Struct, frozen=True, tag_field="kind", tag="alert-unsilence"):
    """The end of the silences that were about the same level and subject."""

    at: str
    by: str
    level: str | None = None
    subject: str | None = None


class RetrainRequest(msgspec.Struct, frozen=True, tag_field="kind", tag="retrain-requested"):
    """An alert asks for another batch model, as the pipeline's `drift.triggers` have it; `at` is the alert's event time.

    After a crash of the monitor it can stand twice, for the same alert.
    """

    alert: str
    reason: str
    at: str
    by: str


AlertDecision = AlertAck | AlertSilence | AlertUnsilence
ControlRecord = ServeModeChange | LearnerCommand | AlertDecision | RetrainRequest

_DECODER: msgspec.json.Decoder[ControlRecord] = msgspec.json.Decoder(ControlRecord)


@dataclass(frozen=True)
class ControlState:
    """What all records up to `offset` add up to (-1: none yet). A pipeline begins with the blend."""

    mode: ServeMode = "blend"
    offset: int = -1


def encoded(record: ControlRecord) -> bytes:
    """The record as it stands on the topic.

    Example:
        >>> encoded(ServeModeChange("champion", "2013-04-01T10:15:00Z", "ann"))
        b'{"kind":"serve-mode","mode":"champion","at":"2013-04-01T10:15:00Z","by":"ann"}'
    """
    return msgspec.json.encode(record)


def decoded(value: bytes | None) -> ControlRecord | None:
    """The record; None for one that this version does not know, or that is no record."""
    try:
        return _DECODER.decode(value or b"")
    except msgspec.DecodeError as error:
        log.warning("a record on control is left out: %s", error)
        return None


def fold(state: ControlState, records: Iterable[tuple[int, bytes | None]]) -> ControlState:
    """The state after records (offset, value), in their order. One that was seen before changes nothing.

    Example:
        >>> change = encoded(ServeModeChange("fallback", "2013-04-01T10:15:00Z", "ann"))
        >>> fold(ControlState(), [(0, change), (1, b"{}")])
        ControlState(mode='fallback', offset=1)
    """
    for offset, value in records:
        if offset <= state.offset:
            continue
        record = decoded(value)
        mode = record.mode if isinstance(record, ServeModeChange) else state.mode
        state = replace(state, mode=mode, offset=offset)
    return state
