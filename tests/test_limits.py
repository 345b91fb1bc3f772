"""Each check takes exactly what it says, and its one line says what was given and what is allowed."""

import math

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sam_repro import limits

NAN, INF = math.nan, math.inf


def message(check, value, **bounds):
    """The line that refuses the value, or None."""
    try:
        check("x", value, **bounds)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("value", "bounds", "said"),
    [
        (3, {}, None),
        (-3, {}, None),
        (2**63 - 1, {}, None),
        (2**63, {}, "x = 9223372036854775808: must be an integer of at most 63 bits"),
        (10**50, {}, "x = 10000000000000000000… (51 digits): must be an integer of at most 63 bits"),
        (0, {"low": 0}, None),
        (-1, {"low": 0}, "x = -1: must be an integer >= 0"),
        (7, {"low": 0, "high": 7}, None),
        (8, {"low": 0, "high": 7}, "x = 8: must be an integer >= 0 and <= 7"),
        (None, {"optional": True}, None),
        (None, {}, "x = null: must be an integer"),
        (0, {"low": 1, "optional": True}, "x = 0: must be an integer >= 1, or null"),
        (1.0, {}, "x = 1.0: must be an integer"),
        (True, {}, "x = true: must be an integer"),
        ("3", {}, "x = '3': must be an integer"),
        (NAN, {}, "x = nan: must be an integer"),
        ([3], {}, "x = [3]: must be an integer"),
    ],
)
def test_integer(value, bounds, said):
    assert message(limits.integer, value, **bounds) == said


@pytest.mark.parametrize(
    ("value", "bounds", "said"),
    [
        (0.5, {}, None),
        (-2, {}, None),
        (0, {"low": 0}, None),
        (-1e-300, {"low": 0}, "x = -1e-300: must be a finite number >= 0"),
        (1, {"high": 1}, None),
        (1.0000001, {"low": 0, "high": 1}, "x = 1.0000001: must be a finite number >= 0 and <= 1"),
        (5e-324, {"above": 0}, None),
        (0, {"above": 0}, "x = 0: must be a finite number > 0"),
        (-0.0, {"above": 0}, "x = -0.0: must be a finite number > 0"),
        (1, {"low": 0, "below": 1}, "x = 1: must be a finite number >= 0 and < 1"),
        (None, {"optional": True}, None),
        (None, {"low": 0}, "x = null: must be a finite number >= 0"),
        (NAN, {"optional": True}, "x = nan: must be a finite number, or null"),
        (INF, {}, "x = inf: must be a finite number"),
        (-INF, {}, "x = -inf: must be a finite number"),
        (10**300, {}, None),
        (10**400, {}, "x = 10000000000000000000… (401 digits): must be a finite number"),
        (True, {}, "x = true: must be a finite number"),
        (False, {"low": 0}, "x = false: must be a finite number >= 0"),
        ("0.5", {}, "x = '0.5': must be a finite number"),
        ("half", {}, "x = half: must be a finite number"),
        ({"a": 1}, {}, "x = {'a': 1}: must be a finite number"),
    ],
)
def test_number(value, bounds, said):
    assert message(limits.number, value, **bounds) == said


@pytest.mark.parametrize(
    ("value", "bounds", "said"),
    [
        ([0.5], {}, None),
        ((0.5, 1), {}, None),
        (np.array([0.5, 1.0]), {}, None),
        ([], {}, "x = []: must be a list of numbers, such as [0.5, 0.5]"),
        (0.5, {}, "x = 0.5: must be a list of numbers, such as [0.5, 0.5]"),
        ("0.5", {}, "x = '0.5': must be a list of numbers, such as [0.5, 0.5]"),
        (None, {}, "x = null: must be a list of numbers, such as [0.5, 0.5]"),
        ([0.5, 0], {"above": 0}, "x[1] = 0: must be a finite number > 0"),
        ([[0.5]], {}, "x[0] = [0.5]: must be a finite number"),
        ([NAN], {}, "x[0] = nan: must be a finite number"),
        ([0.5, 1], {"length": 2}, None),
        ([0.5], {"length": 2}, "x = [0.5]: must be a list of 2 numbers"),
        (np.ones(3), {"length": 2, "low": 0}, "x = [1.0, 1.0, 1.0]: must be a list of 2 numbers"),
    ],
)
def test_numbers(value, bounds, said):
    assert message(limits.numbers, value, **bounds) == said


@pytest.mark.parametrize(
    ("value", "bounds", "said"),
    [
        ([1, 4], {"low": 1, "high": 4}, None),
        ((2,), {}, None),
        ([], {}, "x = []: must be a list of integers, such as [1, 2]"),
        (1, {}, "x = 1: must be a list of integers, such as [1, 2]"),
        ("12", {}, "x = '12': must be a list of integers, such as [1, 2]"),
        ([1, 5], {"high": 4}, "x[1] = 5: must be an integer <= 4"),
        ([1.0], {}, "x[0] = 1.0: must be an integer"),
        ([1, 2, 1], {}, "x = [1, 2, 1]: must be distinct"),
    ],
)
def test_integers(value, bounds, said):
    assert message(limits.integers, value, **bounds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, None),
        (False, None),
        (1, "x = 1: must be true or false"),
        (0, "x = 0: must be true or false"),
        ("true", "x = true: must be true or false"),
        (None, "x = null: must be true or false"),
        ([True], "x = [true]: must be true or false"),
    ],
)
def test_boolean(value, said):
    assert message(limits.boolean, value) == said


@pytest.mark.parametrize(
    ("value", "allowed", "said"),
    [
        ("mean", ("mean", "first"), None),
        ("last", ("mean", "first"), "x = last: must be one of mean, first"),
        ("", ("mean", "first"), "x = '': must be one of mean, first"),
        (None, ("mean",), "x = null: must be one of mean"),
        (["mean"], ("mean",), "x = [mean]: must be one of mean"),
        (2, (2, "inf"), None),
        (1, (1, 2), None),
        (True, (1, 2), "x = true: must be one of 1, 2"),
        (1, (True, "all"), "x = 1: must be one of true, all"),
    ],
)
def test_choice(value, allowed, said):
    assert message(limits.choice, value, allowed=allowed) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.5, None),
        (INF, None),
        ("inf", None),
        (1, "x = 1: must be a finite number > 1, or inf"),
        (NAN, "x = nan: must be a finite number > 1, or inf"),
    ],
)
def test_order(value, said):
    assert message(limits.order, value) == said


@pytest.mark.parametrize("check", [limits.integer, limits.number, limits.boolean])
def test_a_number_of_another_library_is_no_number_of_pythons(check):
    for value in (np.float32(0.5), np.int64(1), np.bool_(True)):
        kind = type(value).__name__
        assert message(check, value) == f"x = {value}: is a numpy.{kind}; give the number in it, by its .item()"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, None),
        ("conv.*weight", None),
        ("", "x = '': must be a pattern of names, or null"),
        (3, "x = 3: must be a pattern of names, or null"),
        ("(", "x = '(': must be a pattern of names (missing ), unterminated subpattern at position 0), or null"),
    ],
)
def test_pattern(value, said):
    assert message(limits.pattern, value) == said


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 3, -2, 0.1, 1e-300, 1e30),
        *("sam", "no_norm", "cuda:0", "../x", "a b", "", "0.1", "null-ish", "it's", "a,b", "x=1", "[1]"),
        *([], [1, 2.5], ["a", None, [True]]),
    ],
)
def test_a_value_is_shown_as_a_command_line_spells_it(value):
    override = OverridesParser.create().parse_override(f"x={limits.shown(value)}")
    assert not override.is_sweep_override()
    assert override.value() == value
    assert type(override.value()) is type(value)


def test_a_number_with_its_noun():
    assert [limits.counted(n, "step") for n in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
    assert [limits.counted(n, "pass") for n in (1, 1.5)] == ["1 pass", "1.5 passes"]
