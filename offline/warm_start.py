"""What the online learners know before the first label comes in the stream: the labels that the batch model was trained on.

A learner that begins with nothing needs thousands of labels before it is worth a weight. So training teaches the learners as
well, label by label in the order in which they became known, as the stream would have. Only the learners: nothing was served,
so there is nothing to measure and no weight to give. They earn it by what they say of events that are answered from then on.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from features.plan import Floats, Ints
from models.learning import Learning
from models.online_model import taken
from models.snapshot import WARM_START, seal
from offline.history import Progress
from offline.training_problem import Problem

# Rows of one mini-batch, as the join stage makes them at some hundred labels a second.
ROWS = 256

# The newest of so many labels: a learner forgets older ones anyhow, and a tree takes a quarter of a millisecond for each.
MOST_TAUGHT = 100_000


def warm_start(problem: Problem, version: str, key: bytes, progress: Progress | None = None) -> bytes:
    """The state of learners that were taught what was known at the end of the training range, sealed for model `version`."""
    learning = Learning(problem.pipeline)
    rows, codes = in_order_of_knowing(problem)
    bounds = [*range(0, len(rows), ROWS), len(rows)]
    for start, end in pairwise(bounds):
        learning.teach(taken(problem.past.matrix, rows[start:end]), codes[start:end])
        if progress is not None:
            progress("teaching the online learners", end / len(rows))
    return seal(WARM_START, version, problem.pipeline.feature_set.hash, learning.state(), key)


def in_order_of_knowing(problem: Problem) -> tuple[Ints, Floats]:
    """(event, code) of the labels of the training range, in the order in which they became known; a correction is another.

    What silence says becomes known with the end of the horizon, and stands behind the labels of that moment.
    """
    labels, until_us = problem.labels, problem.until_us
    times_us = problem.past.times_us
    inside = (labels.known_us <= until_us) & ~np.isnan(labels.codes)
    events, codes, known_us = labels.event[inside], labels.codes[inside], labels.known_us[inside]
    if not np.isnan(labels.label.silent_code):
        told = np.zeros(len(times_us), bool)
        told[labels.event] = True
        silent = np.flatnonzero(~told & (times_us + labels.label.horizon_us <= until_us))
        events = np.concatenate([events, silent])
        codes = np.concatenate([codes, np.full(len(silent), labels.label.silent_code)])
        known_us = np.concatenate([known_us, times_us[silent] + labels.label.horizon_us])
    within = (times_us[events] >= problem.since_us) & (times_us[events] < until_us)
    order = np.argsort(known_us[within], kind="stable")[-MOST_TAUGHT:]
    return events[within][order], codes[within][order]
