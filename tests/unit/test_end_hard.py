"""A process whose taking down hangs is ended, and says why it had to end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from features.errors import OperatorError

HANGS = """
import time
from streams.run import end_hard_after
end_hard_after(0.01, {reason!r})
time.sleep(60)
"""


@pytest.mark.parametrize("reason", ["no progress for 5 s", ""])
def test_the_reason_of_the_end_is_said_although_the_taking_down_hangs(reason):
    program = [sys.executable, "-c", HANGS.format(reason=reason)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=55, check=False)
    assert ended.returncode == OperatorError.exit_code
    assert ended.stderr == (f"driftwood: {reason}\n" if reason else "")
