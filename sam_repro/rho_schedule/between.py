"""A radius that goes linearly with the learning rate."""

from sam_repro import limits
from sam_repro.rho_schedule.rho_schedule import RhoSchedule


class Between(RhoSchedule):
    """A radius that goes linearly with the learning rate: ρ where that has its full value, `low` where it would be 0.

    ρ_t = low + (ρ − low)·lr_t/lr, as GSAM has it.

    Args:
        low: ≥ 0; a run takes none above ρ.
    """

    def __init__(self, low: float) -> None:
        limits.number("low", low, low=0)
        super().__init__()
        self.low = low

    def shape(self, rho: float, factor: float) -> float:
        """Low + (ρ − low)·factor."""
        return self.low + (rho - self.low) * factor
