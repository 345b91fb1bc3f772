"""Networks, each a function of num_classes, in_channels, image_size and the keys in which the papers differ."""

from sam_repro.architecture.digits import digits_cnn
from sam_repro.architecture.from_timm import timm_network
from sam_repro.architecture.pyramid import pyramidnet
from sam_repro.architecture.resnet import (
    resnet8,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
    resnet152,
)
from sam_repro.architecture.shake_shake import shake_shake_network
from sam_repro.architecture.wide_resnet import resnet32_mentornet, wrn16_4, wrn16_8, wrn28_10, wrn40_2, wrn40_10

__all__ = [
    "digits_cnn",
    "pyramidnet",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet32_mentornet",
    "resnet34",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet152",
    "shake_shake_network",
    "timm_network",
    "wrn16_4",
    "wrn16_8",
    "wrn28_10",
    "wrn40_2",
    "wrn40_10",
]
