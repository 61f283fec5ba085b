"""The embedded runtime: a Kafka broker and a Redis that need nothing installed but this project's wheels.

For trying Driftwood and for its tests. The broker keeps 5 MiB of a partition and everything in memory; a real Apache
Kafka and a real Redis are used by their addresses instead.
"""

from driftwood.embedded.broker import EmbeddedBroker
from driftwood.embedded.redis import EmbeddedRedis
from driftwood.embedded.runtime import Runtime

__all__ = ["EmbeddedBroker", "EmbeddedRedis", "Runtime"]
