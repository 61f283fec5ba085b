"""What is probably behind an alert: sentences, each from what the newest slices hold. Hints for a person, not proofs.

schema change    values of a column miss, or records are refused, from one moment on
one producer     one value of a declared segment explains a change, or has grown
one entity       one key has far more of the events than any had before
new champion     another model answers since shortly before
nothing came     no event was answered, so no label can come either
a season, …      what the judges know themselves: it stands in the signals' evidence
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from models.drift.alert import moment
from models.drift.recent import FINE, WINDOWS, Fine, Recent
from models.drift.signals import CRITICAL, Signal
from models.drift.time_slice import OTHER, SegmentCounts
from models.drift.titles import DEAD_LETTERS, VOLUME

MOST: Final = 6
"""Sentences of one alert."""

# Judged on the strongest signals alone: the others mostly follow them.
LOOKED_AT: Final = 5

# A share that rises by less is nobody's change of a schema, and one of an entity nobody's flood.
STEP: Final = 0.05
FLOOD: Final = 0.1
# So many times the share of before.
TIMES: Final = 3.0

# This part of the rise must have come within two spans of time.
SUDDEN: Final = 0.75

# Rows of a value of a segment, before and now: a share of fewer says little.
FEWEST: Final = 30
# The rest must have moved less than this part of the one value, and than this part of the whole.
REST_OF_VALUE: Final = 0.25
REST_OF_ALL: Final = 0.5
# Least change of a share, and of a mean bucket (2 % each), that is worth a name.
LEAST_SHARE: Final = 0.01
LEAST_BUCKETS: Final = 1.0
# A value of a segment that has so much more of the events than before.
MIXED: Final = 0.2

MISSING_STATISTIC: Final = "missing"
OUTSIDE_STATISTIC: Final = "outside"


def causes(recent: Recent, signals: Sequence[Signal]) -> tuple[str, ...]:
    """Sentences about these signals (the strongest first), the likeliest cause first."""
    looked_at = signals[:LOOKED_AT]
    found = [sentence for cause in CAUSES for sentence in cause(recent, looked_at)]
    known = [sentence for signal in looked_at if _may_be_usual(signal) for sentence in signal.evidence.why]
    return tuple(dict.fromkeys((*found, *known)))[:MOST]


def _may_be_usual(signal: Signal) -> bool:
    """What comes in is said to be like the reference's own peaks: they explain no signal far above the threshold."""
    return signal.level in ("labels", "concept") or signal.strength < CRITICAL


def few_or_many_events(recent: Recent, signals: Sequence[Signal]) -> Iterator[str]:
    """Since when no event was answered, for whatever has to do with a feed; and how many came where that is what is told."""
    feeds = any(signal.level == "labels" or signal.subject == VOLUME for signal in signals)
    silent = _ending(recent.fine, lambda span: span.rows == 0)
    if feeds and silent:
        since = moment(recent.fine[-silent].start_us)
        yield f"no event was answered since {since}: producers, their topic or the workers stand still (driftwood doctor)"
    if len(recent.fine) == FINE * WINDOWS and any(signal.subject == VOLUME for signal in signals):
        before, now = (sum(span.rows for span in spans) for spans in (recent.fine[:FINE], recent.fine[FINE:]))
        yield f"{now:,} events were answered in the newest window, {before:,} in the one before it"


def schema_change(recent: Recent, signals: Sequence[Signal]) -> Iterator[str]:
    """Records are refused, or values of a column miss, from one moment on."""
    if any(signal.subject == DEAD_LETTERS for signal in signals):
        for reason in sorted({reason for span in recent.fine for reason in span.dead}):
            step = step_of(
                [(span.dead.get(reason, 0), span.rows + sum(span.dead.values())) for span in recent.fine]
            )
            if step is not None:
                since = moment(recent.fine[step.place].start_us)
                yield (
                    f"a change of the schema: from {since} on {_percent(step.after)} of the records are refused as {reason}, "
                    f"{_percent(step.before)} before (driftwood tail dead-letters shows them)"
                )
    yield from _missing_columns(recent, signals)


def _missing_columns(recent: Recent, signals: Sequence[Signal]) -> Iterator[str]:
    subjects = {signal.subject for signal in signals if signal.statistic == MISSING_STATISTIC}
    since: dict[int, list[str]] = {}
    for place, column in enumerate(recent.columns):
        step = (
            step_of([(span.missing[place], span.rows) for span in recent.fine])
            if column.name in subjects
            else None
        )
        if step is not None:
            told = f"{column.name} ({_percent(step.before)} before, {_percent(step.after)} since)"
            since.setdefault(recent.fine[step.place].start_us, []).append(told)
    for start_us, told_columns in sorted(since.items()):
        yield (
            f"a change of the schema: from {moment(start_us)} on values are missing that were there: {', '.join(told_columns)}; "
            "a producer may send them under another name, or no more"
        )


def one_producer(recent: Recent, signals: Sequence[Signal]) -> Iterator[str]:
    """One value of a declared segment explains the change of a column, or has far more of the events than before."""
    before, now = recent.segments()
    places = {column.name: place for place, column in enumerate(recent.columns)}
    for name in sorted(now):
        table, newer = before.get(name, {}), now[name]
        explained: dict[str, list[str]] = {}
        for signal in signals:
            place = places.get(signal.subject)
            if place is None or signal.segment:
                continue
            measure = _measure(signal, recent.columns[place].kind == "category")
            if measure and (value := explaining(table, newer, place, measure)) is not None:
                explained.setdefault(value, []).append(signal.subject)
        for value, subjects in explained.items():
            yield f"one {name}: {value} explains most of the change of {', '.join(dict.fromkeys(subjects))}; the others are as before"
        yield from _grown(name, table, newer)


def _grown(name: str, before: Mapping[str, SegmentCounts], now: Mapping[str, SegmentCounts]) -> Iterator[str]:
    rows_before, rows_now = (sum(counts.rows for counts in table.values()) for table in (before, now))
    if rows_before < FEWEST or rows_now < FEWEST:
        return
    for value, counts in sorted(now.items()):
        share = counts.rows / rows_now
        usual = before[value].rows / rows_before if value in before else 0.0
        if value != OTHER and share - usual >= MIXED:
            yield f"one {name}: {value} has {_percent(share)} of the events now, {_percent(usual)} before"


def one_entity(recent: Recent, signals: Sequence[Signal]) -> Iterator[str]:
    """One key of an entity has far more of the newest events than any had before."""
    del signals  # whatever has moved, one entity may be what moves it
    for place, column in enumerate(recent.columns):
        if column.compared:
            continue
        step = step_of([(max(span.keys[place].values(), default=0), span.rows) for span in recent.fine])
        if step is None:
            continue
        share = largest_share(recent.fine[step.place :], place)
        if share >= FLOOD and share >= TIMES * step.before:
            yield (
                f"one {column.name}: a single one has {_percent(share)} of the events since "
                f"{moment(recent.fine[step.place].start_us)}, the largest one had {_percent(step.before)} before"
            )


def new_champion(recent: Recent, signals: Sequence[Signal]) -> Iterator[str]:
    """Another model answers since less than a window before."""
    if recent.version_us is None or not recent.fine:
        return
    if recent.fine[-1].end_us - recent.version_us <= recent.window_us:
        yield f"a new champion, {recent.version}, answers since {moment(recent.version_us)}"


CAUSES: Final[Sequence[Callable[[Recent, Sequence[Signal]], Iterator[str]]]] = (
    few_or_many_events,
    schema_change,
    one_producer,
    one_entity,
    new_champion,
)


@dataclass(frozen=True)
class Step:
    """From the span at `place` on a share is `after`, `before` until then."""

    place: int
    before: float
    after: float


def step_of(counts: Sequence[tuple[int, int]]) -> Step | None:
    """Where a share (count of total, by span) rises at once and stays so; None: nowhere.

    Example:
        >>> step_of([(0, 100), (1, 100), (0, 0), (60, 100), (55, 100)])
        Step(place=3, before=0.005, after=0.575)
        >>> step_of([(share, 100) for share in range(0, 80, 10)]) is None  # it creeps
        True
    """
    seen = [place for place, (_, total) in enumerate(counts) if total > 0]
    steps = [Step(place, _share(counts[:place]), _share(counts[place:])) for place in seen[1:]]
    best = max(steps, key=lambda step: step.after - step.before, default=None)
    if best is None or best.after - best.before < STEP or best.after < TIMES * best.before:
        return None
    at = seen.index(best.place)
    # The span in which it began may be half of the one and half of the other.
    jump = max(_share([counts[place]]) for place in seen[at : at + 2]) - _share([counts[seen[at - 1]]])
    return best if jump >= SUDDEN * (best.after - best.before) else None


def explaining(
    before: Mapping[str, SegmentCounts], now: Mapping[str, SegmentCounts], place: int, measure: str
) -> str | None:
    """The value of a segment without which a column would have hardly changed; None: there is none.

    `measure` is missing, outside or mean (of the bucket). At least one other value must be there, to compare with.
    """
    least = LEAST_BUCKETS if measure == "mean" else LEAST_SHARE
    whole = _change(list(before.values()), list(now.values()), place, measure)
    if whole is None or abs(whole) < least:
        return None
    for value in sorted(set(before) & set(now) - {OTHER}):
        mine = _change([before[value]], [now[value]], place, measure)
        rest = _change(_others(before, value), _others(now, value), place, measure)
        if mine is None or rest is None:
            continue
        if abs(rest) <= REST_OF_VALUE * abs(mine) and abs(rest) <= REST_OF_ALL * abs(whole):
            return value
    return None


def _others(table: Mapping[str, SegmentCounts], value: str) -> list[SegmentCounts]:
    return [counts for name, counts in table.items() if name != value]


def largest_share(spans: Sequence[Fine], place: int) -> float:
    """The share of the rows of these spans that the largest key of an entity has."""
    keys: dict[int, int] = {}
    for span in spans:
        for key, count in span.keys[place].items():
            keys[key] = keys.get(key, 0) + count
    rows = sum(span.rows for span in spans)
    return max(keys.values(), default=0) / rows if rows >= FEWEST else 0.0


def _change(
    before: Sequence[SegmentCounts], now: Sequence[SegmentCounts], place: int, measure: str
) -> float | None:
    older, newer = _level(before, place, measure), _level(now, place, measure)
    return None if older is None or newer is None else newer - older


def _level(tables: Sequence[SegmentCounts], place: int, measure: str) -> float | None:
    """The share or mean of a column; None of too few rows."""
    rows = sum(counts.rows for counts in tables)
    missing = sum(counts.missing[place] for counts in tables)
    if measure == "mean":
        there = rows - missing
        return None if there < FEWEST else sum(counts.bucket_sums[place] for counts in tables) / there
    counted = missing if measure == "missing" else sum(counts.outside[place] for counts in tables)
    return None if rows < FEWEST else counted / rows


def _measure(signal: Signal, category: bool) -> str | None:  # noqa: FBT001  # of one line, called once
    if signal.statistic in (MISSING_STATISTIC, OUTSIDE_STATISTIC):
        return signal.statistic
    return None if category else "mean"  # the mean of hashes says nothing


def _ending(spans: Sequence[Fine], so: Callable[[Fine], bool]) -> int:
    """How many of the newest spans are so."""
    count = 0
    for span in reversed(spans):
        if not so(span):
            break
        count += 1
    return count


def _share(counts: Sequence[tuple[int, int]]) -> float:
    total = sum(total for _, total in counts)
    return sum(count for count, _ in counts) / total if total else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
