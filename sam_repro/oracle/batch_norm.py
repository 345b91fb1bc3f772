"""Batch norm whose second derivative is a few of torch's kernels for the first.

torch makes it from some forty elementwise operations. With x̂ = (x − μ)/σ, n numbers in a channel, and all sums and
means within a channel, y = γx̂ + β has the derivatives

    ∂x = γK(g),  ∂γ = Σ g·x̂,  ∂β = Σ g,  where K(g) = (g − mean(g) − x̂·mean(g·x̂))/σ, or g/σ in eval mode,

and ⟨∂x, u⟩ + ⟨∂γ, v⟩ + ⟨∂β, t⟩ has those

    by g:  γK(u) + v·x̂ + t
    by γ:  Σ g·K(u)
    by x:  K(g)·(v − γ·Σ(u·x̂)/(nσ)) − (K(u)·Σ(g·x̂) + x̂·Σ(g·K(u)))·γ/(nσ), or v·K(g) in eval mode.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten


def normalise(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """The norm, with the arguments of torch's; None where it is torch's to do or to refuse.

    Torch's are one number in a channel, weights of less than single precision, and eval mode without statistics.
    """
    channels = input.shape[1]
    precise = torch.promote_types(input.dtype, torch.float32)
    weight = input.new_ones(channels, dtype=precise) if weight is None else weight
    bias = torch.zeros_like(weight) if bias is None else bias
    if (training and input.numel() == channels) or (not training and running_var is None) or weight.dtype != precise:
        return None
    given = (weight, bias, running_mean, running_var, training, momentum, eps)
    outputs: Tensor = _BatchNorm.apply(input.to(precise), *given)
    return outputs.to(input.dtype)


class _Channels(NamedTuple):
    """Mean and 1/σ of each channel, and whether they are those of the batch."""

    mean: Tensor
    inverse: Tensor
    of_batch: bool

    def scaled(self, g: Tensor, x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """K(g)·scale, Σ g·x̂ and Σ g."""
        return aten.native_batch_norm_backward(
            g, x, scale, self.mean, self._variance, self.mean, self.inverse, self.of_batch, 0.0, [True, True, True]
        )

    def hat(self, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
        """x̂·scale + shift."""
        outputs: Tensor = aten.native_batch_norm(x, scale, shift, self.mean, self._variance, False, 0.0, 0.0)[0]
        return outputs

    @property
    def _variance(self) -> Tensor:
        return self.inverse.square().reciprocal()  # σ², in which eps is


class _BatchNorm(torch.autograd.Function):
    """y = γx̂ + β."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        b: Tensor,
        mean: Tensor,
        var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        outputs, *of_batch = aten.native_batch_norm(x, w, b, mean, var, training, momentum, eps)
        # in one tensor: a checkpointed block that repeats torch's own norm saves others, and this must be noticed
        ctx.save_for_backward(x, w, torch.stack(of_batch if training else [mean, (var + eps).rsqrt()]))
        ctx.training = training
        return outputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return *_Gradients.apply(g, *ctx.saved_tensors, ctx.training), *[None] * 5


class _Gradients(torch.autograd.Function):
    """(∂x, ∂γ, ∂β)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, statistics: Tensor, training: bool) -> Any:
        by_x, by_w, by_b = _Channels(statistics[0], statistics[1], training).scaled(g, x, w)
        ctx.save_for_backward(g, x, w, statistics, by_w)
        ctx.training = training
        return by_x, by_w, by_b

    @staticmethod
    def backward(ctx: Any, u: Tensor, v: Tensor, t: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise NotImplementedError("batch norm: its third derivative is left to torch")
        g, x, w, statistics, g_along = ctx.saved_tensors
        channels = _Channels(statistics[0], statistics[1], ctx.training)
        others = [0, *range(2, x.dim())]

        def each(numbers: Tensor) -> Tensor:
            return numbers.view(-1, *[1] * (x.dim() - 2))

        k_u, u_along, _ = channels.scaled(u, x)
        by_g = channels.hat(x, v, t).addcmul_(k_u, each(w))
        by_w = (g * k_u).sum(others)
        if not ctx.training:
            return by_g, channels.scaled(g, x, v)[0], by_w, None, None
        share = w * channels.inverse * (x.shape[1] / x.numel())
        by_x = channels.scaled(g, x, v - share * u_along)[0]
        by_x = by_x.addcmul_(k_u, each(-share * g_along)).add_(channels.hat(x, -share * by_w))
        return by_g, by_x, by_w, None, None
