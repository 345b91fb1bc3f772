"""The digits inside scikit-learn, and what their configuration says of them."""

from pathlib import Path

import torch
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from sam_repro.augmentation import Augmentation
from sam_repro.dataset.digits import digits

CONFIG = Path(__file__).parents[2] / "configs" / "dataset" / "digits.yaml"


def test_digits_are_the_file_in_its_order():
    images, file = digits("nowhere", download=False), load_digits()
    assert images.train_images.shape == (1000, 1, 8, 8)
    assert images.test_images.shape == (797, 1, 8, 8)
    assert images.num_classes == 10
    pixels = torch.cat([images.train_images, images.test_images]).squeeze(1)
    assert (pixels.numpy() == file.images).all()  # exact: whole numbers from 0 to 16
    assert (torch.cat([images.train_labels, images.test_labels]).numpy() == file.target).all()
    assert images.train_labels[:10].tolist() == list(range(10))
    assert images.test_labels[-3:].tolist() == [8, 9, 8]


def test_the_configuration_normalises_the_training_images():
    dataset = OmegaConf.load(CONFIG).dataset
    pixels = Augmentation(dataset.mean, dataset.std).normalise(digits("nowhere", download=False).train_images)
    assert abs(pixels.mean().item()) < 1e-3
    assert abs(pixels.std().item() - 1) < 1e-3
