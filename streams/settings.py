"""Every setting of driftwood: name, unit, default, what it does and what raising it costs. docs/settings.md is made of it.

Where the values come from stands in `streams/settings_sources.py`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from features.errors import SettingError
from features.masked_urls import masked
from streams.units import (
    duration_text,
    parse_duration,
    parse_size,
    size_text,
)

ENVIRONMENT_PREFIX = "DRIFTWOOD_"

# Beside the bytes of its record a dead letter has a key (64 KiB at most), and headers of some KiB.
LETTER_BYTES = 128 << 10

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]


def setting(default: object, group: str, what: str, raising: str, *, unit: str = "", **limits: Any) -> Any:
    """A field of `Settings`: `what` it does, what `raising` (or changing) it costs; `limits` go to pydantic (`ge`, `le`)."""
    more: JsonDict = {"group": group, "raising": raising, "unit": unit}
    return Field(default=default, description=what, json_schema_extra=more, **limits)


class Settings(BaseSettings):
    """The settings of one process. Made by `load_settings`; `Settings()` alone is the defaults, whatever surrounds it.

    Example:
        >>> Settings().fetch_max_wait
        datetime.timedelta(microseconds=8000)
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    # ---- servers
    brokers: str = setting(
        "127.0.0.1:9092",
        "Servers",
        "Kafka's bootstrap servers, `host:port`, several separated by commas.",
        "More of them survive the loss of one at the moment of connecting.",
        min_length=3,
        pattern=r"^[^\s,]+:\d+(\s*,\s*[^\s,]+:\d+)*$",
    )
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = setting(
        "plaintext",
        "Servers",
        "How connections to Kafka are secured.",
        "`ssl` and `sasl_ssl` encrypt, which costs CPU for every byte read and written.",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = setting(
        "SCRAM-SHA-512",
        "Servers",
        "How user and password are proved to Kafka, with a `sasl_…` protocol.",
        "`PLAIN` sends the password itself: only with `sasl_ssl`.",
    )
    sasl_user: str = setting("", "Servers", "User at Kafka, with a `sasl_…` protocol.", "None.")
    sasl_password: SecretStr = setting(
        SecretStr(""), "Servers", "Password at Kafka, with a `sasl_…` protocol. Never shown.", "None."
    )
    kafka_ca_file: Path | None = setting(
        None,
        "Servers",
        "PEM file with the certificates that Kafka's is checked against; unset: the system's.",
        "None.",
    )
    redis_url: str = setting(
        "redis://127.0.0.1:6379/0",
        "Servers",
        "Redis, with user and password where it needs them: `redis://`, `rediss://` (TLS) or `unix://`. "
        "The password is never shown.",
        "None.",
        pattern=r"^(redis|rediss|unix)://.+",
        repr=False,  # it may hold a password, and settings are printed whole in tracebacks
    )

    # ---- topics
    partitions: int = setting(
        4,
        "Topics",
        "Partitions of each topic of a pipeline when it is created. Fixed from then on: every start checks them.",
        "More workers can share the work; each partition keeps a hot set of its own, and batches get smaller.",
        ge=1,
        le=1000,
    )
    replication_factor: int = setting(
        1,
        "Topics",
        "Copies of each partition when a topic is created. 3 is usual where data matters.",
        "Survives the loss of more brokers; costs disk and network on each.",
        ge=1,
        le=9,
    )
    events_retention: Duration = setting(
        timedelta(days=7),
        "Topics",
        "How long the topics of a pipeline keep records, set when they are created. Entity state in Redis expires no "
        "sooner than the longest window plus this.",
        "Older events can be read again; costs disk, and idle entities stay longer in Redis.",
        ge=timedelta(hours=1),
        le=timedelta(days=3650),
    )
    max_message_bytes: Size = setting(
        16 << 20,
        "Topics",
        "The largest record that the broker accepts in `events` and `dead-letters`, set when they are created.",
        "Larger mistakes become dead letters instead of errors at the sender; a fetch may bring this much at once.",
        ge=1 << 20,
        le=1 << 30,
    )

    # ---- input
    max_record_bytes: Size = setting(
        1 << 20,
        "Input",
        "The largest event that is decoded. A larger one becomes a dead letter with its head, length and hash.",
        "Larger events are taken; each may take this much memory several times over.",
        ge=1 << 10,
        le=64 << 20,
    )
    unknown_fields: Literal["count", "dead-letter"] = setting(
        "count",
        "Input",
        "What becomes of an event with fields that the pipeline does not declare: accepted and counted, or refused.",
        "`dead-letter` finds senders' mistakes sooner, and refuses events when a sender adds a field.",
    )
    repeat_horizon: Duration = setting(
        timedelta(days=1),
        "Input",
        "A second event with the same id within this event time is dropped as a repeat.",
        "Catches slower retries; Redis keeps ids for about three horizons, some 100 B each.",
        ge=timedelta(minutes=1),
        le=timedelta(days=90),
    )
    repeat_ids_per_bucket: int = setting(
        4_000_000,
        "Input",
        "How many event ids are remembered for one horizon of event time. Beyond it ids are not remembered, counted "
        "in `driftwood_ids_not_remembered_total`, and a repeat of them counts twice.",
        "Busier streams are covered; up to 100 B of Redis each, and there are at most four full buckets.",
        ge=1000,
        le=100_000_000,
    )

    # ---- batches
    batch_max_records: int = setting(
        2000,
        "Batches",
        "Events of a partition worked on as one batch (at least one record: one of a hop topic holds many events).",
        "Less work per event under load, by little above 2000; longer batches, so higher latency, more repeated after a "
        "crash, and longer waits for others in Redis.",
        unit="events",
        ge=1,
        le=1_000_000,
    )
    batch_max_bytes: Size = setting(
        2 << 20,
        "Batches",
        "Bytes of a partition worked on as one batch (at least one record).",
        "As for `batch_max_records`.",
        ge=64 << 10,
        le=256 << 20,
    )
    fetch_max_wait: Duration = setting(
        timedelta(milliseconds=8),
        "Batches",
        "How long the broker waits for `fetch_min_bytes` before it answers a fetch.",
        "Fewer, larger fetches save CPU at low rates; the wait is paid once per hop in latency.",
        ge=timedelta(milliseconds=1),
        le=timedelta(seconds=5),
    )
    fetch_min_bytes: Size = setting(
        1 << 20,
        "Batches",
        "Bytes that end the broker's wait early.",
        "Larger batches; above what comes within `fetch_max_wait` it changes nothing.",
        ge=1,
        le=64 << 20,
    )
    max_partition_fetch_bytes: Size = setting(
        1 << 20,
        "Batches",
        "Bytes of one partition in one fetch (a single larger record still comes through).",
        "Fewer fetches while catching up; memory of a partition that is held back.",
        ge=64 << 10,
        le=256 << 20,
    )
    mailbox_max_records: int = setting(
        16_000,
        "Batches",
        "Records of a partition that may wait in memory; above, its fetches pause until half of it is worked off.",
        "Smooths bursts; costs memory and time at a rebalance.",
        unit="records",
        ge=100,
        le=10_000_000,
    )
    mailbox_max_bytes: Size = setting(
        8 << 20,
        "Batches",
        "Bytes of a partition that may wait in memory, likewise.",
        "As for `mailbox_max_records`.",
        ge=1 << 20,
        le=1 << 30,
    )
    unread_bytes_max: Size = setting(
        2_621_440,
        "Batches",
        "Ingest waits while the fullest partitions of the hop topics together hold more unread bytes than this, and `driftwood "
        "produce` while any of `events` does; 0B: never. The embedded broker loses what lies 5 MiB behind, so there it must stay at 2.5MiB or less.",
        "Absorbs longer bursts on a real Kafka; a longer queue is a higher latency.",
        ge=0,
        le=64 << 30,
    )

    # ---- state
    hot_entities: int = setting(
        100_000,
        "State",
        "Entities of one kind kept in memory for one partition, as far as `hot_memory` allows. Others are fetched from Redis "
        "when they come again.",
        "Fewer reads from Redis; memory (`driftwood features` shows the bytes of one entity).",
        unit="entities",
        ge=1000,
        le=100_000_000,
    )
    hot_memory: Size = setting(
        2 << 30,
        "State",
        "Memory for the entities of a worker that owns every partition. It is divided so that as many entities of each kind "
        "fit for each partition; a worker that owns half of them uses half of it.",
        "Fewer reads from Redis; memory. Some 0.5 GiB come on top for everything else.",
        ge=64 << 20,
        le=1 << 44,
    )

    # ---- labels
    ledger_hot: Duration = setting(
        timedelta(days=8),
        "Labels",
        "For how long, in event time, what was served waits for its label in memory and in Redis, if the label's horizon is "
        "not shorter. Older predictions are read back from the archive when a label comes. The default is a day more than a week, "
        "so that labels which come exactly a week later still find them here.",
        "Fewer reads of the archive; some 0.5 KB of memory and of Redis for each event of that time.",
        ge=timedelta(minutes=1),
        le=timedelta(days=3650),
    )
    ledger_rows: int = setting(
        1_000_000,
        "Labels",
        "Predictions of one partition that wait for their labels whole. Of more, the oldest go to the archive first. Of all "
        "rows together, with those in the archive and those settled, there are at most eight times as many: beyond, the "
        "oldest are outcomes `expired`.",
        "Busier streams and longer horizons are covered; some 0.5 KB of memory and of Redis each.",
        unit="predictions",
        ge=1000,
        le=1_000_000_000,
    )
    label_silence: Duration = setting(
        timedelta(hours=1),
        "Labels",
        "After this long without any label the feed counts as stalled: then nobody is taken for a negative because no label "
        "came, and learning freezes.",
        "Feeds that come in batches (once a day) need more than their pause; a real stall is noticed later. Until then "
        "nothing times out beyond the newest label all the same.",
        ge=timedelta(seconds=10),
        le=timedelta(days=365),
    )

    # ---- life of a worker
    commit_interval: Duration = setting(
        timedelta(seconds=1),
        "Life of a worker",
        "How often offsets are committed to Kafka. They are advisory: Redis decides where a stage goes on.",
        "Fewer requests; the lag that tools show is older, and ingest repeats more after a crash.",
        ge=timedelta(milliseconds=100),
        le=timedelta(minutes=5),
    )
    session_timeout: Duration = setting(
        timedelta(seconds=10),
        "Life of a worker",
        "After this long without a heartbeat the group gives a worker's partitions to others.",
        "Survives longer pauses and network troubles; a crashed worker is noticed later.",
        ge=timedelta(seconds=6),
        le=timedelta(minutes=30),
    )
    stall_timeout: Duration = setting(
        timedelta(seconds=60),
        "Life of a worker",
        "A worker in which records waited this long without any progress ends itself, for its supervisor to start anew.",
        "Rides out longer absences of Kafka (one of Redis ends a worker within seconds); a hanging worker is replaced later.",
        ge=timedelta(seconds=5),
        le=timedelta(hours=1),
    )
    stop_timeout: Duration = setting(
        timedelta(seconds=20),
        "Life of a worker",
        "How long a graceful stop may take: finish the batch in hand, commit, leave the group. Then the process ends. "
        "Keep the supervisor's own patience (`stop_grace_period`) above it.",
        "Larger batches can be finished; a stop with a dead broker takes longer.",
        ge=timedelta(seconds=1),
        le=timedelta(minutes=10),
    )

    # ---- models and files
    models_dir: Path = setting(
        Path("runs/models"),
        "Models and files",
        "Folder of the model store; all workers of a pipeline and `driftwood promote` must see the same one.",
        "None.",
    )
    runs_dir: Path = setting(
        Path("runs"), "Models and files", "Folder for what commands write: reports, demo data.", "None."
    )
    signing_key: SecretStr = setting(
        SecretStr(""),
        "Models and files",
        "Secret of at least 32 characters with which the learner signs its snapshots; every worker must have the same one. Unset: "
        "a file `signing.key` in `models_dir`, made by the first process that needs it. Never shown.",
        "None.",
    )
    champion_poll: Duration = setting(
        timedelta(seconds=1),
        "Models and files",
        "How often a worker looks whether another model was promoted (one small file read).",
        "Fewer reads of a network file system; a promotion takes effect later.",
        ge=timedelta(milliseconds=100),
        le=timedelta(hours=1),
    )

    # ---- observation
    metrics_host: str = setting(
        "127.0.0.1",
        "Observation",
        "Address on which a worker serves its Prometheus metrics, without any authentication.",
        "Anything but loopback shows them to the network.",
        min_length=1,
    )
    metrics_port: int = setting(
        0, "Observation", "Port of the metrics; 0 picks a free one, which is logged.", "None.", ge=0, le=65535
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        "Observation",
        "The least important log lines written, on stderr.",
        "`debug` is for searching a fault.",
    )
    log_format: Literal["text", "json"] = setting(
        "text", "Observation", "Log lines for people, or one JSON object a line.", "None."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed in: `load_settings` gathers the sources itself, to know where each value came from."""
        return (init_settings,)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Settings that only make sense together."""
        if self.security_protocol.startswith("sasl") and not (
            self.sasl_user and self.sasl_password.get_secret_value()
        ):
            raise SettingError(
                "security_protocol", self.security_protocol, "sasl_user and sasl_password to be set beside it"
            )
        if self.max_record_bytes > self.max_message_bytes - LETTER_BYTES:
            raise SettingError(
                "max_record_bytes",
                size_text(self.max_record_bytes),
                f"at most max_message_bytes ({size_text(self.max_message_bytes)}) less {size_text(LETTER_BYTES)}: a dead "
                "letter holds the record, and a key and headers beside it",
            )
        return self

    def kafka_client(self, **more: str | float | bool) -> dict[str, str | float | bool]:
        """librdkafka's settings to reach Kafka, security included; `more` is added."""
        config: dict[str, str | float | bool] = {
            "bootstrap.servers": self.brokers,
            "security.protocol": self.security_protocol,
        }
        if self.security_protocol.startswith("sasl"):
            config["sasl.mechanism"] = self.sasl_mechanism
            config["sasl.username"] = self.sasl_user
            config["sasl.password"] = self.sasl_password.get_secret_value()
        if self.kafka_ca_file is not None:
            config["ssl.ca.location"] = str(self.kafka_ca_file)
        return {**config, **more}

    def shown(self, name: str) -> str:
        """The value of a setting as it is written, secrets masked."""
        return shown(name, getattr(self, name))


def setting_names() -> list[str]:
    """All settings, in the order of the documentation."""
    return list(Settings.model_fields)


def field_of(name: str) -> FieldInfo:
    """The declaration of a setting."""
    return Settings.model_fields[name]


def shown(name: str, value: object) -> str:
    """A value as a person would write it in a setting; secrets and passwords in URLs masked.

    Example:
        >>> shown("redis_url", "redis://worker:hunter2@redis:6379/0")
        'redis://worker:***@redis:6379/0'
        >>> shown("batch_max_bytes", 2 << 20), shown("commit_interval", timedelta(seconds=1))
        ('2MiB', '1s')
    """
    if isinstance(value, SecretStr) or is_secret(name):
        return "***" if str(value) else ""
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, int) and is_size(name):
        return size_text(value)
    if isinstance(value, dict | list):
        return "…"  # no setting is one; what stands in it may be a secret of whoever wrote it
    text = "" if value is None else str(value)
    return masked(text) if "://" in text else text


def is_secret(name: str) -> bool:
    """Whether a setting's value is never shown; of an unknown name, whether it sounds like that."""
    field = Settings.model_fields.get(name)
    if field is not None:
        return field.annotation is SecretStr
    return any(word in name for word in ("password", "secret", "token", "key"))


def is_size(name: str) -> bool:
    """Whether a setting is a number of bytes."""
    return _has_parser(name, parse_size)


def is_duration(name: str) -> bool:
    """Whether a setting is a duration."""
    return _has_parser(name, parse_duration)


def _has_parser(name: str, parser: object) -> bool:
    field = Settings.model_fields.get(name)
    return field is not None and any(getattr(mark, "func", None) is parser for mark in field.metadata)
