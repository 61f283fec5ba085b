"""Signals become alerts: what moves together is one incident, and one incident is one alert.

    signal of strength 1 ──> joins an open incident, or raises another ──> raised
    it grows, others join ─────────────────────────────────────────────> updated, ever more seldom
    everything calm for a whole window ────────────────────────────────> resolved

A signal joins where it comes within one window of the incident's beginning or growth, or where it lies downstream: amounts
that move make scores move, and these what is expected and what is lost. The label feed has incidents of its own, and while it
is held up nothing is said about concepts: half of the labels would be judged (docs/decisions/0042).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from models.drift.alert import Alert, Severity, Status, Trigger, moment
from models.drift.signals import CLEARS, CRITICAL, LEVELS, RAISES, Level, Signal, finite
from models.drift.titles import calm_title, runbook, subject, title

Clock = Literal["served", "labels"]
"""Event times of what was served, and times at which labels became known: each is only compared with its own."""

CLOCKS: Final[dict[Level, Clock]] = {
    "data": "served",
    "prediction": "served",
    "estimate": "served",
    "labels": "labels",
    "concept": "labels",
}

SERVED: Final = "score"
CALIBRATION: Final = "calibration"
"""What was served, among the subjects of concept signals: if that gets worse, it is critical at once."""

GROWN: Final = 2.0
"""So many times as strong as when it was last told is told again: a window that fills up with drift is told a few times."""

LISTED: Final = 20
"""Signals in one record, with their evidence (some 1 KB each); a wide table moves as a whole."""

# Signals of one incident, and incidents at once; some MB at the very most. What comes beyond joins no more (signals), or
# joins the newest (incidents): whoever has 32 open alerts needs no thirty-third.
MOST_MEMBERS: Final = 500
MOST_OPEN: Final = 32

# Concept signals that wait for the label feed.
MOST_WAITING: Final = 200

Explained = Callable[[Sequence[Signal]], tuple[str, ...]]
"""What is probably behind these signals, the strongest first."""


@dataclass(frozen=True)
class Terms:
    """What incidents go by: lengths in microseconds of event time; the rest as `Drift` and `Alert` have it."""

    pipeline: str
    window_us: int
    slice_us: int
    budget: float | None = None
    triggers: Mapping[Level, Sequence[Trigger]] = field(default_factory=dict)


class Member(msgspec.Struct, array_like=True):
    """A signal of an incident, as it was last measured, and whether it was calm then."""

    signal: Signal
    calm: bool = False
    calm_us: int = 0


class Incident(msgspec.Struct, array_like=True):
    """An open one. `loud_us`: by clock when a member was last not calm; `told`: how strong it was in the newest record.

    `why`, `runbook` and `subject` are as they were told last: when all is calm, they say what it was.
    """

    name: str
    since_us: int
    grown_us: int
    told_us: int
    members: dict[str, Member] = {}
    loud_us: dict[Clock, int] = {}
    severity: Severity = "warning"
    sequence: int = -1
    told: float = 0.0
    updates: int = 0
    due: bool = False
    triggered: tuple[Trigger, ...] = ()
    why: tuple[str, ...] = ()
    runbook: str = ""
    subject: str = ""

    @property
    def signals(self) -> list[Signal]:
        """The strongest first."""
        ordered = sorted(self.members.items(), key=lambda item: (-item[1].signal.strength, item[0]))
        return [member.signal for _, member in ordered]

    @property
    def levels(self) -> tuple[Level, ...]:
        """In the order of their kinds."""
        there = {member.signal.level for member in self.members.values()}
        return tuple(level for level in LEVELS if level in there)

    @property
    def moving(self) -> set[Level]:
        """Those of which something is not calm."""
        return {member.signal.level for member in self.members.values() if not member.calm}

    @property
    def about_labels(self) -> bool:
        """Whether it is about the label feed."""
        return "labels" in self.levels


class _State(msgspec.Struct, array_like=True):
    now_us: dict[Clock, int]
    open: list[Incident]
    waiting: dict[str, Signal]


class Incidents:
    """The open incidents of a pipeline. Bounded, and a function of what it hears, in that order.

    Example:
        >>> hour = 3_600_000_000
        >>> incidents = Incidents(Terms("shop", window_us=24 * hour, slice_us=hour))
        >>> def amount(at: int, strength: float) -> Signal:
        ...     return Signal("data", "amount", "ks", at * hour, strength / 10, 0.1, strength)
        >>> for at, strength in ((1, 0.9), (2, 1.2), (3, 0.8), (4, 0.6), (27, 0.1), (28, 0.1)):
        ...     for alert in incidents.hear("served", at * hour, [amount(at, strength)]):
        ...         print(alert.at, alert.status, alert.alert)
        1970-01-01T02:00:00Z raised shop/data/amount/1970-01-01T02:00:00Z
        1970-01-02T03:00:00Z resolved shop/data/amount/1970-01-01T02:00:00Z
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._now_us: dict[Clock, int] = {}
        self._open: list[Incident] = []
        self._waiting: dict[str, Signal] = {}

    @property
    def open(self) -> Sequence[Incident]:
        """In the order in which they were raised."""
        return self._open

    def hear(
        self,
        clock: Clock,
        at_us: int,
        signals: Iterable[Signal],
        *,
        complete: bool = True,
        held_up: bool = False,
        explained: Explained = lambda signals: (),
    ) -> list[Alert]:
        """What follows from one evaluation at `at_us`: at most one record of each alert.

        `complete`: everything of this clock that is not calm is among the signals. `held_up`: the label feed is.
        """
        at_us = self._now_us[clock] = max(at_us, self._now_us.get(clock, at_us))
        heard = {signal.name: finite(signal) for signal in signals}
        self._measure(clock, heard, at_us, complete=complete)
        for signal in self._new(heard, held_up=held_up):
            self._place(signal, at_us)
        for incident in self._open:
            if any(_loud(member, clock) for member in incident.members.values()):
                incident.loud_us[clock] = at_us
        told = [self._told(incident, at_us, explained) for incident in self._open]
        self._open = [incident for incident in self._open if not self._over(incident)]
        for incident in self._open:
            self._forget_calm(incident, clock, at_us)
        return [alert for alert in told if alert is not None]

    def state(self) -> bytes:
        """Everything that was heard, as far as it matters for what comes."""
        return msgspec.msgpack.encode(_State(self._now_us, self._open, self._waiting))

    def restore(self, state: bytes) -> None:
        """Go on from there. Raises ValueError when it is no state."""
        found = msgspec.msgpack.decode(state, type=_State)
        self._now_us, self._open, self._waiting = found.now_us, found.open, found.waiting

    def _measure(self, clock: Clock, heard: Mapping[str, Signal], at_us: int, *, complete: bool) -> None:
        for incident in self._open:
            for name, member in incident.members.items():
                was = member.calm
                if (signal := heard.get(name)) is not None:
                    member.signal, member.calm = signal, signal.strength < CLEARS
                elif complete and CLOCKS[member.signal.level] == clock:
                    member.calm = True
                if member.calm and not was:
                    member.calm_us = at_us

    def _new(self, heard: Mapping[str, Signal], *, held_up: bool) -> list[Signal]:
        """Signals strong enough to raise an alert that stand in none, upstream ones first."""
        known = {name for incident in self._open for name in incident.members}
        for name, signal in heard.items():
            if name in self._waiting and signal.strength < RAISES:
                del self._waiting[name]
        found = {
            name: signal
            for name, signal in {**self._waiting, **heard}.items()
            if signal.strength >= RAISES and name not in known
        }
        waiting = {name: signal for name, signal in found.items() if held_up and signal.level == "concept"}
        self._waiting = dict(sorted(waiting.items())[:MOST_WAITING])
        now = [signal for name, signal in found.items() if name not in waiting]
        return sorted(now, key=lambda signal: (LEVELS.index(signal.level), -signal.strength, signal.name))

    def _place(self, signal: Signal, at_us: int) -> None:
        """Into the incident that it joins, or a new one."""
        host = self._host(signal, at_us)
        if host is None:
            name = f"{self._terms.pipeline}/{signal.level}/{signal.subject}/{moment(at_us)}"
            host = Incident(name, signal.at_us, at_us, at_us)
            self._open.append(host)
        if len(host.members) >= MOST_MEMBERS:
            return
        if signal.level not in host.levels:
            host.told_us = min(host.told_us, at_us - self._gap_us(host))  # another level is told at once
        host.members[signal.name] = Member(signal)
        host.grown_us, host.due = at_us, True

    def _host(self, signal: Signal, at_us: int) -> Incident | None:
        alike = [one for one in self._open if one.about_labels == (signal.level == "labels")]
        near = [one for one in alike if abs(at_us - one.grown_us) <= self._terms.window_us]
        upstream = [one for one in alike if _downstream(signal.level, one.moving)]
        if (found := near or upstream) or len(self._open) < MOST_OPEN:
            return max(found, key=lambda one: one.grown_us, default=None)
        return max(alike or self._open, key=lambda one: one.grown_us)

    def _told(self, incident: Incident, at_us: int, explained: Explained) -> Alert | None:
        """The record that is due, if one is."""
        signals, fresh = incident.signals, incident.sequence < 0
        loud = _moving(signals)
        strongest = signals[0].strength
        if self._over(incident):
            return self._record(incident, "resolved", at_us, signals)
        if strongest >= GROWN * incident.told and not fresh:
            incident.grown_us, incident.due = at_us, True
        worse = _severity(signals) == "critical" != incident.severity
        if not (
            fresh
            or worse
            or (incident.due and incident.moving and at_us - incident.told_us >= self._gap_us(incident))
        ):
            return None
        incident.severity = "critical" if worse else incident.severity
        # What is not seen any more was still so; but a hint for something small is none for what has become large.
        same = not worse or subject(loud) == incident.subject
        incident.why = explained(signals) or (incident.why if same else ())
        incident.runbook, incident.subject = runbook(loud), subject(loud)
        incident.updates += not fresh
        return self._record(incident, "raised" if fresh else "updated", at_us, signals)

    def _record(self, incident: Incident, status: Status, at_us: int, signals: Sequence[Signal]) -> Alert:
        terms = self._terms
        wanted = dict.fromkeys(one for level in incident.levels for one in terms.triggers.get(level, ()))
        triggers = (
            () if status == "resolved" else tuple(one for one in wanted if one not in incident.triggered)
        )
        incident.triggered += triggers
        incident.sequence += 1
        incident.told, incident.told_us, incident.due = max(incident.told, signals[0].strength), at_us, False
        return Alert(
            alert=incident.name,
            status=status,
            sequence=incident.sequence,
            pipeline=terms.pipeline,
            severity=incident.severity,
            at=moment(at_us),
            since=moment(incident.since_us),
            title=calm_title(terms.pipeline, incident.subject)
            if status == "resolved"
            else title(terms.pipeline, _moving(signals)),
            levels=incident.levels,
            signals=tuple(signals[:LISTED]),
            budget=terms.budget,
            why=incident.why,
            runbook=incident.runbook,
            triggers=triggers,
            more=max(len(signals) - LISTED, 0),
        )

    def _forget_calm(self, incident: Incident, clock: Clock, at_us: int) -> None:
        """While something still moves, what was calm for a window is none of it any more: it is told when it comes again."""
        if not incident.moving:
            return
        for name, member in list(incident.members.items()):
            same = CLOCKS[member.signal.level] == clock
            if same and member.calm and at_us - member.calm_us >= self._terms.window_us:
                del incident.members[name]

    def _over(self, incident: Incident) -> bool:
        """Whether everything of it has been calm for a whole window, by the clock that it was measured by."""
        return all(member.calm for member in incident.members.values()) and all(
            self._now_us[clock] - loud_us >= self._terms.window_us
            for clock, loud_us in incident.loud_us.items()
        )

    def _gap_us(self, incident: Incident) -> int:
        """How long after its newest record an alert is told again: first a slice, then twice as long each time, up to a
        window. A day that fills up with drift is five records instead of twenty-four."""
        return min(self._terms.slice_us << min(incident.updates, 20), self._terms.window_us)


def _loud(member: Member, clock: Clock) -> bool:
    return not member.calm and CLOCKS[member.signal.level] == clock


def _downstream(level: Level, levels: Iterable[Level]) -> bool:
    """Whether something of these levels can be what moves this one."""
    return level != "labels" and any(LEVELS.index(one) < LEVELS.index(level) for one in levels)


def _moving(signals: Sequence[Signal]) -> Sequence[Signal]:
    """Those that are not calm; all where all are."""
    return [one for one in signals if one.strength >= CLEARS] or signals


def _served_loss(signal: Signal) -> bool:
    """The loss of what was served, over everybody."""
    whole = (signal.level, signal.subject, signal.segment) == ("concept", SERVED, "")
    return whole and signal.statistic != CALIBRATION


def _severity(signals: Iterable[Signal]) -> Severity:
    bad = any(signal.strength >= (RAISES if _served_loss(signal) else CRITICAL) for signal in signals)
    return "critical" if bad else "warning"
