"""What is told about labels, in the order in which they became known: slices of counts, changes of a loss, the feed's state."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

LOSS_UNITS: Final = 2**24
"""Units in a bounded loss of 1: sums of whole numbers are the same in any order."""

SCORE_UNITS: Final = 2**20
"""Units in a score of 1."""

ALL: Final = ""
"""The segment of all rows."""

Basis = Literal["known", "mature"]


class LossSums(msgspec.Struct, array_like=True, frozen=True):
    """Of some labels: how many, their bounded losses and the squares of these, in LOSS_UNITS."""

    count: int
    loss: int
    squares: int


class Losses(msgspec.Struct, array_like=True, frozen=True):
    """What the labels of a slice say about `subject`, the score or one of its parts, by class, in one segment."""

    subject: str
    segment: str
    classes: dict[str, LossSums]


class Cohort(msgspec.Struct, array_like=True, frozen=True):
    """The outcomes of the events from `start_us` to `end_us` (event time), now that next to all labels are there.

    `classes`: how many by class. `losses`: of the score, over all classes. `calibration`, by subject and bin of the score: how
    many, the sum of what was said (in SCORE_UNITS), and how many came true; of several classes it is the
    likeliest one that was said. Empty of a regression.
    """

    start_us: int
    end_us: int
    classes: dict[str, int]
    losses: LossSums
    calibration: dict[str, dict[int, tuple[int, int, int]]]


class LabelSlice(msgspec.Struct, tag="slice", frozen=True):
    """What became known from `start_us` to `end_us` (of the label's own time).

    - `outcomes`: by name, how many; `behind`: how many came that had been known more than a slice before (after an outage),
      which stand in no count of `outcomes`, `classes` and `delays`.
    - `classes`: labels and what silence means, by class; a correction takes one from the class that it replaces.
    - `delays`: of labels that came, by bin of the delay (`models.maturity.delay_bin`).
    - `losses`: what was measured, those behind included; `cohorts`: event times that have become mature.
    """

    start_us: int
    end_us: int
    outcomes: dict[str, int]
    behind: int
    classes: dict[str, int]
    delays: dict[int, int]
    losses: list[Losses]
    cohorts: list[Cohort]


class Side(msgspec.Struct, array_like=True, frozen=True):
    """A run of losses: how many, their mean and variance, and between which known times."""

    count: int
    mean: float
    variance: float
    start_us: int
    end_us: int


class LossChange(msgspec.Struct, tag="change", frozen=True):
    """ADWIN saw that a loss is another one: bounded losses (0 to 1) before and after.

    `basis` says of which labels: "known", as they became known, each compared with its own class, so that a change of the
    mixture of classes is none (`after.mean` is what it would be with the classes as they were mixed before); or "mature",
    as they are when next to all of their time are there.
    """

    subject: str
    segment: str
    basis: Basis
    at_us: int
    before: Side
    after: Side

    @property
    def grown(self) -> bool:
        """Whether the loss is larger than before."""
        return self.after.mean > self.before.mean


class FeedState(msgspec.Struct, tag="feed", frozen=True):
    """Labels stopped coming in a partition of the join, or flow again.

    `since_ms`, `at_ms`: wall clock of the last label before the stall, and of this report. `at_us` is the newest time at
    which a label had become known (the wall clock where none had).
    """

    partition: str
    stalled: bool
    since_ms: int
    at_ms: int
    at_us: int


LabelReport = LabelSlice | LossChange | FeedState

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[LabelReport] = msgspec.msgpack.Decoder(LabelReport)


def encoded(report: LabelReport) -> bytes:
    """The report as bytes: equal reports give equal bytes.

    Example:
        >>> one = FeedState("0", True, 1_000, 61_000, 1_000_000)
        >>> decoded(encoded(one)) == one
        True
    """
    return _encode(report)


def decoded(data: bytes) -> LabelReport:
    """The report in these bytes. Raises ValueError when there is none."""
    return _decoder.decode(data)  # msgspec's errors are ValueErrors
