"""A data set and a network that live outside of the package."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from sam_repro.dataset import Images


def dots(data_dir: str, download: bool, classes: int | None = None) -> Images:
    """Images [N, 1, 4, 4] and labels of a file dots.npz of one's own."""
    with np.load(Path(data_dir) / "dots.npz") as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    return Images(images, labels, images, labels, num_classes=classes or int(labels.max()) + 1)


def linear(num_classes: int, in_channels: int, image_size: int, weights: str | None = None) -> nn.Module:
    """One linear layer, from weights in a file if one is named."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True))
    return model
