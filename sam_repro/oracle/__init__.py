"""The loss as a function of the weights."""

from sam_repro.oracle.buffers import Buffers
from sam_repro.oracle.oracle import Criterion, Mean, Objective, Oracle, Reseed, Term, drawn_noise, reseed

__all__ = ["Buffers", "Criterion", "Mean", "Objective", "Oracle", "Reseed", "Term", "drawn_noise", "reseed"]
