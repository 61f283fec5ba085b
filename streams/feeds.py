"""How far everybody upstream of the join is, and so what time it is there: told by the records, never by a clock of ours.

Three kinds of feeds come together: what was *served* (its marks are event times), *labels* and *actions* (their marks are
times at which something became known). From them the join stage draws three things, after every record alike:

- `now_us`: the event time up to which everything was served. Rows older than the hot horizon shrink by it.
- `due_us`: the time up to which silence means something. An event whose horizon ended before it has no label. It is the
  oldest mark of all feeds in which something waits, and **never beyond the newest label there is**: while no label comes,
  nobody can know that there is none. It does not go back.
- `stalled`: no label came for longer than `silence_ms`, by the wall clocks in the records. Then nothing times out at all,
  and for `settle_ms` after labels came back: neither their partitions nor what was held back comes in the same moment.

A feed in which nothing waits (an idle frame said so) holds nobody back. A feed that is expected, and was never heard of,
holds everybody back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from streams.join_frames import ACTIONS, LABELS, NO_MARK, SERVED, Idle

# After the label feed has come back, at least: partitions of a topic are read within a second of each other, also when a
# worker has just started; ten times that.
SETTLE_MS = 10_000

# What was held back comes so many times as fast as life, or faster, while new labels come beside it. Longer outages are
# waited for in proportion: 17 hours after a week. A line that is slower than this teaches negatives that are none.
CATCH_UP = 10

_ENDLESS = 2**62


class Feed(msgspec.Struct, array_like=True):
    """One partition upstream. `mark_us`: the newest time that came from it; `idle`: nothing waits there."""

    name: str
    kind: str
    mark_us: int = NO_MARK
    idle: bool = False


class Clock(msgspec.Struct, array_like=True):
    """What is drawn from the feeds. Wall clocks in milliseconds, 0: none was seen yet."""

    now_us: int = NO_MARK
    due_us: int = NO_MARK
    newest_label_us: int = NO_MARK
    wall_ms: int = 0
    label_wall_ms: int = 0
    back_ms: int = 0  # since when labels come again, while stalled
    stalled: bool = False
    held_up: bool = False  # stalled, or not all that fell due meanwhile is settled yet
    silent_ms: int = 0  # how long no label came, while stalled: the longest of several times

    @property
    def settle_ms(self) -> int:
        """So long labels have to come again before silence means something."""
        return max(SETTLE_MS, self.silent_ms // CATCH_UP)


@dataclass
class Feeds:
    """The feeds of one partition of `hop-join`. `expected`: the names that have to be heard of before anything is due.

    Example:
        >>> feeds = Feeds(silence_ms=60_000)
        >>> feeds.served("hop/0", 5_000); feeds.labels("labels/0", 3_000, wall_ms=1); feeds.advance()
        >>> feeds.clock.now_us, feeds.clock.due_us
        (5000, 3000)
        >>> feeds.heard("labels/1", Idle("labels", 9_000, wall_ms=60_002, idle=True)); feeds.advance()
        >>> feeds.clock.stalled, feeds.clock.due_us
        (True, 3000)
    """

    silence_ms: int
    expected: frozenset[str] = frozenset()
    feeds: dict[str, Feed] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    changed: set[str] = field(default_factory=set)
    turned: bool = False

    def served(self, name: str, newest_us: int) -> None:
        """Rows were served upstream, the newest event at this time."""
        self._moved(name, SERVED, newest_us, idle=False)

    def actions(self, name: str, newest_us: int, wall_ms: int) -> None:
        """Actions came, the newest of this time."""
        self._moved(name, ACTIONS, newest_us, idle=False)
        self._wall(wall_ms)

    def labels(self, name: str, newest_us: int, wall_ms: int) -> None:
        """Labels came, the newest of them known at this time."""
        self._moved(name, LABELS, newest_us, idle=False)
        self._labels_came(newest_us, wall_ms)
        self._wall(wall_ms)

    def heard(self, name: str, idle: Idle) -> None:
        """An idle frame came."""
        self._moved(name, idle.feed, idle.mark_us, idle=idle.idle)
        if idle.feed == LABELS:
            self._labels_came(idle.mark_us, idle.last_ms)
        self._wall(idle.wall_ms)

    def forget(self, name: str) -> None:
        """The topic of this feed was made anew."""
        if self.feeds.pop(name, None) is not None:
            self.changed.add(name)

    def advance(self) -> None:
        """Draw what follows; after every record."""
        clock = self.clock
        self._judge_silence()
        if not self._heard_of_all():
            return
        served_us = self._served_us()
        clock.now_us = max(clock.now_us, served_us)
        if clock.stalled:
            return
        slowest = min(self._oldest(LABELS), self._oldest(ACTIONS), clock.newest_label_us)
        clock.due_us = max(clock.due_us, min(served_us, slowest))

    def turn(self, *, all_settled: bool) -> bool:
        """Whether time-outs begin or cease to be held up; after a record, when time has done all that it could."""
        held_up = self.clock.stalled or (self.clock.held_up and not all_settled)
        if held_up == self.clock.held_up:
            return False
        self.clock.held_up, self.turned = held_up, True
        return True

    def _judge_silence(self) -> None:
        clock = self.clock
        if not clock.wall_ms:
            return
        if not clock.label_wall_ms:
            clock.label_wall_ms = clock.wall_ms  # patience begins when somebody says what time it is
        if clock.wall_ms - clock.label_wall_ms > self.silence_ms:
            clock.stalled, clock.back_ms = True, 0  # also when they came back for a moment
        elif clock.stalled and clock.back_ms and clock.wall_ms - clock.back_ms >= clock.settle_ms:
            clock.stalled, clock.back_ms, clock.silent_ms = False, 0, 0

    def _heard_of_all(self) -> bool:
        return self.expected <= self.feeds.keys()

    def _served_us(self) -> int:
        """The oldest mark where something waits; where nothing does, everything was served."""
        oldest = self._oldest(SERVED)
        return oldest if oldest != _ENDLESS else max(self._marks(SERVED, idle=True), default=NO_MARK)

    def _oldest(self, kind: str) -> int:
        return min(self._marks(kind, idle=False), default=_ENDLESS)

    def _marks(self, kind: str, *, idle: bool) -> Iterable[int]:
        return (feed.mark_us for feed in self.feeds.values() if feed.kind == kind and feed.idle == idle)

    def _moved(self, name: str, kind: str, mark_us: int, *, idle: bool) -> None:
        feed = self.feeds.setdefault(name, Feed(name, kind))
        feed.mark_us, feed.idle = max(feed.mark_us, mark_us), idle
        self.changed.add(name)

    def _labels_came(self, newest_us: int, wall_ms: int) -> None:
        """Perhaps for other partitions of ours: these, too, show that the feed is alive."""
        clock = self.clock
        clock.newest_label_us = max(clock.newest_label_us, newest_us)
        if clock.stalled and not clock.back_ms and wall_ms > clock.label_wall_ms:
            clock.back_ms = wall_ms
            clock.silent_ms = max(clock.silent_ms, wall_ms - clock.label_wall_ms)
        clock.label_wall_ms = max(clock.label_wall_ms, wall_ms)

    def _wall(self, wall_ms: int) -> None:
        self.clock.wall_ms = max(self.clock.wall_ms, wall_ms)
