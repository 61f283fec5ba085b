"""Snapshots: nothing foreign is read, nothing unsigned is unpickled, and the key is made once."""

from __future__ import annotations

import pickle
import stat
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from features.errors import SettingError, SnapshotError
from models import snapshot
from models.snapshot import (
    KEY_FILE,
    Unsealed,
    key_of_setting,
    made_here,
    pack,
    part_of,
    read_snapshot,
    seal,
    signing_key,
    unpack,
    unpickled,
    unseal,
)

KEY = b"k" * 32


def sealed(payload: bytes = b"weights", kind: str = "scoring", features: str = "f00d") -> bytes:
    return seal(kind, 41, features, payload, KEY)


def test_what_was_sealed_is_unsealed_with_its_version():
    read = read_snapshot(sealed(), "scoring", "f00d", KEY)
    assert (read.version, read.payload) == ("41", b"weights")


def test_every_altered_byte_is_refused():
    data = sealed()
    for at in range(len(data)):
        altered = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(SnapshotError):
            unseal(altered, "scoring", "f00d", KEY)


def test_every_shortened_snapshot_is_refused():
    data = sealed()
    for length in range(len(data)):
        with pytest.raises(SnapshotError):
            unseal(data[:length], "scoring", "f00d", KEY)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickle.dumps({"weights": 1}), "is unsigned"),
        (b"", "is unsigned"),
        (sealed()[:40], "was cut short"),
        (seal("scoring", 41, "f00d", b"weights", b"x" * 32), "signed with another key"),
        (sealed(b"weights")[:-40] + b"w" + sealed(b"weights")[-39:], "was altered"),
        (sealed(kind="state"), "a state snapshot stands where a scoring snapshot belongs"),
        (sealed(features="beef"), "was learnt on other features"),
    ],
)
def test_each_refusal_has_its_own_words(data, words):
    with pytest.raises(SnapshotError, match=words):
        unseal(data, "scoring", "f00d", KEY)


def test_another_format_is_refused_before_the_signature_is_looked_at(monkeypatch):
    monkeypatch.setattr(snapshot, "FORMAT", 2)
    data = sealed()
    monkeypatch.undo()
    with pytest.raises(SnapshotError, match="has format 2, this driftwood reads 1"):
        unseal(data, "scoring", "f00d", KEY)


class Trap:
    """Unpickling it runs a program, which leaves a mark."""

    def __reduce__(self):
        return exec, ("import sys; sys.sprung = True",)


def test_a_pickle_is_loaded_only_after_its_signature_was_checked(monkeypatch):
    monkeypatch.setattr(sys, "sprung", False, raising=False)
    trap = pickle.dumps(Trap())
    for data in (trap, sealed(trap), sealed(trap)[:-1] + b"?"):
        with pytest.raises(SnapshotError):
            unpickled(data)
        with pytest.raises(SnapshotError):
            unpickled(unseal(data, "state", "f00d", KEY))
    assert not vars(sys)["sprung"]
    unpickled(unseal(sealed(trap), "scoring", "f00d", KEY))
    assert vars(sys)["sprung"]


def test_a_part_is_trusted_as_much_as_the_whole_it_was_taken_from():
    inner = pickle.dumps([1, 2])
    payload = unseal(sealed(pack({"inner": inner}, {})), "scoring", "f00d", KEY)
    fields, _ = unpack(payload)
    assert unpickled(part_of(payload, fields["inner"])) == [1, 2]
    with pytest.raises(SnapshotError, match="never unsealed"):
        unpickled(part_of(bytes(payload), fields["inner"]))
    with pytest.raises(SnapshotError, match="was not found in it"):
        part_of(payload, pickle.dumps([3]))


def test_a_pickle_that_does_not_load_is_a_snapshot_error():
    with pytest.raises(SnapshotError, match="does not load"):
        unpickled(made_here(b"no pickle"))


def test_arrays_come_back_bit_for_bit():
    arrays = {
        "a": np.array([[0.1, np.nan, -0.0, np.inf]]),
        "b": np.arange(3, dtype=np.int32),
        "c": np.zeros((0, 4)),
    }
    fields, found = unpack(pack({"x": [1, "ä"]}, arrays))
    assert fields == {"x": [1, "ä"]}
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes()
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


@pytest.mark.parametrize(
    "packed",
    [b"", b"\xc1", pack({}, {"a": np.array(["text"])}), pack({}, {"a": np.array([None])})],
    ids=["nothing", "no MessagePack", "texts", "objects"],
)
def test_what_no_learner_packs_is_refused(packed):
    with pytest.raises(SnapshotError, match="not what a learner packs"):
        unpack(packed)


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path):
    folder = tmp_path / "new"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: signing_key(folder), range(32)))
    assert len(keys) == 1 and len(keys.pop()) == 32
    assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [KEY_FILE]


def test_a_key_that_others_may_read_is_refused(tmp_path):
    signing_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(SnapshotError, match="chmod 600"):
        signing_key(tmp_path)


def test_a_short_key_is_refused(tmp_path):
    signing_key(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(SnapshotError, match="has 5 bytes; expected at least 32"):
        signing_key(tmp_path)


def test_a_key_that_is_a_setting_is_never_shown():
    with pytest.raises(SettingError, match=r"6 characters") as error:
        key_of_setting("secret")
    assert "secret" not in str(error.value)
    assert len(key_of_setting("s" * 32)) == 32


def test_only_unsealing_gives_an_unsealed_payload():
    assert isinstance(unseal(sealed(), "scoring", "f00d", KEY), Unsealed)
    assert not isinstance(sealed(), Unsealed)
