"""The loss as a function of the weights."""

from sam_repro.oracle.oracle import Criterion, Mean, Objective, Oracle, Reseed, Term, drawn_noise, reseed
from sam_repro.oracle.statistics import Statistics

__all__ = ["Criterion", "Mean", "Objective", "Oracle", "Reseed", "Statistics", "Term", "drawn_noise", "reseed"]
