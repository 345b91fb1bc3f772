"""What is still to pay: passes as the rules declare them, at the speed of runs on this machine."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sam_repro.config.schema import OPEN, Resolved, flat
from sam_repro.errors import UserError
from sam_repro.table.runs import Run

if TYPE_CHECKING:
    from sam_repro.optimizer import Cost

IN_PASSES = {"passes": 1.0, "forwards": 1 / 3, "products": 3.5}
"""Passes that each takes as long as, about; a product is one of the Hessian or of the Gauss–Newton matrix."""

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
    """What the rule costs, and in seconds; None where the data are not counted, or no run here tells a pass's time."""

    cost: "Cost | None"
    seconds: float | None

    def times(self, runs: int) -> "Price":
        """The price of so many runs."""
        cost, seconds = self
        return Price(cost and cost.times(runs), None if seconds is None else seconds * runs)

    def __add__(self, other: object) -> "Price":
        """The sum of two prices. A part that is unknown in one is unknown in the sum."""
        assert isinstance(other, Price)
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        seconds = None if self.seconds is None or other.seconds is None else self.seconds + other.seconds
        return Price(cost, seconds)

    def __str__(self) -> str:
        if self.cost is None:
            return "passes unknown: dataset.train_images is not set"
        return f"{self.cost}, {_duration(self.seconds)}"


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
            cost = build.declared_cost(config | _some_radius(config))
        except UserError as error:
            refused[name] = str(error)
            continue
        speed = speeds.get(_key(resolved))
        found[name] = Price(
            cost, None if speed is None or cost is None else speed * _in_passes(dataclasses.asdict(cost))
        )
    return found, refused


def _some_radius(config: Resolved) -> Resolved:
    """A radius where a cell leaves it open, because no rule's cost hangs on it."""
    return {"optimizer": config["optimizer"] | {"rho": 0.0}} if config["rho"] == OPEN else {}


def _speeds(runs: Sequence[Run]) -> dict[tuple[Any, ...], float]:
    """Seconds of a pass, by what it depends on: the fastest of the runs on this machine."""
    speeds: dict[tuple[Any, ...], float] = {}
    for run in runs:
        cost = run.result["cost"]
        if run.result["environment"]["host"] == platform.node() and cost["passes"]:
            seconds = cost["seconds"] / _in_passes(cost)
            key = _key(run.config)
            speeds[key] = min(seconds, speeds.get(key, seconds))
    return speeds


def _in_passes(cost: Mapping[str, Any]) -> float:
    return sum(weight * cost.get(kind, 0) for kind, weight in IN_PASSES.items())


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
