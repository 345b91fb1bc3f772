"""Rules: each turns one batch into one gradient, one paper in one small file."""

from sam_repro.optimizer.asam import ASAM
from sam_repro.optimizer.closure import ByClosure
from sam_repro.optimizer.cost import Cost
from sam_repro.optimizer.friendly_sam import FriendlySAM
from sam_repro.optimizer.groups import parameter_groups
from sam_repro.optimizer.gsam import GSAM
from sam_repro.optimizer.look_layersam import LookLayerSAM
from sam_repro.optimizer.looksam import LookSAM
from sam_repro.optimizer.mesa import MESA
from sam_repro.optimizer.momentum_sam import MomentumSAM
from sam_repro.optimizer.rule import Rule
from sam_repro.optimizer.saf import SAF
from sam_repro.optimizer.sam import SAM
from sam_repro.optimizer.sam_ball import SAMBall
from sam_repro.optimizer.sam_direction import SAMDirection
from sam_repro.optimizer.sam_k import SAMK
from sam_repro.optimizer.sam_magnitude import SAMMagnitude
from sam_repro.optimizer.sam_masked import SAMMasked
from sam_repro.optimizer.sam_random import SAMRandom
from sam_repro.optimizer.sam_second_order import SAMSecondOrder
from sam_repro.optimizer.sgd import SGD
from sam_repro.optimizer.sgdhess import SGDHess
from sam_repro.optimizer.terms import Terms
from sam_repro.optimizer.two_pass import Perturbing, TwoPass
from sam_repro.oracle import Term
from sam_repro.vectors import moved

__all__ = [
    "ASAM",
    "GSAM",
    "MESA",
    "SAF",
    "SAM",
    "SAMK",
    "SGD",
    "ByClosure",
    "Cost",
    "FriendlySAM",
    "LookLayerSAM",
    "LookSAM",
    "MomentumSAM",
    "Perturbing",
    "Rule",
    "SAMBall",
    "SAMDirection",
    "SAMMagnitude",
    "SAMMasked",
    "SAMRandom",
    "SAMSecondOrder",
    "SGDHess",
    "Term",
    "Terms",
    "TwoPass",
    "moved",
    "parameter_groups",
]
