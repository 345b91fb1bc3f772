"""The loss as a function of the weights."""

from sam_repro.oracle.branches import Branches
from sam_repro.oracle.buffers import Buffers, Mean
from sam_repro.oracle.joint import Joint
from sam_repro.oracle.oracle import (
    Auxiliary,
    Criterion,
    Objective,
    Oracle,
    Reseed,
    Term,
    draw_noise,
    reseed,
    take_gradients,
)

__all__ = [
    "Auxiliary",
    "Branches",
    "Buffers",
    "Criterion",
    "Joint",
    "Mean",
    "Objective",
    "Oracle",
    "Reseed",
    "Term",
    "draw_noise",
    "reseed",
    "take_gradients",
]
