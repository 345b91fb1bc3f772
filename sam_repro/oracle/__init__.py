"""The loss as a function of the weights."""

from sam_repro.oracle.joint import Joint
from sam_repro.oracle.oracle import Criterion, Mean, Objective, Oracle, Reseed, Term, drawn_noise, reseed
from sam_repro.oracle.statistics import Statistics

__all__ = ["Criterion", "Joint", "Mean", "Objective", "Oracle", "Reseed", "Statistics", "Term", "drawn_noise", "reseed"]
