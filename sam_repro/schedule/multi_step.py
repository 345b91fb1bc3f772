"""Steps down."""

from collections.abc import Sequence

from sam_repro import limits
from sam_repro.schedule.schedule import Schedule


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
        try:
            limits.numbers("milestones", milestones, above=0, below=1)
        except ValueError as error:
            raise ValueError(f"{error}, a share of the run: 0.5 is the middle") from None
        limits.number("gamma", gamma, above=0, high=1)
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"milestones = {list(milestones)}: must be rising")
        super().__init__(per, warmup_epochs)
        self.milestones = list(milestones)
        self.gamma = gamma

    def shape(self, position: int, length: int) -> float:
        """γ to the power of the milestones passed."""
        return self.gamma ** sum(position >= round(milestone * length) for milestone in self.milestones)
