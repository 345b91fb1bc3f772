"""Limits of values: one line that says what was given and what is allowed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any


def integer(name: str, value: Any, low: int | None = None, high: int | None = None, optional: bool = False) -> None:
    """Refuse what is not an integer in [low, high]; `optional` also allows None."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not _inside(value, low, high):
        raise ValueError(f"{name} = {shown(value)}: must be an integer{_range(low, high)}{_or_null(optional)}")


def number(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    optional: bool = False,
) -> None:
    """Refuse what is not a finite number in [low, high], or in (above, below); `optional` also allows None."""
    if optional and value is None:
        return
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and _inside(value, low, high)
        and (above is None or value > above)
        and (below is None or value < below)
    )
    if not fits:
        allowed = _range(low, high, above, below)
        raise ValueError(f"{name} = {shown(value)}: must be a finite number{allowed}{_or_null(optional)}")


def numbers(name: str, value: Any, **limits: Any) -> None:
    """Refuse what is not a non-empty list of numbers within the limits of `number`."""
    if isinstance(value, str) or not isinstance(value, Iterable) or not (items := list(value)):
        raise ValueError(f"{name} = {shown(value)}: must be a list of numbers, such as [0.5, 0.5]")
    for index, item in enumerate(items):
        number(f"{name}[{index}]", item, **limits)


def integers(name: str, value: Any, **limits: Any) -> None:
    """Refuse what is not a non-empty list of distinct integers within the limits of `integer`."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name} = {shown(value)}: must be a list of integers, such as [1, 2]")
    for index, item in enumerate(value):
        integer(f"{name}[{index}]", item, **limits)
    if len(set(value)) < len(value):
        raise ValueError(f"{name} = {shown(value)}: must be distinct")


def boolean(name: str, value: Any) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} = {shown(value)}: must be true or false")


def choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse what is not one of the allowed values."""
    if value not in allowed or isinstance(value, bool) != isinstance(allowed[allowed.index(value)], bool):
        raise ValueError(f"{name} = {shown(value)}: must be one of {', '.join(map(shown, allowed))}")


def shown(value: Any) -> str:
    """The value as a command line would spell it; a text that is not one plain word in quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return repr(value) if isinstance(value, str) and not value.isidentifier() else str(value)


def _inside(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _range(low: float | None, high: float | None, above: float | None = None, below: float | None = None) -> str:
    bounds = [
        f"{sign} {bound}"
        for sign, bound in ((">", above), (">=", low), ("<", below), ("<=", high))
        if bound is not None
    ]
    return f" {' and '.join(bounds)}" if bounds else ""


def _or_null(optional: bool) -> str:
    return ", or null" if optional else ""
