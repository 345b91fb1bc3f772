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


class Between(RhoSchedule):
    """A radius that goes linearly with the learning rate: ρ where that has its full value, `low` where it would be 0.

    ρ_t = low + (ρ − low)·lr_t/lr, as GSAM has it.

    Args:
        low: ≥ 0.
    """

    def __init__(self, low: float) -> None:
        limits.number("low", low, low=0)
        super().__init__()
        self.low = low

    def shape(self, rho: float, factor: float) -> float:
        """Low + (ρ − low)·factor."""
        return self.low + (rho - self.low) * factor


class Late(RhoSchedule):
    """The radius 0 in the first epochs, and ρ from then on: the base alone goes first, at the price of the rule.

    Args:
        epochs: that go without, ≥ 0; default 1.

    Reference:
        Becker et al. 2024, code: 8 epochs for vision transformers on ImageNet.
    """

    def __init__(self, epochs: float = 1.0) -> None:
        limits.number("epochs", epochs, low=0)
        super().__init__()
        self.epochs = epochs

    def radius(self, rho: float, step: int, steps_per_epoch: int, factor: float) -> float:
        """0 in the first epochs."""
        is_late = step >= round(self.epochs * steps_per_epoch)
        return super().radius(rho, step, steps_per_epoch, factor) if is_late else 0.0

    def shape(self, rho: float, factor: float) -> float:
        """ρ."""
        return rho
