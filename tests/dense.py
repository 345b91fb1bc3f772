"""Networks as functions of all weights in one row, with derivatives that torch.autograd.functional takes whole."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro.optimizer import SAM, TwoPass, parameter_groups
from sam_repro.oracle import Objective

Criterion = Callable[[Tensor, Tensor], Tensor]
smoothed = partial(F.cross_entropy, label_smoothing=0.1)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - F.one_hot(targets, 3)).square().sum(1).mean()


def flat(vector: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in vector])


class Dense:
    """The derivatives of a model's loss over one batch, as matrices over all weights in one row."""

    def __init__(self, model: nn.Module, criterion: Criterion, inputs: Tensor, targets: Tensor) -> None:
        self.model, self.criterion, self.inputs, self.targets = copy.deepcopy(model), criterion, inputs, targets
        self.weights = dict(model.named_parameters())
        self.w = flat(self.weights.values())

    def outputs(self, w: Tensor) -> Tensor:
        pieces = w.split([p.numel() for p in self.weights.values()])
        named = {name: piece.view_as(p) for (name, p), piece in zip(self.weights.items(), pieces, strict=True)}
        return torch.func.functional_call(self.model, named, (self.inputs,))

    def loss(self, w: Tensor) -> Tensor:
        return self.criterion(self.outputs(w), self.targets)

    def gradient(self) -> Tensor:
        return torch.autograd.functional.jacobian(self.loss, self.w)

    def hessian(self) -> Tensor:
        return torch.autograd.functional.hessian(self.loss, self.w)

    def jacobian(self) -> Tensor:
        """[B, C, parameters]."""
        return torch.autograd.functional.jacobian(self.outputs, self.w).reshape(len(self.targets), -1, len(self.w))

    def gauss_newton(self) -> Tensor:
        """JᵀLJ with L the Hessian of the mean loss over the outputs of all examples."""
        jacobian = self.jacobian().flatten(0, 1)
        outputs = self.outputs(self.w).detach()
        curvature = torch.autograd.functional.hessian(lambda z: self.criterion(z, self.targets), outputs)
        return jacobian.T @ curvature.reshape(len(jacobian), -1) @ jacobian


# Small networks, the first of which is written out: 83 weights


def toy() -> nn.Module:
    """`outputs` is the same function of its weights in one row."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def outputs(w: Tensor, x: Tensor) -> Tensor:
    hidden = torch.tanh(x @ w[:48].view(8, 6).T + w[48:56])
    return hidden @ w[56:80].view(3, 8).T + w[80:]


def loss(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs(w, x), y)


def gradient(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    w = w.detach().requires_grad_()
    return torch.autograd.grad(loss(w, x, y), w)[0]


def batch(seed: int = 1, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator)


def normed(dropout: float = 0.0) -> nn.Module:
    """A network with a normalisation, on the same batches."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def convolutional(dropout: float = 0.0) -> nn.Sequential:
    """A network with kernels of four dimensions, on `images`."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*body, nn.Dropout(dropout), nn.Linear(18, 3))


def images(size: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 1, 3, 3, generator=generator)
    return inputs, torch.randint(3, (size,), generator=generator)


# A rule of the SAM family, and the gradient that it hands to its base

RHO = 0.1


def sam(model: nn.Module, rho: float = RHO, rule: type[TwoPass] = SAM, **options: Any) -> Any:
    return rule(torch.optim.SGD(parameter_groups(model, 0.0), lr=0.1), rho, **options)


def our_gradient(model: nn.Module, x: Tensor, y: Tensor, m: int | None = None, **options: Any) -> Tensor:
    decay = options.pop("weight_decay", 0.0)
    sam(model, **options).backward(Objective(model, F.cross_entropy, weight_decay=decay)(x, y, noise=3), m=m)
    return flat(p.grad for p in model.parameters())
