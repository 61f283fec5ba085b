"""The one way in which functions here become machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call, and keep the machine code on disk for the next process.

    No `fastmath`: it would let the compiler reorder sums, and the same rows must give the same bytes everywhere. The
    code is kept beside the source file, or in the user's cache folder when that place is read-only. Where neither can
    be written (a locked-down container) every process compiles for itself, some seconds at its first batch; Numba's
    own variable NUMBA_CACHE_DIR then names a better place.

    Numba notices a change in the file of the function that is called, not in the files of functions that this one
    calls: functions that call each other therefore stand in one file.
    """
    try:
        machine_code: Any = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # Numba's way to say that it found no folder to write to
        machine_code = njit(nogil=True)(function)
    return cast("Function", machine_code)  # called like the function that it was made of
