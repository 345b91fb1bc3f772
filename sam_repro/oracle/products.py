"""Products of a batch's Hessian and Gauss–Newton matrix with vectors, as functions of its oracle.

They are of the mean loss with its weight decay, on the eager model, in the noise and from the buffers of the passes.
They move no buffer and touch no `p.grad`. A checkpoint with `use_reentrant=True` has no products: torch refuses them.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from sam_repro.oracle.joint import Joint
from sam_repro.oracle.oracle import Oracle, full
from sam_repro.oracle.twice import TwiceDifferentiable
from sam_repro.vectors import Vector, rademacher

Pushed = Callable[[Oracle, Vector, Sequence[Tensor]], tuple[Tensor, Tensor]]


def hvp(oracle: Oracle | Joint, params: Sequence[Tensor], v: Sequence[Tensor]) -> Vector:
    """Hessian product Hv of the mean loss over `params`, by differentiating ⟨∇L, v⟩: about 3.5 gradients."""
    params = list(params)
    return oracle.over_pieces(lambda piece: _product(piece, params, _gradient(piece, params), v))


def hessian(oracle: Oracle, params: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Vector]:
    """Hessian product v ↦ Hv over `params`, as `hvp`, all of them from one graph: about 2.4 gradients each.

    The graph holds the activations of the batch and of its backward until the function is dropped; the weights must
    stand still as long.
    """
    params = list(params)
    g = _gradient(oracle, params)
    return lambda v: _product(oracle, params, g, v, retain_graph=True)


def ggn_vp(oracle: Oracle | Joint, params: Sequence[Tensor], v: Sequence[Tensor]) -> Vector:
    """Gauss–Newton product Jᵀ(∇²ℓ)Jv of the mean loss over `params`: J of the outputs, ∇²ℓ of the criterion."""
    params = list(params)

    def product(piece: Oracle) -> Vector:
        try:
            return _ggn_vp(piece, params, v, _by_forward_mode)
        except (NotImplementedError, CheckpointError):  # an operation without forward mode, a checkpointed block
            return _ggn_vp(piece, params, v, _by_reverse_mode)

    return oracle.over_pieces(product)


def ggn_diagonal(oracle: Oracle | Joint, params: Sequence[Tensor]) -> Vector:
    """Estimate (JᵀL^½u)², element by element, of the diagonal of the Gauss–Newton matrix JᵀLJ over `params`.

    L is the Hessian of the mean loss in the outputs, so that 1/√B lies within its root; it is taken example by example,
    and a criterion that couples examples is out of its reach. u are independent signs, one for each output of each
    example, from this part's noise. Unbiased, and never negative; for a criterion that is not convex in the outputs the
    negative part of L is left out. One forward and one backward pass, and for C outputs B·C² numbers and an
    eigendecomposition of C × C for each example.
    """
    params = list(params)

    def squares(piece: Oracle) -> Vector:
        with _from_start(piece):
            outputs = piece.outputs()
            (u,) = rademacher([outputs])
            with torch.autocast(outputs.device.type, enabled=False):
                rooted = _root_times(_blocks(piece, outputs), u.reshape(len(u), -1, 1)).view_as(outputs)
            pulled = _grad(piece, outputs, params, rooted.to(outputs.dtype))
        found = _like(params, torch._foreach_mul(pulled, pulled))
        return piece.add_decay(found, [torch.ones_like(p) for p in params], params)

    return oracle.over_pieces(squares)


@contextmanager
def _from_start(oracle: Oracle) -> Iterator[None]:
    oracle.objective.reseed(oracle.noise, oracle.device)
    with oracle.buffers.held(), torch.enable_grad():
        yield


def _gradient(oracle: Oracle, params: Vector) -> Sequence[Tensor]:
    """The gradient with its graph, by layers and kernels that can be differentiated twice, fast where they can be."""

    def by(layers: AbstractContextManager[object]) -> Sequence[Tensor]:
        with _from_start(oracle), sdpa_kernel(SDPBackend.MATH), layers:
            return _grad(oracle, oracle.loss_of(oracle.outputs()), params, create_graph=True)

    try:
        return by(TwiceDifferentiable())
    except RuntimeError:  # a checkpointed block, whose forward autograd repeats with torch's own layers; torch.func
        return by(nullcontext())


def _product(oracle: Oracle, params: Vector, g: Sequence[Tensor], v: Sequence[Tensor], **options: bool) -> Vector:
    with oracle.buffers.held(), sdpa_kernel(SDPBackend.MATH):
        found = _grad(oracle, g, params, list(v), **options)
    return oracle.add_decay(_like(params, found), v, params)


def _grad(oracle: Oracle, outputs: Any, inputs: Sequence[Tensor], v: Any = None, **options: bool) -> tuple[Tensor, ...]:
    with oracle.buffers.repeating():
        return torch.autograd.grad(outputs, inputs, v, materialize_grads=True, **options)


def _like(params: Sequence[Tensor], vector: Sequence[Tensor]) -> Vector:
    """A copy of the vector in the memory layout of the parameters: autograd hands out whatever strides it has."""
    return [torch.empty_like(p, requires_grad=False).copy_(x) for p, x in zip(params, vector, strict=True)]


def _ggn_vp(oracle: Oracle, params: Vector, v: Sequence[Tensor], pushed: Pushed) -> Vector:
    with _from_start(oracle), sdpa_kernel(SDPBackend.MATH):
        outputs, jv = pushed(oracle, params, v)
        z = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(oracle.loss_of(z), z, create_graph=True)
        (curved,) = torch.autograd.grad(slope, z, jv.detach(), materialize_grads=True)
        product = _grad(oracle, outputs, params, curved)
    return oracle.add_decay(_like(params, product), v, params)


def _by_forward_mode(oracle: Oracle, params: Vector, v: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Outputs and their derivative along `v`, in one forward."""
    model = oracle.objective.model
    places = {p: i for i, p in enumerate(params)}
    names = {name: places[p] for name, p in model.named_parameters() if p in places}
    with forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its use of torch.jit
        weights = {name: forward_ad.make_dual(params[i], v[i]) for name, i in names.items()}
        with _OnlyWhereGradIsEnabled():
            dual = oracle.outputs(lambda *x, **named: torch.func.functional_call(model, weights, x, named))
        outputs, jv = forward_ad.unpack_dual(dual)
    return outputs, torch.zeros_like(outputs) if jv is None else jv


def _by_reverse_mode(oracle: Oracle, params: Vector, v: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The same by two reverse passes: uᵀJ is linear in u, and differentiating it along `v` gives Jv."""
    outputs = oracle.outputs()
    u = torch.zeros_like(outputs, requires_grad=True)
    pulled = _grad(oracle, outputs, params, u, create_graph=True)
    (jv,) = _grad(oracle, pulled, [u], list(v), retain_graph=True)
    return outputs, jv


class _OnlyWhereGradIsEnabled(TorchFunctionMode):
    """Forward mode differentiates through `torch.no_grad`, which reverse mode does not: inside here, neither does."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        with forward_ad._set_fwd_grad_enabled(torch.is_grad_enabled()):
            return function(*arguments, **(named or {}))


def _blocks(oracle: Oracle, outputs: Tensor) -> Tensor:
    """Hessian of the mean loss in the outputs of each example, [B, C, C]: row by row for all examples at once."""
    z = full(outputs.detach()).requires_grad_()
    (slope,) = torch.autograd.grad(oracle.loss_of(z), z, create_graph=True)
    size = z[0].numel()
    basis = torch.eye(size, dtype=z.dtype, device=z.device).view(size, 1, *z.shape[1:]).expand(size, *z.shape)
    (rows,) = torch.autograd.grad(slope, z, basis, is_grads_batched=True, materialize_grads=True)
    return rows.movedim(0, 1).reshape(len(z), size, size)


def _root_times(blocks: Tensor, u: Tensor) -> Tensor:
    """Symmetric square root of each block [B, C, C], what is negative in it left out, times u [B, C, 1]."""
    # eigh refuses numbers that are not finite; the gradient of the same batch has them too, and shows them
    values, vectors = torch.linalg.eigh(blocks.nan_to_num(posinf=0.0, neginf=0.0))
    # the root would turn the rounding of a zero, 1e-16, into 1e-8
    rounding = values[:, -1:] * torch.finfo(values.dtype).eps * values.shape[-1]
    roots = torch.where(values > rounding.clamp(min=0), values, 0.0).sqrt()
    return vectors @ (roots.unsqueeze(2) * (vectors.mT @ u.to(values.dtype)))
