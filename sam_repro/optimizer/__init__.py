"""Rules: each turns one batch into one gradient, one paper in one small file."""

from sam_repro.optimizer.asam import ASAM
from sam_repro.optimizer.groups import parameter_groups
from sam_repro.optimizer.rule import Observation, Rule, TwoPass
from sam_repro.optimizer.sam import SAM
from sam_repro.optimizer.sgd import SGD

__all__ = ["ASAM", "SAM", "SGD", "Observation", "Rule", "TwoPass", "parameter_groups"]
