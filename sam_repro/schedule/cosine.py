"""Half a cosine."""

import math

from sam_repro import limits
from sam_repro.schedule.schedule import Schedule


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
