"""One answer of a demo, explained while its servers still run: the surest one of those that came true."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from driftwood.answers import Answers
from driftwood.why import why
from driftwood.why_view import blocks
from models.pipeline import Pipeline
from streams.topic_log import TopicLog
from streams.topics import PipelineTopics

# Of the newest predictions: the embedded broker keeps 5 MiB of a partition, and one of them is below 1.5 kB.
NEWEST = 2_500


def explained(
    pipeline: Pipeline,
    topics: PipelineTopics,
    log: TopicLog,
    answers: Answers,
    labels: pd.Series,
    learnt: Collection[str],
) -> str | None:
    """What `driftwood why` says of it; None where none came true. `labels` are 0/1 by event id, null where none came;
    `learnt` are the events of which a label was joined."""
    newest = pd.Series(answers.scores[-NEWEST:], index=answers.ids[-NEWEST:])
    came_true = newest[(labels.reindex(newest.index) == 1).to_numpy() & newest.index.isin(list(learnt))]
    if not len(came_true):
        return None
    found = why(pipeline, topics, log, str(came_true.idxmax()))
    return "\n\n".join(block.text for block in blocks(pipeline, found)) + "\n"
