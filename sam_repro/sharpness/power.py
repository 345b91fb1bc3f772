"""Eigenvalues as the study of Luong (2024) printed them: power iteration with deflation, stopped early."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sam_repro.sharpness.lanczos import Product, Spectrum
from sam_repro.sharpness.measurement import Unmeasurable
from sam_repro.vectors import dot, norm


def top_by_power(
    product: Product, random: Callable[[], Tensor], count: int, *, tolerance: float = 1e-3, iterations: int = 100
) -> Spectrum:
    """The `count` largest eigenvalues of H by absolute value, one after the other, each orthogonal to those before.

    v ← Hv/‖Hv‖ until the Rayleigh quotient θ = vᵀHv changes by less than `tolerance`·|θ|, at most `iterations` times.
    Such a θ may be far from an eigenvalue, and they need not come sorted: the residuals say so, and the values are kept
    as they came. Memory beside that of a product: (count + 3)·N numbers; the host waits for the device in every
    iteration.

    Args:
        product: v ↦ Hv for flat vectors [N].
        random: draws a vector [N].
        count: how many.
        tolerance: of the change of θ, relative; default 1e-3. `converged` says whether it was reached.
        iterations: at most so many products for each, ≥ 2, default 100.

    Raises:
        Unmeasurable: if a product is not finite.
    """
    found: list[tuple[float, float, bool]] = []
    vectors: list[Tensor] = []
    used = 0
    for _ in range(count):
        image, before, settled = random(), math.inf, False
        for _ in range(iterations):
            v = _unit(image, vectors)
            image = product(v)
            used += 1
            theta, residual = _rayleigh(v, image)
            steady = before != math.inf and abs(theta - before) <= tolerance * abs(before)
            settled = steady or not image.any()
            if settled:
                break
            before = theta
        vectors.append(v)
        found.append((theta, residual, settled))
    values, residuals, converged = (list(column) for column in zip(*found, strict=True))
    return Spectrum(values, residuals, converged, used, searched=True)


def _unit(v: Tensor, vectors: list[Tensor]) -> Tensor:
    """A vector without its part along the known ones, of length 1."""
    for known in vectors:
        v = v - dot([known], [v]).to(v.dtype) * known
    return v / norm([v]).to(v.dtype)


def _rayleigh(v: Tensor, image: Tensor) -> tuple[float, float]:
    """θ = vᵀHv and ‖Hv − θv‖."""
    theta = dot([v], [image])
    residual = norm([image - theta.to(v.dtype) * v])
    theta_, residual_ = torch.stack([theta, residual]).tolist()
    if not (math.isfinite(theta_) and math.isfinite(residual_)):
        raise Unmeasurable("a Hessian product is not finite: the loss has no curvature there, or it overflows")
    return theta_, residual_
