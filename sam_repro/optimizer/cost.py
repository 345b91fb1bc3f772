"""What a step of a rule costs."""

from dataclasses import dataclass

from sam_repro import limits


@dataclass(frozen=True)
class Cost:
    """What a step costs in units of the whole batch; a part of the batch is a fraction.

    Args:
        passes: forward + backward passes.
        forwards: forwards alone.
        products: Hessian or Gauss–Newton products.
    """

    passes: float = 1
    forwards: float = 0
    products: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.passes + other.passes, self.forwards + other.forwards, self.products + other.products)

    def times(self, steps: int) -> "Cost":
        """The cost of so many steps like this one."""
        return Cost(self.passes * steps, self.forwards * steps, self.products * steps)

    def __str__(self) -> str:
        told = {"pass": self.passes, "forward": self.forwards, "product": self.products}
        return ", ".join(limits.counted(number, kind) for kind, number in told.items() if number or kind == "pass")
