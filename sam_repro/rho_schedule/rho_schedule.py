"""The radius over the run, in closed form: a function of the step and of the learning rate's factor."""

from abc import ABC, abstractmethod

from sam_repro import limits


class RhoSchedule(ABC):
    """The radius at each step (abstract).

    Args:
        warmup_epochs: epochs over which the radius rises linearly from 0, default 0.
    """

    def __init__(self, warmup_epochs: float = 0.0) -> None:
        limits.number("warmup_epochs", warmup_epochs, low=0)
        self.warmup_epochs = warmup_epochs

    @abstractmethod
    def shape(self, rho: float, factor: float) -> float:
        """The radius where the learning rate has this factor."""

    def radius(self, rho: float, step: int, steps_per_epoch: int, factor: float) -> float:
        """The radius of `step`, counted from 0.

        Args:
            rho: the configured radius, ≥ 0.
            step: counted from 0.
            steps_per_epoch: of the run.
            factor: of the learning rate at this step.
        """
        warmup = round(self.warmup_epochs * steps_per_epoch)
        rising = (step + 1) / warmup if step < warmup else 1.0
        return self.shape(rho * rising, factor)


class Constant(RhoSchedule):
    """The radius ρ, after the warm-up."""

    def shape(self, rho: float, factor: float) -> float:
        """ρ."""
        return rho


class LikeLR(RhoSchedule):
    """The radius ρ times the factor of the learning rate."""

    def shape(self, rho: float, factor: float) -> float:
        """ρ·factor."""
        return rho * factor
