"""A vector is a list of tensors, one per parameter; its norm and products run over all of them as one.

Every reduction is accumulated in float64: in float32 the norm of two million numbers is off by 3e-5 on a CPU.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby

import torch
from torch import Tensor

Vector = list[Tensor]


def norm(a: Sequence[Tensor]) -> Tensor:
    """Euclidean norm ‖a‖₂ over all tensors, a float64 0-dim tensor on their device."""
    return torch.linalg.vector_norm(torch.stack(norms(_pieces(a))))


def norms(a: Sequence[Tensor]) -> list[Tensor]:
    """Euclidean norm of each tensor, float64 0-dim tensors."""
    return list(torch._foreach_norm(list(a), 2, dtype=torch.float64))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product ⟨a, b⟩ over all tensors, a float64 0-dim tensor on their device; autograd does not see it.

    Memory: two copies of a part of the vectors, 64 MiB at most beside the largest tensor.
    """
    pairs = list(zip(_pieces(a), _pieces(b), strict=True))
    most = 2**16 if a[0].device.type == "cpu" else 2**22  # what fits the cache; what makes the launches few
    ends = accumulate(x.numel() for x, _ in pairs)
    groups = groupby(zip(ends, pairs, strict=True), key=lambda item: item[0] // most)
    products = []
    for _, group in groups:
        xs, ys = zip(*(pair for _, pair in group), strict=True)
        products.append(_row(xs, like=xs).mul_(_row(ys, like=xs)).sum())
    return torch.stack(products).sum()


def dots(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Inner product of each pair of tensors, float64 0-dim tensors."""
    return [(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]


def scaled(a: Sequence[Tensor], factor: Tensor) -> Vector:
    """factor·a for a 0-dim tensor, or for one factor per tensor in a 1-dim tensor, in the dtype of the tensors of `a`.

    A factor beyond the range of that dtype, such as ρ over the norm of denormal gradients, is its largest number: as
    infinity it would turn zeros into NaN.
    """
    dtype = a[0].dtype
    largest = torch.finfo(dtype).max
    factor = factor.double().clamp(-largest, largest).to(dtype)
    return list(torch._foreach_mul(list(a), factor if factor.ndim == 0 else list(factor)))


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0, without a branch on the host."""
    return torch.where(denominator > 0, numerator / denominator, 0.0)


def _row(a: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """The numbers of `a` in one row, in float64, each tensor in the order in which that of `like` lies in memory."""
    sizes = [x.numel() for x in like]
    row = torch.empty(sum(sizes), dtype=torch.float64, device=a[0].device)
    places = []
    for x, place in zip(like, row.split(sizes), strict=True):
        dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
        places.append(place.as_strided(x.shape, x.stride()) if dense else place.view(x.shape))
    torch._foreach_copy_(places, [x.detach() for x in a])
    return row


def _pieces(a: Sequence[Tensor]) -> list[Tensor]:
    """The same numbers; on a CPU, which copies a tensor to float64 to reduce it, in pieces that fit its cache."""
    if a[0].device.type != "cpu":
        return list(a)
    return [piece for x in a for piece in (x.split(max(1, 2**16 // x[0].numel())) if x.numel() > 2**16 else (x,))]


def rademacher(like: Sequence[Tensor], generator: torch.Generator | None = None) -> Vector:
    """A vector of independent signs, −1 or 1 with equal chance, in shape, dtype and layout of `like`.

    The signs are those of the shapes alone: dtype and memory format do not change them.
    """
    drawn = [torch.randint(2, x.shape, generator=generator, dtype=torch.int8, device=x.device) for x in like]
    return [torch.empty_like(x, requires_grad=False).copy_(2 * bit - 1) for x, bit in zip(like, drawn, strict=True)]


@contextmanager
def moved(w: Sequence[Tensor], by: Sequence[Tensor], backup: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block `w` stands at w + by; after it `w` is bitwise what it was.

    Subtracting again would leave rounding behind, and rebinding `w.data` would break captured graphs and fused kernels:
    the weights are copied out to `backup` and copied back.
    """
    with torch.no_grad():
        torch._foreach_copy_(list(backup), list(w))
    try:
        with torch.no_grad():
            torch._foreach_add_(list(w), list(by))
        del by  # its memory is free for the pass at w + by
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(w), list(backup))


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, such as a state_dict; device and memory format do not count.

    The hashed bytes are, for each entry in the order of its key (by code point):

    1. the key in UTF-8 and a zero byte;
    2. the dtype as torch names it, without `torch.`, in ASCII, and a zero byte: `float32`, `bfloat16`, `int64`, `bool`;
    3. the shape, decimal numbers with commas between them, in ASCII, and a zero byte: `64,3,3,3`, nothing for 0-dim;
    4. the elements, last index fastest, each little-endian, without padding, bool as one byte of 0 or 1.

    Args:
        tensors: by name, on any device.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = ",".join(map(str, tensor.shape))
        sha.update(f"{name}\0{dtype}\0{shape}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
