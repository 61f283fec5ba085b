"""The environment that the Quix Streams peer runs in: made once, under build/, from its own lock file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.process import ROOT
from features.errors import OperatorError

LOCK = Path(__file__).parent / "quix" / "requirements.txt"
FOLDER = ROOT / "build" / "peers-quix"
MAKE_WITHIN_S = 600.0


def installed_python() -> Path | None:
    """The interpreter of the environment, or None when it is not there or was made from another lock file."""
    python, stamp = FOLDER / "bin" / "python", FOLDER / "stamp"
    made_from = stamp.read_text() if stamp.exists() else ""
    return python if python.exists() and made_from == _digest() else None


def python() -> Path:
    """The interpreter of the environment, which is made when it is not there.

    Raises:
        OperatorError: uv is missing, or could not install.
    """
    found = installed_python()
    if found is not None:
        return found
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise OperatorError(
            "the peer in Quix Streams needs uv, which `make` puts into .venv: run a make target first"
        )
    shutil.rmtree(FOLDER, ignore_errors=True)
    _run([uv, "venv", "--quiet", "--no-python-downloads", "--python", sys.executable, str(FOLDER)])
    made = FOLDER / "bin" / "python"
    _run([uv, "pip", "sync", "--quiet", "--system-certs", "--python", str(made), str(LOCK)])
    (FOLDER / "stamp").write_text(_digest())
    return made


def versions() -> dict[str, str]:
    """Of the packages that matter there."""
    lines = [line.partition("==") for line in LOCK.read_text().splitlines() if "==" in line]
    names = ("quixstreams", "confluent-kafka", "rocksdict", "orjson")
    return {name: version.partition(" ")[0] for name, _, version in lines if name in names}


def _digest() -> str:
    return hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_WITHIN_S, check=False)
    if done.returncode != 0:
        raise OperatorError(
            f"the environment of Quix Streams could not be made:\n{done.stderr.strip()[-2000:]}"
        )
