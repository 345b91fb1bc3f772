"""Intervals against scipy, verdicts against their definition, formulas against Python's own arithmetic."""

import re

import numpy as np
import pytest
from scipy import stats

from sam_repro.config import formula
from sam_repro.config.table_file import Claim, Pick
from sam_repro.table import statistic

VALUES = [3.1, 2.4, 2.9, 3.6, 2.2]


def claim(**printed):
    return Claim(**{"row": "r", "metric": "test/error_pct", "readings": {"": Pick(("c",))}} | printed)


@pytest.mark.parametrize("n", [3, 5])
def test_interval_is_students(n):
    values = VALUES[:n]
    mean, half, count = statistic.estimate(values)
    low, high = stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half, count) == pytest.approx((low, high, n))


def test_one_or_two_seeds_have_no_interval_and_none_no_estimate():
    assert statistic.estimate([2.5]) == (2.5, None, 1)
    assert statistic.estimate([2.5, 6.5]) == (4.5, None, 2)
    assert statistic.estimate([]) is None


def test_a_paired_difference_is_that_of_a_paired_t_test():
    ours, twin = dict(enumerate(VALUES)), {seed: value + 0.1 * seed**2 for seed, value in enumerate(VALUES)}
    test = stats.ttest_rel(list(ours.values()), list(twin.values())).confidence_interval(0.95)
    mean, half, n = statistic.paired(ours, twin | {9: 100.0})
    assert (mean - half, mean + half, n) == pytest.approx((test.low, test.high, 5))


@pytest.mark.parametrize(
    ("printed", "tolerance"),
    [
        ({"value": 3.5, "plus_minus": 0.1, "runs": 5}, 0.3),
        ({"value": 3.5, "plus_minus": 0.4, "runs": 5}, 0.4),
        ({"value": 3.5}, 0.6),
        ({"value": 3.5, "runs": 5}, 0.3),
        ({"value": 3.5, "plus_minus": 0.5, "spread": "sd", "runs": 20}, 0.3),
        ({"value": 3.5, "plus_minus": 2.0, "spread": "sd", "runs": 20}, stats.t.ppf(0.975, 19) * 2 / np.sqrt(20)),
        ({"value": 114.0, "metric": "sharpness/luong2024/mean_positive"}, 22.8),
    ],
)
def test_tolerance(printed, tolerance):
    assert statistic.tolerance(claim(**printed)) == pytest.approx(tolerance)


@pytest.mark.parametrize(
    ("values", "printed", "word", "delta"),
    [
        ([3.0, 3.1, 3.2], {"value": 3.4}, "match", -0.3),
        ([3.0, 3.1, 3.2], {"value": 9.0}, "differs", -5.9),
        ([2.0, 3.1, 4.2], {"value": 3.1}, "inconclusive", 0.0),
        ([3.0, 3.4, 3.8], {"value": 4.1}, "inconclusive", -0.7),
        ([3.0, 3.1], {"value": 3.1}, "provisional", -0.05),
        ([3.1], {"value": 9.0}, "provisional", -5.9),
        ([3.0, 3.1, 3.2], {"value": 3.0, "bound": "<"}, "a bound", 0.1),
        ([3.0, 3.1, 3.2], {}, "ours alone", None),
        ([], {"value": 3.0}, "—", None),
    ],
)
def test_verdicts(values, printed, word, delta):
    said = statistic.verdict(claim(**printed), values)
    assert said.word.partition(" (")[0] == word
    assert said.delta == (None if delta is None else pytest.approx(delta))


def test_the_verdicts_border_on_each_other():
    """Just inside of the tolerance it matches; just outside, with our interval on the border, it is open."""
    values = [3.0, 3.1, 3.2]
    half = statistic.estimate(values).half
    assert statistic.verdict(claim(value=3.1 + 0.599), values).word == "match"
    assert statistic.verdict(claim(value=3.1 + 0.601), values).word.startswith("inconclusive")
    assert statistic.verdict(claim(value=3.1 + 0.6 + half - 1e-6), values).word.startswith("inconclusive")
    assert statistic.verdict(claim(value=3.1 + 0.6 + half + 1e-6), values).word == "differs"


@pytest.mark.parametrize(("values", "value"), [([2.0, 3.1, 4.2], 3.1), ([2.9, 3.4, 3.9], 4.6)])
def test_so_many_seeds_more_decide_and_no_fewer(values, value):
    """With the mean and the spread that were seen, k more seeds reach a verdict and k − 1 do not."""
    (more,) = map(int, re.findall(r"inconclusive \((\d+) more", statistic.verdict(claim(value=value), values).word))
    sd, delta = np.std(values, ddof=1), abs(np.mean(values) - value)

    def decided(n):
        half = stats.t.ppf(0.975, n - 1) * sd / np.sqrt(n)
        return (delta <= 0.6 and half <= 0.6) or delta - half >= 0.6

    assert more > 0
    assert decided(len(values) + more)
    assert not decided(len(values) + more - 1)


def test_a_difference_on_the_border_is_never_decided():
    assert "over 997" in statistic.verdict(claim(value=3.7), [2.6, 3.1, 3.6]).word


def test_formulas():
    names = {"sgd": 18.8, "sam": 16.5}
    text = "100 * (sgd - sam) / sgd"
    assert formula.names(text) == {"sgd", "sam"}
    assert formula.value(text, names) == pytest.approx(100 * (18.8 - 16.5) / 18.8)
    assert formula.value("-sam + 2", names) == -14.5
    assert formula.value("1 / (sam - sam)", names) is None


@pytest.mark.parametrize("text", ["sam ** 2", "__import__('os')", "sam /", "'a'", "sam.real", "sam if sam else 1", 3])
def test_formulas_hold_nothing_else(text):
    with pytest.raises(ValueError, match="formula"):
        formula.names(text)
