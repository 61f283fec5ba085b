"""URLs as they may be shown: in messages, logs and tables."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def masked(url: str) -> str:
    """The URL without its password, and without its query, which may hold one.

    Example:
        >>> masked("redis://worker:secret@cache:6379/0"), masked("redis://cache:6379?password=secret")
        ('redis://worker:***@cache:6379/0', 'redis://cache:6379?***')
    """
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    shown = f"{name}{colon}***{at}{host}" if colon else parts.netloc
    return urlunsplit(parts._replace(netloc=shown, query="***" if parts.query else ""))
