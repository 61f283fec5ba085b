"""The Faust application of a worker: group membership, subscriptions, and the agents that receive.

Faust gives agents, consumer groups and their lifecycle. `streams/transport.py` gives it batches, `streams/worker.py`
does the work; Faust's tables, windows, sends and web server are not used (docs/decisions/0003).
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import faust

from streams.mailbox import MailboxLimits
from streams.settings import Settings
from streams.transport import FetchSettings, broker_url, install
from streams.worker import Worker

FaustApp = faust.App


class App(faust.App):
    """Faust's, but it makes no folders where the process stands: they are for tables, and there are none."""

    # Faust logs under the module of the class: its account of starting and stopping would appear as ours.
    logger = logging.getLogger("faust.app")

    def _create_directories(self) -> None:
        pass


def make_app(
    group: str, topics: Sequence[str], worker: Worker, settings: Settings, identities: Mapping[str, str]
) -> faust.App:
    """An app that is a member of `group` and hands every fetched batch of `topics` to the worker."""
    session_s = settings.session_timeout.total_seconds()
    app = App(
        group,
        broker=broker_url(settings.brokers),
        broker_credentials=_credentials(settings),
        broker_commit_interval=settings.commit_interval.total_seconds(),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 4,
        broker_rebalance_timeout=session_s + settings.stop_timeout.total_seconds(),
        # Topics are created and checked before the worker starts; Faust would make them with other counts.
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        table_standby_replicas=0,
        stream_wait_empty=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
    )
    install(app, worker, fetch_settings(settings), identities)
    for topic in topics:
        _add_agent(app, topic, worker)
    return app


def fetch_settings(settings: Settings) -> FetchSettings:
    """How batches are fetched, in the transport's words."""
    return FetchSettings(
        min_bytes=settings.fetch_min_bytes,
        max_wait_ms=int(settings.fetch_max_wait.total_seconds() * 1000),
        partition_bytes=settings.max_partition_fetch_bytes,
        max_records=settings.batch_max_records,
        stop_s=settings.stop_timeout.total_seconds() / 4,
    )


def mailbox_limits(settings: Settings) -> MailboxLimits:
    """How much waits for a partition and how large a batch gets, in the mailbox's words."""
    return MailboxLimits(
        waiting_records=settings.mailbox_max_records,
        waiting_bytes=settings.mailbox_max_bytes,
        piece_records=settings.batch_max_records,
        piece_bytes=settings.batch_max_bytes,
    )


def _add_agent(app: faust.App, name: str, worker: Worker) -> None:
    topic = app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    async def receive(stream: Any) -> None:
        async for event in stream.noack().events():
            worker.receive(event.value)

    app.agent(topic, name=f"receive-{name}")(receive)


def _credentials(settings: Settings) -> Any:
    if settings.security_protocol == "plaintext":
        return None
    context = (
        ssl.create_default_context(cafile=settings.kafka_ca_file)
        if "ssl" in settings.security_protocol
        else None
    )
    if settings.security_protocol == "ssl":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        mechanism=settings.sasl_mechanism,
        username=settings.sasl_user,
        password=settings.sasl_password.get_secret_value(),
        ssl_context=context,
    )
