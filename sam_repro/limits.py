"""Limits of values: one line that says what was given and what is allowed."""

import math
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any


def integer(name: str, value: Any, low: int | None = None, high: int | None = None, optional: bool = False) -> None:
    """Refuse what is not an integer in [low, high]; `optional` also allows None."""
    if optional and value is None:
        return
    _refuse_boxed(name, value)
    if isinstance(value, bool) or not isinstance(value, int) or not _inside(value, low, high):
        raise ValueError(f"{name} = {shown(value)}: must be an integer{_range(low, high)}{_or_null(optional)}")
    if abs(value) >= 2**63:
        raise ValueError(f"{name} = {shown(value)}: must be an integer of at most 63 bits")


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
    _refuse_boxed(name, value)
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max  # neither NaN, nor infinite, nor an integer that no float can be
        and _inside(value, low, high)
        and (above is None or value > above)
        and (below is None or value < below)
    )
    if not fits:
        allowed = _range(low, high, above, below)
        raise ValueError(f"{name} = {shown(value)}: must be a finite number{allowed}{_or_null(optional)}")


def numbers(name: str, value: Any, length: int | None = None, **limits: Any) -> None:
    """Refuse what is not a non-empty list, of `length` if that is told, of numbers within the limits of `number`."""
    if isinstance(value, str) or not isinstance(value, Iterable) or not (items := list(value)):
        raise ValueError(f"{name} = {shown(value)}: must be a list of numbers, such as [0.5, 0.5]")
    for index, item in enumerate(items):
        number(f"{name}[{index}]", item, **limits)
    if length not in (None, len(items)):
        raise ValueError(f"{name} = {shown(items)}: must be a list of {length} numbers")


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
    _refuse_boxed(name, value)
    if not isinstance(value, bool):
        raise ValueError(f"{name} = {shown(value)}: must be true or false")


def choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse what is not one of the allowed values."""
    if value not in allowed or isinstance(value, bool) != isinstance(allowed[allowed.index(value)], bool):
        raise ValueError(f"{name} = {shown(value)}: must be one of {', '.join(map(shown, allowed))}")


def order(name: str, value: Any) -> None:
    """Refuse what is not the order p of a norm: a number > 1, or infinity, also as a text."""
    if value not in (math.inf, "inf"):
        try:
            number(name, value, above=1)
        except ValueError as error:
            raise ValueError(f"{error}, or inf") from None


def pattern(name: str, value: Any) -> None:
    """Refuse what is neither None nor a regular expression."""
    if value is None:
        return
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} = {shown(value)}: must be a pattern of names, or null")
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{name} = {shown(value)}: must be a pattern of names ({error}), or null") from None


LONGEST = 500  # characters of a value in a message
natural = partial(integer, low=0)
positive = partial(integer, low=1)
period = partial(integer, low=1, high=1_000_000)
count = partial(integer, low=1, high=10_000)  # of what is computed one after the other: more would never end
share = partial(number, low=0, high=1)
# What the top level of a configuration and a constructor both take.
seed = partial(integer, low=0, high=2**32 - 1)  # what NumPy's frozen streams take
radius = partial(number, low=0)
weight_decay = partial(number, low=0)
shuffle_buffer = partial(positive, optional=True)
weight_decay_on = partial(choice, allowed=("all", "no_norm_no_bias"))
batch_norm_statistics = partial(choice, allowed=("mean", "first", "both"))
parts = partial(choice, allowed=("sequence", "branches"))
noise_kind = partial(choice, allowed=("uniform", "symmetric", "asymmetric"))
diagnostics = partial(choice, allowed=("standard", "loss", "drift"))
wandb = partial(choice, allowed=("auto", "online", "offline", "disabled"))


def counted(number: float, noun: str) -> str:
    """The number with its noun: 1 step, 2 steps, 1,280 passes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def shown(value: Any) -> str:
    """The value as a command line would spell it; a text that is not one plain word in quotes, a long one cut."""
    text = _spell(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


def _spell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_spell, value))}]"
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"{str(value)[:20]}… ({len(str(abs(value)))} digits)"
    return repr(value) if isinstance(value, str) and not value.isidentifier() else str(value)


def _refuse_boxed(name: str, value: Any) -> None:
    """Refuse a number of NumPy or torch, which looks like one of Python's."""
    if hasattr(value, "item") and not isinstance(value, int | float):
        kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
        raise ValueError(f"{name} = {shown(value)}: is a {kind}; give the number in it, by its .item()")


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
