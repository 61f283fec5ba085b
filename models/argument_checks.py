"""Checks of what a pipeline file hands to a declaration: each names the place, the value seen, and what was expected."""

from __future__ import annotations

from features.errors import PipelineError


def check_whole(place: str, value: object, least: int, most: int | None = None) -> None:
    """Raises PipelineError unless it is a whole number from `least` to `most`.

    Example:
        >>> check_whole("tree, max_depth", 4, 1, 12)
        >>> check_whole("tree, max_depth", 99, 1, 12)
        Traceback (most recent call last):
        features.errors.PipelineError: tree, max_depth: 99; expected a whole number, at least 1, at most 12
    """
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not whole or (most is not None and value > most):  # type: ignore[operator]  # a whole number, see the line above
        expected = f"a whole number, at least {least}" + (f", at most {most}" if most is not None else "")
        raise PipelineError(place, repr(value), expected)


def check_switch(place: str, value: object) -> None:
    """Raises PipelineError unless it is True or False."""
    if not isinstance(value, bool):
        raise PipelineError(place, repr(value), "True or False")


def check_number(place: str, value: object, *, zero: bool = False) -> None:
    """Raises PipelineError unless it is a number above 0 (`zero`: or 0) and below a million."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < 1e6 or (value == 0 and not zero):  # type: ignore[operator]  # a number, see above
        raise PipelineError(place, repr(value), "a number, 0 or more" if zero else "a number above 0")
