"""Augmentation: random views of the training images, made on the device of the run."""

from sam_repro.augmentation.augmentation import Augmentation, Cutout

__all__ = ["Augmentation", "Cutout"]
