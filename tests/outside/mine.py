"""A rule, a data set and a network that live outside of the package."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from sam_repro.dataset import Images
from sam_repro.optimizer import TwoPass
from sam_repro.vectors import scaled


class USAM(TwoPass):
    """SAM without the norm: ε = ρ·g, and the base takes ∇L(w + ε) (Andriushchenko and Flammarion, 2022)."""

    def ascent(self, g, w):
        return scaled(g, self.rho)

    def combine(self, g, g_s):
        return g_s


def dots(data_dir: str, download: bool) -> Images:
    """Images [N, 1, 4, 4] and labels of a file dots.npz of one's own."""
    with np.load(Path(data_dir) / "dots.npz") as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    return Images(images, labels, images, labels, num_classes=int(labels.max()) + 1)


def linear(num_classes: int, in_channels: int, image_size: int, weights: str | None = None) -> nn.Module:
    """One linear layer, from weights in a file if one is named."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True))
    return model
