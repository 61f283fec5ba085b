"""Snapshots: what the learner hands to the scorers and to its successor, signed, so that nothing foreign is ever read.

    8 bytes   b"DRIFTSNP"
    2 bytes   format of what follows, little-endian (FORMAT)
    4 bytes   length of the head, little-endian
    head      msgpack: kind, version, feature_hash
    payload   bytes, as handed in
    32 bytes  HMAC-SHA256 over everything before it

The order of the checks is part of the promise: the signature is checked before anything else is read, and a payload can be
unpickled only by `unpickled`, which takes nothing but what `unseal` gave. A pickle is a program; only one that this
pipeline's own learner has written may run.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import pickle
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from features.errors import SettingError, SnapshotError

WARM_START = "warm start"
"""The kind of the learners' state that was taught with a model; others are "state" and "scoring"."""

MAGIC: Final = b"DRIFTSNP"
FORMAT: Final = 1
KEY_FILE: Final = "signing.key"

# HMAC-SHA256 gains nothing from a key longer than its block of 64 bytes; below 32 it would be the weakest part.
KEY_BYTES: Final = 32
_TAG_BYTES: Final = 32
_FIXED_BYTES: Final = len(MAGIC) + 2 + 4

# What flat arrays may be made of. Objects ("O") would bring pickles in again.
_TYPES: Final = ("<f8", "<i8", "<i4", "|b1")


class Unsealed(bytes):
    """A payload whose signature was checked, or bytes that this process made itself (`made_here`)."""

    __slots__ = ()


class Snapshot(NamedTuple):
    """A snapshot that may be read: its signature, format, kind and feature hash were checked."""

    kind: str
    version: str
    feature_hash: str
    payload: Unsealed


class _Head(msgspec.Struct, frozen=True):
    kind: str
    version: str
    feature_hash: str


def seal(kind: str, version: str | int, feature_hash: str, payload: bytes, key: bytes) -> bytes:
    """The snapshot's bytes. `kind`: "scoring" or "state"; `version` names it (its `outcomes` offset).

    Example:
        >>> data = seal("scoring", 41, "f00d", b"weights", b"k" * 32)
        >>> unseal(data, "scoring", "f00d", b"k" * 32)
        b'weights'
        >>> unseal(data[:-1] + b"?", "scoring", "f00d", b"k" * 32)
        Traceback (most recent call last):
        features.errors.SnapshotError: the scoring snapshot was altered, or signed with another key; ...
    """
    head = msgspec.msgpack.encode(_Head(kind, str(version), feature_hash))
    lengths = FORMAT.to_bytes(2, "little") + len(head).to_bytes(4, "little")
    signed = b"".join((MAGIC, lengths, head, payload))
    return signed + hmac.digest(key, signed, "sha256")


def unseal(data: bytes, kind: str, feature_hash: str, key: bytes) -> Unsealed:
    """The payload of a snapshot; raises SnapshotError, each case in its own words, before anything of it is used."""
    return read_snapshot(data, kind, feature_hash, key).payload


def read_snapshot(data: bytes, kind: str, feature_hash: str, key: bytes) -> Snapshot:
    """As `unseal`, with the version that the snapshot names.

    Raises SnapshotError: no snapshot, cut short, of another format, unsigned or altered, of another kind, of other features.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise SnapshotError(f"the {kind} snapshot is unsigned: it does not begin as a snapshot does")
    if len(data) < _FIXED_BYTES + _TAG_BYTES:
        raise SnapshotError(f"the {kind} snapshot was cut short: it has {len(data)} bytes")
    found = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 2], "little")
    if found != FORMAT:
        raise SnapshotError(
            f"the {kind} snapshot has format {found}, this driftwood reads {FORMAT}: the learner and the workers run"
            " different versions; bring all to one"
        )
    signed, tag = data[:-_TAG_BYTES], data[-_TAG_BYTES:]
    if not hmac.compare_digest(tag, hmac.digest(key, signed, "sha256")):
        raise SnapshotError(
            f"the {kind} snapshot was altered, or signed with another key; nothing of it was read"
            " (do the learner and the workers have the same signing key?)"
        )
    return _opened(signed, kind, feature_hash)


def _opened(signed: bytes, kind: str, feature_hash: str) -> Snapshot:
    start = _FIXED_BYTES + int.from_bytes(signed[len(MAGIC) + 2 : _FIXED_BYTES], "little")
    head = msgspec.msgpack.decode(signed[_FIXED_BYTES:start], type=_Head)
    if head.kind != kind:
        raise SnapshotError(f"a {head.kind} snapshot stands where a {kind} snapshot belongs")
    if head.feature_hash != feature_hash:
        raise SnapshotError(
            f"the {kind} snapshot {head.version} was learnt on other features (hash {head.feature_hash}, this"
            f" pipeline's is {feature_hash}): the pipeline file was changed; reset the learners"
        )
    return Snapshot(head.kind, head.version, head.feature_hash, Unsealed(signed[start:]))


# ---- what is inside a payload


def pack(fields: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Plain fields (texts, numbers, lists, bytes) and flat arrays, as msgpack; equal content gives equal bytes.

    Example:
        >>> fields, arrays = unpack(pack({"name": "a"}, {"w": np.array([0.5, 1.0])}))
        >>> fields, arrays["w"].tolist()
        ({'name': 'a'}, [0.5, 1.0])
    """
    flat = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}
    return msgspec.msgpack.encode({"fields": fields, "arrays": flat})


class _Packed(msgspec.Struct):
    fields: dict[str, Any]
    arrays: dict[str, tuple[str, tuple[int, ...], bytes]]


def unpack(packed: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The fields and arrays of `pack`; the arrays are views of `packed` and read-only. Raises SnapshotError."""
    try:
        found = msgspec.msgpack.decode(packed, type=_Packed)
        return found.fields, {name: _array(*parts) for name, parts in found.arrays.items()}
    except (msgspec.DecodeError, ValueError) as error:
        raise SnapshotError(f"a part of a snapshot is not what a learner packs: {error}") from error


def _array(dtype: str, shape: tuple[int, ...], data: bytes) -> npt.NDArray[Any]:
    if dtype not in _TYPES:
        raise ValueError(f"an array of type {dtype!r}")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


# ---- pickles, for learners that are nobody's flat arrays


def made_here(payload: bytes) -> Unsealed:
    """Bytes that this very process has made (an in-process replay, a test): never for anything read from outside."""
    return Unsealed(payload)


def part_of(whole: bytes, part: bytes) -> bytes:
    """A part (one learner's state) of a decoded payload: as trusted as the whole it was taken from.

    Raises SnapshotError when `part` does not stand in `whole`.
    """
    if not isinstance(whole, Unsealed):
        return part
    if whole.find(part) < 0:
        raise SnapshotError("a part of a snapshot was not found in it")
    return Unsealed(part)


def unpickled(payload: bytes) -> Any:
    """The object that `pickle` has written into a snapshot. The only place in which driftwood unpickles.

    Raises SnapshotError for bytes that do not come from `unseal` (or `part_of` it), and for a pickle that does not load.
    """
    if not isinstance(payload, Unsealed):
        raise SnapshotError(
            "these bytes were never unsealed: a pickle is loaded only after its signature was checked"
        )
    try:
        return pickle.loads(payload)  # noqa: S301  # signed by this pipeline's own learner, see above
    except Exception as error:
        raise SnapshotError(f"the pickle of a learner does not load: {error!r}") from error


# ---- the key


def signing_key(folder: Path) -> bytes:
    """The key in `signing.key` of this folder, made at the first call (32 random bytes, mode 0600).

    Whichever of several processes comes first makes it; all get the same. Raises SnapshotError where the file is too
    short, or may be read by others than its owner.
    """
    path = folder / KEY_FILE
    if not path.exists():
        _make_key(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SnapshotError(
            f"{path} may be read by others: chmod 600 it, or remove it to have a new key made"
        )
    return checked_key(path.read_bytes(), str(path))


def checked_key(key: bytes, place: str) -> bytes:
    """The key, if it is long enough to be one."""
    if len(key) < KEY_BYTES:
        raise SnapshotError(f"the signing key in {place} has {len(key)} bytes; expected at least {KEY_BYTES}")
    return key


def key_of_setting(text: str, setting: str = "signing_key") -> bytes:
    """A signing key that is handed in as a setting (a secret that all workers share): at least 32 characters."""
    if len(text.encode()) < KEY_BYTES:
        # The value itself is a secret: it is not shown.
        raise SettingError(setting, f"({len(text)} characters)", f"at least {KEY_BYTES} characters")
    return hashlib.sha256(text.encode()).digest()


def _make_key(path: Path) -> None:
    """Written beside its place and linked into it, so that nobody ever reads half a key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first: its key is everybody's
    finally:
        draft.unlink()
