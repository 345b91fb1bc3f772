"""SGD: the plain gradient, whatever the base makes of it."""

from sam_repro.optimizer.rule import Rule
from sam_repro.optimizer.terms import Terms
from sam_repro.oracle import Oracle
from sam_repro.vectors import Vector


class SGD(Rule):
    """The gradient of the batch, g = ∇L(w): the base optimizer alone.

    Args:
        base: the optimizer below.

    Passes: 1. Memory: none beside the base's.
    """

    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """∇L(w)."""
        return {"g": oracle.gradient(self.params)}

    def combine(self, g: Vector) -> Vector:
        """The gradient is g."""
        return g
