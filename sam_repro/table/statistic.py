"""Means with their intervals, and what they say about a printed number."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sam_repro.config.table_file import Claim

POINTS = 0.3
SINGLE_RUN_POINTS = 0.6
SHARPNESS_SHARE = 0.2
LEAST = 3
MOST_SEEDS = 1000


class Estimate(NamedTuple):
    """A mean over n seeds with half of its 95 % t-interval.

    Fewer than 3 seeds have none: one has no spread, and that of two is 12.7 standard errors long.
    """

    mean: float
    half: float | None
    n: int


class Verdict(NamedTuple):
    """What our runs say about a claim: the word, and ours minus the printed number."""

    word: str
    delta: float | None = None


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean of some seeds; None of none."""
    if not values:
        return None
    n = len(values)
    half = _half(statistics.stdev(values), n) if n >= LEAST else None
    return Estimate(statistics.fmean(values), half, n)


def tolerance(claim: Claim) -> float:
    """How far ours may be from a printed value and still agree.

    Its own, if it has one. For sharpness 20 % of it; else the larger of its printed half-width and 0.3 points, 0.6 for
    a single run without one.
    """
    if claim.tolerance is not None:
        return claim.tolerance
    if claim.metric.startswith("sharpness/"):
        return SHARPNESS_SHARE * abs(claim.value or 0.0)
    if claim.plus_minus is None:
        return SINGLE_RUN_POINTS if claim.runs == 1 else POINTS
    sd = claim.spread == "sd" and claim.runs > 1
    return max(_half(claim.plus_minus, claim.runs) if sd else claim.plus_minus, POINTS)


def verdict(claim: Claim, values: Sequence[float]) -> Verdict:
    """The word for a claim, from our value of each seed.

    match: |Δ| ≤ tol and our half-width ≤ tol; differs: the interval of Δ (ours, ± our half-width) lies outside of ±tol;
    else inconclusive, with the number of seeds that would decide it at the spread seen. Fewer than 3 seeds are
    provisional; a bound is shown and not judged.
    """
    ours = estimate(values)
    if ours is None:
        return Verdict("—")
    if claim.value is None:
        return Verdict("ours alone")
    delta = ours.mean - claim.value
    if claim.bound:
        return Verdict("a bound", delta)
    if ours.half is None:
        return Verdict("provisional", delta)
    tol = tolerance(claim)
    if abs(delta) <= tol and ours.half <= tol:
        return Verdict("match", delta)
    if abs(delta) - ours.half > tol:
        return Verdict("differs", delta)
    more = _seeds_until(abs(tol - abs(delta)) if abs(delta) > tol else tol, statistics.stdev(values), ours.n)
    return Verdict(f"inconclusive ({more} more seed{'' if more == '1' else 's'})", delta)


def paired(ours: Mapping[int, float], twin: Mapping[int, float]) -> Estimate | None:
    """The mean over the seeds that both have of the difference, with its interval."""
    return estimate([ours[seed] - twin[seed] for seed in sorted(ours.keys() & twin.keys())])


def _half(sd: float, n: int) -> float:
    from scipy.stats import t as student  # half a second to import, which a door has no use for

    return float(student.ppf(0.975, n - 1)) * sd / math.sqrt(n)


def _seeds_until(half: float, sd: float, n: int) -> str:
    """Seeds beyond n until half of the interval is at most this, if the spread stays what it is."""
    for more in range(1, MOST_SEEDS - n + 1):
        if _half(sd, n + more) <= half:
            return str(more)
    return f"over {MOST_SEEDS - n}"
