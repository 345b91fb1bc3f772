"""The spectral density of a symmetric operator by stochastic Lanczos quadrature."""

import math
from collections.abc import Sequence

import numpy as np

from sam_repro.sharpness.lanczos import Floats

Quadrature = tuple[Sequence[float], Sequence[float]]


def density(probes: Sequence[Quadrature], points: int, width: float) -> tuple[Floats, Floats, Floats]:
    """The density of eigenvalues, smoothed by a Gaussian: p(x) = (1/N)·Σ_i N(x; λ_i, σ²), ∫p = 1.

    Each probe, the quadrature of a random vector, gives an unbiased estimate up to the error of its Lanczos steps; the
    result is their mean (Ghorbani et al. 2019).

    Args:
        probes: nodes and weights for each random vector (`lanczos.quadrature`), at least two.
        points: of the grid, which spans the nodes and 4σ more on each side.
        width: σ as a share of the span of the nodes.

    Returns:
        Grid x [points], density p(x) [points], and its standard error over the probes [points].
    """
    nodes = np.concatenate([np.asarray(nodes) for nodes, _ in probes])
    low, high = nodes.min(), nodes.max()
    sigma = width * ((high - low) or 1.0)
    x = np.linspace(low - 4 * sigma, high + 4 * sigma, points)
    each = np.array([_smoothed(x, np.asarray(theta), np.asarray(tau), sigma) for theta, tau in probes])
    return x, each.mean(axis=0), each.std(axis=0, ddof=1) / math.sqrt(len(each))


def _smoothed(x: Floats, nodes: Floats, weights: Floats, sigma: float) -> Floats:
    bells = np.exp(-0.5 * ((x[:, None] - nodes) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return bells @ weights
