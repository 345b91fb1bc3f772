"""What `backward` leaves for the update."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sam_repro.vectors import Vector


@dataclass(frozen=True)
class Left:
    """What a rule will remember of a batch once its gradient is taken: a batch that is dropped leaves no trace.

    Args:
        step: the step that the gradient is of.
        vectors: what `remember` takes, by name; not written by whoever clips the gradient.
        examples: what `remember_examples` takes; None where the rule needs no rows.
    """

    step: int
    vectors: dict[str, Vector]
    examples: tuple[Tensor, Tensor] | None


def taken_by(remember: Callable[..., None], vectors: dict[str, Vector]) -> dict[str, Vector]:
    """Of the vectors those that the function has an argument for."""
    arguments = inspect.signature(remember).parameters.values()
    if any(x.kind is x.VAR_KEYWORD for x in arguments):
        return vectors
    return {x.name: vectors[x.name] for x in arguments if x.name in vectors}
