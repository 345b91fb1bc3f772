"""Augmentation: random views of the training images, made on the device of the run."""

from sam_repro.augmentation.augmentation import Augmentation
from sam_repro.augmentation.autoaugment import AutoAugment
from sam_repro.augmentation.crop import Crop
from sam_repro.augmentation.cutout import Cutout
from sam_repro.augmentation.flip import Flip
from sam_repro.augmentation.mixup import Mixup
from sam_repro.augmentation.randaugment import RandAugment
from sam_repro.augmentation.resize import Resize
from sam_repro.augmentation.transform import Draws, Transform
from sam_repro.augmentation.view import CentreCrop, ResizedCrop, View

__all__ = [
    "Augmentation",
    "AutoAugment",
    "CentreCrop",
    "Crop",
    "Cutout",
    "Draws",
    "Flip",
    "Mixup",
    "RandAugment",
    "Resize",
    "ResizedCrop",
    "Transform",
    "View",
]
