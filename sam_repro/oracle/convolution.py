"""Convolutions whose second derivative is made of the kernels of the first.

torch takes one part of it, the derivative of ⟨∇ₓ, u⟩ by the weight, as a convolution whose kernel is as large as the
layer's output. No library is fast at that. It is the weight's gradient of the layer at u, for which all of them have
kernels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def convolve(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    """The convolution over so many dimensions, with the arguments of torch's; None where it is torch's to do.

    Torch's are those of one example without a batch, and padding that is given as a word.
    """
    if isinstance(padding, str) or input.dim() != dimensions + 2:
        return None
    sizes = [_each(size, dimensions) for size in (stride, padding, dilation)]
    layer = (*sizes, False, [0] * dimensions, groups)
    return _Convolution.apply(*(None if x is None else _as_autocast(x) for x in (input, weight, bias)), layer)


def _each(size: int | Sequence[int], dimensions: int) -> list[int]:
    sizes = list(size) if isinstance(size, Sequence) else [size]
    return sizes * dimensions if len(sizes) == 1 else sizes


def _as_autocast(x: Tensor) -> Tensor:
    """In the dtype that autocast, where it is on, gives to a convolution."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) and x.dtype != torch.float64 else x


class _Convolution(torch.autograd.Function):
    """y = w ∗ x + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, layer: Any) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.layer = layer
        return _forward(x, w, layer, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        by_x, by_w, by_b, _ = ctx.needs_input_grad
        to_b = g.sum([0, *range(2, g.dim())]) if by_b else None
        return *_Gradients.apply(g, *ctx.saved_tensors, ctx.layer, (by_x, by_w)), to_b, None


class _Gradients(torch.autograd.Function):
    """The derivatives of ⟨y, g⟩ by x, which is bilinear in g and w, and by w, which is bilinear in g and x."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, layer: Any, needed: Sequence[bool]) -> Any:
        ctx.save_for_backward(g, x, w)
        ctx.layer = layer
        ctx.set_materialize_grads(False)
        return _backward(g, x, w, layer, needed)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None) -> Any:
        """Of ⟨∂x, u⟩ + ⟨∂w, v⟩."""
        g, x, w = ctx.saved_tensors
        by_g, by_x, by_w = ctx.needs_input_grad[:3]
        parts = []
        to_x = to_w = None
        if u is not None:
            parts += [_forward(u, w, ctx.layer)] if by_g else []
            to_w = _backward(g, u, w, ctx.layer, (False, by_w))[1]
        if v is not None:
            parts += [_forward(x, v, ctx.layer)] if by_g else []
            to_x = _backward(g, x, v, ctx.layer, (by_x, False))[0]
        return sum(parts[1:], parts[0]) if parts else None, to_x, to_w, None, None


def _forward(x: Tensor, w: Tensor, layer: Any, b: Tensor | None = None) -> Tensor:
    return torch.ops.aten.convolution(x, w, b, *layer)


def _backward(g: Tensor, x: Tensor, w: Tensor, layer: Any, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    found = torch.ops.aten.convolution_backward(g, x, w, None, *layer, [*needed, False])
    return tuple(found[:2])
