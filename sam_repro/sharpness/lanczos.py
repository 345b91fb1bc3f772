"""Eigenvalues of a symmetric operator by Lanczos with full reorthogonalisation, all vectors on the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.sharpness.measurement import Unmeasurable
from sam_repro.vectors import dot, norm, ratio, scaled

Product = Callable[[Tensor], Tensor]
Floats = npt.NDArray[np.float64]

ORDERS = ("algebraic", "magnitude")
LOOK_EVERY = 3  # steps between two looks of the host at the tridiagonal matrix
BLOCK = 8  # basis vectors that are allocated at a time
LOOSE = 0.05  # relative residual at which a further start has shown what lies there
ROUNDING = 100  # multiples of the dtype's epsilon, relative to the norm of H, that count as zero


@dataclass(frozen=True)
class Spectrum:
    """The top of a spectrum, from the top.

    Args:
        values: the eigenvalues.
        residuals: ‖Hv − λv‖ of each, ‖v‖ = 1.
        converged: whether each residual is within the tolerance.
        products: operator products that were used.
        searched: whether nothing that belongs above the last value can have been missed: one start sees one vector of
            each eigenspace, so a further one, orthogonal to what was found, has looked for more.
    """

    values: list[float]
    residuals: list[float]
    converged: list[bool]
    products: int
    searched: bool

    def outcome(self) -> dict[str, Any]:
        """What the protocol of a measurement says of how it went."""
        return {
            "products": self.products,
            "residuals": self.residuals,
            "converged": self.converged,
            "searched": self.searched,
        }


@dataclass(frozen=True)
class _Pair:
    value: float
    residual: float
    converged: bool
    vector: Tensor


def top(
    product: Product,
    random: Callable[[], Tensor],
    count: int,
    *,
    order: str = "algebraic",
    tolerance: float = 1e-3,
    max_products: int = 300,
) -> Spectrum:
    """The `count` largest eigenvalues of H, algebraically or by magnitude.

    Lanczos from a random vector, then from one orthogonal to the eigenvectors found, until such a run finds nothing
    above the last of them. (For `count` = 1 one run does: a second vector would have the same value.) Memory beside
    that of a product: (m + count + 4)·N numbers for N weights and a longest run of m products. The host waits for the
    device every third step.

    Args:
        product: v ↦ Hv for flat vectors [N].
        random: draws a vector [N], in the dtype and on the device that the basis shall have.
        count: how many, in [1, N].
        order: "algebraic" (default; λ₁ ≥ λ₂ ≥ …) or "magnitude" (|λ₁| ≥ |λ₂| ≥ …, signs kept).
        tolerance: an eigenvalue has converged where ‖Hv − λv‖ ≤ tolerance·|λ|, or is zero up to rounding.
        max_products: the budget, ≥ 1, default 300; what has not converged within it is marked.

    Raises:
        ValueError: if an argument is outside of what is said here.
        Unmeasurable: if a product is not finite.
    """
    start = random()
    limits.integer("count", count, low=1, high=len(start))
    limits.choice("order", order, ORDERS)
    limits.number("tolerance", tolerance, above=0)
    limits.integer("max_products", max_products, low=1)
    key = np.abs if order == "magnitude" else np.asarray
    found: list[_Pair] = []
    used, searched = 0, False
    while not searched and used < max_products:
        bar = float(key(found[-1].value)) if len(found) == count else None
        krylov = Krylov(product, start, [pair.vector for pair in found])
        pairs = _climb(krylov, count - len(found) or 1, key, tolerance, max_products - used, bar)
        used += krylov.steps
        known = [pair.value for pair in [*found, *pairs]]
        slack = 0.0 if bar is None else tolerance * abs(bar) + ROUNDING * krylov.eps * float(np.max(np.abs(known)))
        news = [pair for pair in pairs if bar is None or float(key(pair.value)) > bar + slack]
        searched = not news or len(start) == len(found) + len(news) or (count == 1 and len(pairs) == 1)
        found = sorted([*found, *news], key=lambda pair: -float(key(pair.value)))[:count]
        if not all(pair.converged for pair in found):
            searched = False
            break
        start = random()
    return Spectrum(
        [pair.value for pair in found],
        [pair.residual for pair in found],
        [pair.converged for pair in found],
        used,
        searched,
    )


def quadrature(product: Product, start: Tensor, steps: int) -> tuple[Floats, Floats]:
    """Nodes θ and weights τ with Σ τ_i f(θ_i) ≈ vᵀf(H)v/vᵀv: Gauss quadrature of the spectrum that v = `start` sees."""
    krylov = Krylov(product, start)
    for _ in range(min(steps, len(start))):
        krylov.step()
    seen = krylov.look()
    return seen.values, seen.vectors[0] ** 2


@dataclass(frozen=True)
class _Ritz:
    """The tridiagonal matrix as the host sees it: Ritz values, their vectors in the basis, their residuals."""

    values: Floats
    vectors: Floats
    residuals: Floats
    exhausted: bool


class Krylov:
    """The Krylov space of an operator and a start vector, orthogonal to some vectors, with an orthonormal basis.

    Args:
        product: v ↦ Hv.
        start: its first vector; it need not be normalised.
        locked: orthonormal vectors that are kept out.
    """

    def __init__(self, product: Product, start: Tensor, locked: Sequence[Tensor] = ()) -> None:
        self.product = product
        self.eps = torch.finfo(start.dtype).eps
        self._locked = [torch.stack(list(locked))] if locked else []
        self._blocks: list[Tensor] = []
        self._diagonal: list[Tensor] = []
        self._beside: list[Tensor] = []
        self._next = self._orthogonal(start / norm([start]).to(start.dtype))
        self._room = len(start) - len(locked)
        self._grow(norm([self._next]))

    @property
    def steps(self) -> int:
        """Products done."""
        return len(self._beside)

    def step(self) -> None:
        """One product, orthogonalised twice against the whole basis; the host waits for nothing."""
        q = self._blocks[-1][self.steps % BLOCK]
        w = self.product(q)
        self._diagonal.append(dot([q], [w]))
        self._next = self._orthogonal(self._orthogonal(w))
        length = norm([self._next])
        self._beside.append(length)
        self._grow(length)

    def look(self) -> _Ritz:
        """What the basis knows so far; the host waits for the device here."""
        from scipy.linalg import eigh_tridiagonal

        diagonal, beside = torch.stack([torch.stack(self._diagonal), torch.stack(self._beside)]).cpu().numpy()
        if not (np.isfinite(diagonal).all() and np.isfinite(beside).all()):
            raise Unmeasurable("a Hessian product is not finite: the loss has no curvature there, or it overflows")
        scale = max(np.abs(diagonal).max(), beside.max())
        ends = np.flatnonzero(beside <= ROUNDING * self.eps * scale)
        size = int(ends[0]) + 1 if len(ends) else len(diagonal)
        values, vectors = eigh_tridiagonal(diagonal[:size], beside[: size - 1])
        return _Ritz(values, vectors, np.abs(beside[size - 1] * vectors[-1]), bool(len(ends)) or size == self._room)

    def vectors(self, coefficients: Floats) -> list[Tensor]:
        """The vectors with these coefficients [size, k] in the basis."""
        weights = torch.from_numpy(coefficients).to(self._next)
        pieces = zip(weights.split(BLOCK), self._blocks, strict=False)
        return list(torch.stack([rows.T @ block[: len(rows)] for rows, block in pieces]).sum(dim=0))

    def _grow(self, length: Tensor) -> None:
        """Admit the next vector to the basis; where nothing is left of it, zeros."""
        if self.steps % BLOCK == 0:
            self._blocks.append(torch.zeros(BLOCK, len(self._next), dtype=self._next.dtype, device=self._next.device))
        (unit,) = scaled([self._next], ratio(torch.ones_like(length), length))
        self._blocks[-1][self.steps % BLOCK].copy_(unit)

    def _orthogonal(self, w: Tensor) -> Tensor:
        for block in (*self._locked, *self._blocks):
            w = torch.addmv(w, block.T, block @ w, alpha=-1)
        return w


def _climb(krylov: Krylov, wanted: int, key: Any, tolerance: float, budget: int, bar: float | None) -> list[_Pair]:
    """Step until the wanted pairs have converged, or surely lie below the bar, or nothing more comes of it."""
    while True:
        for _ in range(min(LOOK_EVERY, budget - krylov.steps)):
            krylov.step()
        seen = krylov.look()
        best = np.argsort(-key(seen.values))[:wanted]
        values, residuals = seen.values[best], seen.residuals[best]
        rounding = ROUNDING * krylov.eps * np.abs(seen.values).max()
        converged = residuals <= np.maximum(tolerance * np.abs(values), rounding)
        enough = len(best) == wanted and converged.all()
        below = bar is not None and residuals[0] <= max(LOOSE * abs(bar), rounding) and key(values[0]) < bar
        if enough or below or seen.exhausted or krylov.steps >= budget:
            vectors = krylov.vectors(seen.vectors[:, best])
            told = zip(values.tolist(), residuals.tolist(), converged.tolist(), vectors, strict=True)
            return [_Pair(*pair) for pair in told]
