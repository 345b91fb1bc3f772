"""What is still to pay: passes as the rules declare them, at the speed of runs on this machine."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sam_repro.config.schema import Resolved, flat
from sam_repro.errors import UserError
from sam_repro.table.runs import Run

PRODUCT = 3.5
"""Passes that a Hessian or Gauss–Newton product takes as long as, about."""

SPEED = (
    "choices.dataset",
    "choices.architecture",
    "batch_size",
    "m",
    "precision",
    "channels_last",
    "compile",
    "threads",
)
"""Keys on which the time of a pass depends."""


class Price(NamedTuple):
    """Passes, products, and their seconds, None where no run here tells how long a pass takes."""

    passes: float | None
    products: float | None
    seconds: float | None

    def times(self, runs: int) -> "Price":
        """The price of so many runs."""
        return Price(*(None if part is None else part * runs for part in self))

    def __add__(self, other: object) -> "Price":
        """The sum of two prices. A part that is unknown in one is unknown in the sum."""
        assert isinstance(other, Price)
        pairs = zip(self, other, strict=True)
        return Price(*(None if a is None or b is None else a + b for a, b in pairs))

    def __str__(self) -> str:
        if self.passes is None:
            return "passes unknown: dataset.train_images is not set"
        words = f"{self.passes:,} passes" + (f", {self.products:,} products" if self.products else "")
        return f"{words}, {_duration(self.seconds)}"


def prices(configs: Mapping[str, Resolved], runs: Sequence[Run]) -> tuple[dict[str, Price], dict[str, str]]:
    """The price of one run of each configuration, by name; and of those that cannot be run here, why."""
    if not configs:
        return {}, {}
    from sam_repro.run import build, numerics

    speeds = _speeds(runs)
    found, refused = {}, {}
    for name, config in configs.items():
        try:
            resolved = numerics.with_numerics(config)
            cost = build.declared_cost(config)
        except UserError as error:
            refused[name] = str(error)
            continue
        passes, products = (None, None) if cost is None else (cost.passes, cost.products)
        speed = speeds.get(_key(resolved))
        seconds = None if speed is None or passes is None else speed * (passes + PRODUCT * (products or 0))
        found[name] = Price(passes, products, seconds)
    return found, refused


def _speeds(runs: Sequence[Run]) -> dict[tuple[Any, ...], float]:
    """Seconds of a pass, by what it depends on: the fastest of the runs on this machine."""
    speeds: dict[tuple[Any, ...], float] = {}
    for run in runs:
        cost = run.result["cost"]
        if run.result["environment"]["host"] == platform.node() and cost["passes"]:
            seconds = cost["seconds"] / (cost["passes"] + PRODUCT * cost["products"])
            key = _key(run.config)
            speeds[key] = min(seconds, speeds.get(key, seconds))
    return speeds


def _key(config: Resolved) -> tuple[Any, ...]:
    leaves = flat(config)
    return (*(leaves.get(key) for key in SPEED), str(leaves["device"]).partition(":")[0])


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not timed here yet"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {seconds:.0f} s"
