"""A radius of 0 at first."""

from sam_repro import limits
from sam_repro.rho_schedule.rho_schedule import RhoSchedule


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
