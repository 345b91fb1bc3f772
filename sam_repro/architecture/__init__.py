"""Networks, each a function of num_classes, in_channels, image_size and the keys in which the papers differ."""

from sam_repro.architecture.digits import digits_cnn
from sam_repro.architecture.resnet import resnet8, resnet18, resnet20, resnet32, resnet34, resnet50, resnet56
from sam_repro.architecture.wide_resnet import wrn16_4, wrn16_8, wrn28_10, wrn40_2

__all__ = [
    "digits_cnn",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet50",
    "resnet56",
    "wrn16_4",
    "wrn16_8",
    "wrn28_10",
    "wrn40_2",
]
