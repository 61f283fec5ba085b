"""Every error driftwood raises, in one tree that says who must act.

* `SenderError`: a producer sent something that cannot be used. It never stops a worker: the record becomes a dead letter.
* `OperatorError`: the surroundings are wrong (a server is away, a setting is bad, a topic was re-created). The worker
  ends with one sentence that names the thing, the value seen and the remedy; the exit code is 3.
* `DeveloperError`: a pipeline file or a call of ours is wrong. It is raised before any event flows; the exit code is 2.

Example:
    >>> issubclass(SettingError, OperatorError)
    True
    >>> print(SettingError("redis_url", "redi://x", "a URL that begins with redis:// or rediss://"))
    setting redis_url = 'redi://x': expected a URL that begins with redis:// or rediss://
"""

from __future__ import annotations


class DriftwoodError(Exception):
    """Anything that driftwood raises on purpose. `exit_code` is what the command line ends with."""

    exit_code = 1


class SenderError(DriftwoodError):
    """A record that a producer sent cannot be used; `path` is the JSON path where the trouble is."""

    def __init__(self, reason: str, path: str = "$") -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason
        self.path = path


class DeveloperError(DriftwoodError):
    """The pipeline file or the calling code is wrong; nothing at run time can mend it."""

    exit_code = 2


class PipelineError(DeveloperError):
    """A pipeline declaration was refused: `place` is where it stands, `expected` what would have been right."""

    def __init__(self, place: str, seen: str, expected: str) -> None:
        super().__init__(f"{place}: {seen}; expected {expected}")
        self.place = place
        self.seen = seen
        self.expected = expected


class OperatorError(DriftwoodError):
    """The surroundings need a person: a server, a setting, a topic, a model file."""

    exit_code = 3


class SettingError(OperatorError):
    """A setting has an unknown name, a bad unit or an impossible value."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"setting {name} = {value!r}: expected {expected}")
        self.name = name
        self.value = value
        self.expected = expected


class UnreachableError(OperatorError):
    """A server named by a setting does not answer."""

    def __init__(self, server: str, setting: str, value: object, remedy: str) -> None:
        super().__init__(f"{server} does not answer at {value} (setting {setting}): {remedy}")
        self.server = server
        self.setting = setting
        self.value = value
        self.remedy = remedy


class StoreError(OperatorError):
    """The state store answers, and cannot do what was asked: no memory left, no right, a foreign value under a key."""


class TopicError(OperatorError):
    """A topic is missing, has another number of partitions, or is not the topic that the state was built from."""


class PositionError(OperatorError):
    """The log no longer holds what the recorded position says comes next: never skipped silently."""


class StateLostError(OperatorError):
    """The state store knows nothing of a partition that was worked on before: it was emptied, or is another one."""


class DeliveryError(OperatorError):
    """The broker did not take a message that had to be delivered; the process must end and repeat the batch."""


class ModelError(OperatorError):
    """A model file is missing, damaged, or was made for other features; the model in service stays."""


class SnapshotError(OperatorError):
    """A snapshot of the online learners is unsigned, altered, or of another version; the one in service stays."""
