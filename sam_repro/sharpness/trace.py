"""The trace of a symmetric operator, estimated from products with random vectors."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.sharpness.lanczos import Product
from sam_repro.vectors import dot


def hutchpp(product: Product, signs: Callable[[], Tensor], products: int) -> tuple[float, float]:
    """Trace tr H and its standard error by Hutch++ (Meyer et al. 2021, Algorithm 1).

    tr H = tr QᵀHQ + tr (I − QQᵀ)H(I − QQᵀ), Q an orthonormal basis of HS: the first part is exact, the second the mean
    of gᵀ(I − QQᵀ)H(I − QQᵀ)g over random signs g, whose standard error is given. A third of the products each for HS,
    HQ and g. Memory beside that of a product: (products/3 + 4)·N numbers, twice that in the decomposition.

    Args:
        product: v ↦ Hv for flat vectors [N].
        signs: draws a vector [N] of independent signs.
        products: how many products are spent, ≥ 6.

    Returns:
        The estimate, unbiased, and its standard error; 0 where Q spans everything.
    """
    limits.integer("products", products, low=6)
    third = products // 3
    sketch = torch.stack([product(signs()) for _ in range(min(third, len(signs())))], dim=1)
    basis = torch.linalg.qr(sketch).Q
    exact = sum(float(dot([q], [product(q.contiguous())])) for q in basis.T)
    if basis.shape[1] == len(basis):
        return exact, 0.0
    samples = [_outside(product, basis, signs()) for _ in range(third)]
    return exact + float(np.mean(samples)), float(np.std(samples, ddof=1)) / math.sqrt(third)


def _outside(product: Product, basis: Tensor, g: Tensor) -> float:
    """gᵀ(I − QQᵀ)H(I − QQᵀ)g."""
    across = g - basis @ (basis.T @ g)
    return float(dot([across], [product(across)]))
