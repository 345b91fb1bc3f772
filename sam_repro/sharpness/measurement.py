"""A measurement: numbers and, never apart from them, all that must be said beside them."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROTOCOL = (
    "data",
    "split",
    "examples",
    "batch_size",
    "augmentation",
    "mode",
    "loss",
    "label_smoothing",
    "weight_decay",
    "dtype",
    "weights",
    "seed",
    "checkpoint",
    "weights_sha256",
)
"""What every protocol says; a measure adds its own keys, and `outcome`: residuals, products, and the like."""


class Unmeasurable(Exception):
    """What is asked for has no value here; the message says why and what to change."""


@dataclass(frozen=True)
class Measurement:
    """Values of one measure with their protocol; without one there is no measurement, and nothing else is recorded.

    Args:
        measure: its name.
        values: finite numbers. An eigenvalue that has not converged stands under a name that ends in `_unconverged`.
        protocol: all that must be said beside them; `PROTOCOL` and more. What was found on the way is in its `outcome`.
        arrays: lists of numbers, such as a density; null for what is not finite.
        draw: draws the arrays into a figure; None where there is nothing to see.

    Raises:
        ValueError: if the protocol lacks something, or there is no value, or one is not a finite number.
    """

    measure: str
    values: dict[str, float]
    protocol: dict[str, Any]
    arrays: dict[str, Any] = field(default_factory=dict)
    draw: "Callable[[Figure], None] | None" = None

    def __post_init__(self) -> None:
        if missing := [key for key in PROTOCOL if key not in self.protocol]:
            raise ValueError(f"{self.measure}: the protocol does not say {', '.join(missing)}")
        if not self.values:
            raise ValueError(f"{self.measure}: there is no value")
        for name, value in self.values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{self.measure}/{name} = {value}: must be a finite number")

    def record(self) -> dict[str, Any]:
        """What is written: plain values for JSON."""
        arrays = {"arrays": self.arrays} if self.arrays else {}
        return {"values": self.values, "protocol": self.protocol} | arrays

    @property
    def digest(self) -> str:
        """8 hex digits of the protocol, without its outcome: the same for the same measurement done again."""
        settled = {key: value for key, value in self.protocol.items() if key != "outcome"}
        return hashlib.sha256(json.dumps(settled, sort_keys=True, allow_nan=False).encode()).hexdigest()[:8]

    @property
    def stem(self) -> str:
        """The name of its files: measure, checkpoint, digest."""
        return f"{self.measure.replace('/', '.')}-{self.protocol['checkpoint']}-{self.digest}"
