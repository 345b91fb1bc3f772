"""Learning-rate schedules in closed form: the factor of step t is a function of t, and of nothing that moves."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from sam_repro import limits


class Schedule(ABC):
    """The factor on the learning rate at each step (abstract).

    Args:
        per: "step", or "epoch": every step of an epoch has the factor of its first step.
        warmup_epochs: length of a linear warm-up to 1, in epochs, default 0; the schedule's shape follows after it.
    """

    def __init__(self, per: str = "step", warmup_epochs: float = 0.0) -> None:
        limits.choice("per", per, ("step", "epoch"))
        limits.number("warmup_epochs", warmup_epochs, low=0)
        self.per = per
        self.warmup_epochs = warmup_epochs

    @abstractmethod
    def shape(self, position: int, length: int) -> float:
        """The factor at `position`, counted in steps after the warm-up, of `length` steps."""

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The factor of `step`, counted from 0, in a run of epochs·steps_per_epoch steps."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return (step + 1) / warmup
        if self.per == "epoch":
            step -= step % steps_per_epoch
        return self.shape(max(step - warmup, 0), epochs * steps_per_epoch - warmup)


class Cosine(Schedule):
    """Half a cosine from 1 to `final`: final + (1 − final)·(1 + cos πt/T)/2.

    Args:
        per: see `Schedule`.
        warmup_epochs: see `Schedule`.
        final: the factor that step T would have, default 0.
    """

    def __init__(self, per: str = "step", warmup_epochs: float = 0.0, final: float = 0.0) -> None:
        limits.number("final", final, low=0, high=1)
        super().__init__(per, warmup_epochs)
        self.final = final

    def shape(self, position: int, length: int) -> float:
        """Half a cosine."""
        return self.final + (1 - self.final) * (0.5 + 0.5 * math.cos(math.pi * position / length))


class MultiStep(Schedule):
    """A factor γ at each milestone.

    Args:
        milestones: shares of the schedule's length, in (0, 1), rising.
        gamma: γ, in (0, 1].
        per: see `Schedule`.
        warmup_epochs: see `Schedule`.
    """

    def __init__(
        self, milestones: Sequence[float], gamma: float, per: str = "step", warmup_epochs: float = 0.0
    ) -> None:
        limits.numbers("milestones", milestones, above=0, below=1)
        limits.number("gamma", gamma, above=0, high=1)
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"milestones = {list(milestones)}: must be rising")
        super().__init__(per, warmup_epochs)
        self.milestones = list(milestones)
        self.gamma = gamma

    def shape(self, position: int, length: int) -> float:
        """γ to the power of the milestones passed."""
        return self.gamma ** sum(position >= round(milestone * length) for milestone in self.milestones)


class Constant(Schedule):
    """The factor 1, after the warm-up."""

    def shape(self, position: int, length: int) -> float:
        """Always 1."""
        return 1.0
