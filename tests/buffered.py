"""Layers whose buffers move, each in its own way, and a network around one of them."""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Centred(nn.Module):
    """Keeps a mean of its own, moved in place, and a number of calls, bound anew; both are in the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mask", torch.tensor([1.0, 1.0, 0.5, 1.0]))  # never moves

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
            self.calls = self.calls + 1
        return (x - self.mean) * self.mask * (1 + 0.1 * self.calls)


class Stubborn(nn.BatchNorm1d):
    """A batch norm with a forward of its own, which asks no flag and reads where its statistics stand."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.running_mean.clone()
        return mean + F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, 0.1, self.eps)


class InstanceNorm(nn.Module):
    """Over the four numbers of an example, as two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(2, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.view(-1, 2, 2)).flatten(1)


class Branch(nn.Module):
    """Runs one block twice, deep inside of modules."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.deep = nn.ModuleDict({"a": nn.ModuleList([nn.Sequential(*inner)])})

    def forward(self, x: Tensor) -> Tensor:
        (block,) = self.deep["a"]
        return x + 0.5 * block(torch.tanh(block(x)))


def old_spectral_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.spectral_norm(nn.Linear(4, 4))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm1d(4),
    "cumulative batch norm": lambda: nn.BatchNorm1d(4, momentum=None),
    "sync batch norm": lambda: nn.SyncBatchNorm(4),
    "own batch norm": lambda: Stubborn(4),
    "instance norm": InstanceNorm,
    "spectral norm, old": old_spectral_norm,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    "own buffers": Centred,
    "nested": lambda: Branch(nn.Linear(4, 4), nn.BatchNorm1d(4), Centred()),
}


class Net(nn.Module):
    """A block between two layers; `reentrant` says how it is checkpointed, None that it is not."""

    def __init__(self, layer: str, reentrant: bool | None = None, by_method: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)
        self.block = nn.Sequential(nn.Linear(4, 4), LAYERS[layer](), nn.Tanh(), nn.Dropout(0.2))
        self.reentrant, self.by_method = reentrant, by_method

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if self.reentrant is None:
            return self.last(self.block(x))
        block = self.method if self.by_method else self.block
        return self.last(checkpoint(block, x, use_reentrant=self.reentrant))

    def method(self, x: Tensor) -> Tensor:
        for layer in self.block:
            x = layer.forward(x) if isinstance(layer, Centred) else layer(x)
        return x


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 5, generator=generator), torch.randint(3, (8,), generator=generator)
