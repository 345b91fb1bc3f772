"""A small network for images of 8 x 8 pixels, such as scikit-learn's digits: one CPU core trains it in seconds."""

import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro.architecture.initialisation import initialise
from sam_repro.architecture.layers import check_task, conv_norm_relu


class DigitsCNN(nn.Module):
    """Four 3x3 convolutions with batch normalisation, one max-pool between them, global average pool, classifier.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(conv_norm_relu(in_channels, 32, 3), conv_norm_relu(32, 32, 3))
        self.stage2 = nn.Sequential(conv_norm_relu(32, 64, 3), conv_norm_relu(64, 64, 3))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, in_channels, H, W]."""
        halved = F.max_pool2d(self.stage1(images), 2, ceil_mode=True)
        return self.classifier(self.stage2(halved).mean((2, 3)))


def digits_cnn(*, num_classes: int, in_channels: int, image_size: int, initialisation: str = "torch") -> nn.Module:
    """Small convolutional network, about 66 thousand parameters.

    Args:
        num_classes: number of logits, ≥ 2.
        in_channels: channels of the images.
        image_size: pixels a side; any size works.
        initialisation: see `initialisation.py`.

    Returns:
        A model from images [B, in_channels, H, W] to logits [B, num_classes].

    Raises:
        ValueError: an argument is outside its limits.
    """
    check_task(num_classes, in_channels, image_size, initialisation)
    return initialise(DigitsCNN(in_channels, num_classes), initialisation)
