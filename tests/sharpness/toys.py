"""Small networks in float64, whose Hessian is computed whole by torch.autograd.functional."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call

from sam_repro.augmentation import Augmentation, Draws, Transform
from sam_repro.dataset import Resident
from sam_repro.sharpness import Subject

FACTS = {
    "data": "made up",
    "split": "train",
    "augmentation": "noise",
    "loss": "mean cross-entropy",
    "label_smoothing": 0.0,
    "weight_decay": "excluded",
    "checkpoint": "last",
    "weights_sha256": "0" * 64,
}


class Net(nn.Module):
    """A convolution, batch norm that has seen data, dropout, and a head: 63 weights."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1, dtype=torch.float64), nn.BatchNorm2d(2).double()
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(18, 2, dtype=torch.float64)
        self.unused = nn.Parameter(torch.ones(1, dtype=torch.float64))
        with torch.no_grad():
            for seed in range(20):
                self.norm(self.conv(inputs_of(images(30, seed)).double()))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(self.conv(x)).tanh().flatten(1)))


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 1, 3, 3), generator=Generator().manual_seed(seed), dtype=torch.uint8)


def inputs_of(pixels: Tensor) -> Tensor:
    return NOISY.normalise(pixels)


class Noise(Transform):
    """Adds normal numbers to the inputs."""

    places = ("inputs",)

    def draw(self, images: Tensor, generator: Generator) -> Draws:
        return (torch.randn(images.shape, generator=generator),)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        return images + draws[0]


NOISY = Augmentation([128 / 255], [64 / 255], order=["normalise", "noise"], noise=Noise())


def dense(model: nn.Module, batches: list[tuple[Tensor, Tensor]], names: list[str] | None = None) -> Tensor:
    """The Hessian of the mean loss, in the mode of the model, over the parameters of these names; all by default."""
    params = {name: p.detach() for name, p in model.named_parameters() if names is None or name in names}
    sizes = [p.numel() for p in params.values()]
    count = sum(len(y) for _, y in batches)

    def loss(flat: Tensor) -> Tensor:
        pieces = zip(params.items(), flat.split(sizes), strict=True)
        weights = {name: piece.view(p.shape) for (name, p), piece in pieces}
        frozen = {name: b.clone() for name, b in model.named_buffers()}
        outputs = [functional_call(model, weights | frozen, (x.double(),)) for x, _ in batches]
        losses = [F.cross_entropy(z, y) * len(y) / count for z, (_, y) in zip(outputs, batches, strict=True)]
        return torch.stack(losses).sum()

    return torch.autograd.functional.hessian(loss, torch.cat([p.reshape(-1) for p in params.values()]))


def make_subject(model: nn.Module, criterion: Any = F.cross_entropy, count: int = 40, **facts: Any) -> Subject:
    pixels = images(count)
    labels = (pixels.float().mean((1, 2, 3)) > 128).long()
    split = Resident(images=pixels, labels=labels, clean_labels=labels, num_classes=2, augmentation=NOISY)
    return Subject(model, criterion, split, FACTS | facts, rho=0.05)


class Quadratic(nn.Module):
    """½wᵀAw + bᵀw as a network, with w at the given point; its criterion is `value`."""

    def __init__(self, a: Tensor, b: Tensor, at: Tensor) -> None:
        super().__init__()
        self.w, self.a, self.b = nn.Parameter(at.clone()), a, b

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * self.w @ self.a @ self.w + self.b @ self.w).expand(len(x))


def value(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def drawn(size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Callable[[], Tensor]:
    """Random vectors of independent normal numbers."""
    generator = Generator().manual_seed(seed)
    return lambda: torch.randn(size, generator=generator, dtype=dtype)
