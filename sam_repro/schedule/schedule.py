"""Learning-rate schedules in closed form: the factor of step t is a function of t, and of nothing that moves."""

from abc import ABC, abstractmethod

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


class Constant(Schedule):
    """The factor 1, after the warm-up."""

    def shape(self, position: int, length: int) -> float:
        """Always 1."""
        return 1.0
