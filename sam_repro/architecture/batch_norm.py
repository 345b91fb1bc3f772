"""Batch norm as a paper's code has it, in any network: how fast its running statistics move, and of which variance."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sam_repro import limits


@dataclass(frozen=True)
class BatchNorm:
    """The constants of all batch-norm layers of a network.

    Attributes:
        momentum: weight of the batch in the running statistics, in (0, 1]; JAX and TensorFlow call 1 − momentum so.
            None (default) leaves each layer its own.
        eps: added to the variance, > 0. None (default) leaves each layer its own.
        variance: the running variance is of the `unbiased` one (default; PyTorch) or of the `biased` one of the batch
            (JAX, TensorFlow): the sum of squares of n numbers divided by n − 1 or by n.
        frozen: whether the running statistics stand still and are what is used in training too, as in fine-tuning;
            default false. Scales and shifts are trained all the same.

    Raises:
        ValueError: an argument is outside its limits.
    """

    momentum: float | None = None
    eps: float | None = None
    variance: str = "unbiased"
    frozen: bool = False

    def __post_init__(self) -> None:
        limits.number("batch_norm.momentum", self.momentum, above=0, high=1, optional=True)
        limits.number("batch_norm.eps", self.eps, above=0, optional=True)
        limits.choice("batch_norm.variance", self.variance, ("unbiased", "biased"))
        limits.boolean("batch_norm.frozen", self.frozen)

    def set(self, model: nn.Module) -> None:
        """Set them in a network, which is changed in place."""
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = layer.momentum if self.momentum is None else self.momentum
                layer.eps = layer.eps if self.eps is None else self.eps
                if self.variance == "biased":
                    layer.register_forward_pre_hook(_stretch)
                    layer.register_forward_hook(_shrink)
                if self.frozen:
                    layer.momentum = 0.0
                    layer.register_forward_pre_hook(_evaluate)


def _evaluate(layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
    layer.training = False  # whatever the mode of the network, which sets it for all layers


def _stretch(layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
    """Before torch adds s²·n/(n − 1) to the running variance: multiply it, so that all of it can be shrunk together."""
    _scale(layer, inputs[0], stretched=True)


def _shrink(layer: _BatchNorm, inputs: tuple[Tensor, ...], outputs: Any) -> None:
    _scale(layer, inputs[0], stretched=False)


def _scale(layer: _BatchNorm, x: Tensor, stretched: bool) -> None:
    if layer.training and layer.track_running_stats and layer.running_var is not None:
        n = x.numel() / x.shape[1]
        # .data, because the backward checks that nobody wrote the buffer, though in training it does not read it
        layer.running_var.data.mul_(n / (n - 1) if stretched else (n - 1) / n)
