"""The statistic that Luong (2024) printed as sharpness."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from sam_repro import limits, seeds
from sam_repro.sharpness.curvature import MODES, Curvature, undisturbed
from sam_repro.sharpness.lanczos import Spectrum, top
from sam_repro.sharpness.measure import Measure, Subject, generator
from sam_repro.sharpness.measurement import Measurement
from sam_repro.sharpness.notes import Notes
from sam_repro.sharpness.power import top_by_power

SOLVERS = ("lanczos", "power")
COUNT = 5
ITERATIONS, TOLERANCE = 100, 1e-3  # of the study's power iteration


@dataclass(frozen=True, kw_only=True)
class Luong2024(Measure):
    """Top five Hessian eigenvalues by absolute value of each of many mini-batches, pooled.

    For each batch of augmented training images by itself: the five eigenvalues of the Hessian of its mean loss that are
    largest by absolute value. Of all of them together: the mean of the positive ones (what the study printed), the
    maximum, the share of negative ones. It is neither λ_max nor of the whole set: mini-batches are sharper.

    Args:
        solver: "lanczos" (default, converged) or "power" (100 iterations with deflation, stopped where the Rayleigh
            quotient moves by less than 1e-3: what was printed; `unconverged_share` is the share not stopped so).
        batch_size: examples of a batch, default 256.
        batches: how many, default 40; fewer where an epoch has fewer.
        mode: "eval" (default) or "train".
        tolerance: relative residual of `solver="lanczos"`, default 1e-3.
        max_products: its budget for each batch, default 400.
        seed: of the order, the augmentation and the start vectors; default 0.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    solver: str = "lanczos"
    batch_size: int = 256
    batches: int = 40
    mode: str = "eval"
    tolerance: float = 1e-3
    max_products: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        limits.choice("solver", self.solver, SOLVERS)
        limits.integer("batch_size", self.batch_size, low=1)
        limits.count("batches", self.batches)
        limits.choice("mode", self.mode, MODES)
        limits.number("tolerance", self.tolerance, above=0)
        limits.count("max_products", self.max_products)
        limits.seed("seed", self.seed)

    def __call__(self, subject: Subject, notes: Notes) -> Measurement:
        """Measure `mean_positive` (absent where none is positive), `maximum`, `negative_share`, `unconverged_share`."""
        parts = subject.rows(self.seed).split(self.batch_size)[: self.batches]
        with undisturbed(subject.model, self.mode):
            spectra = [
                Spectrum(**notes.piece(f"batch {i}", len(parts), partial(self._batch, subject, i, rows)))
                for i, rows in enumerate(parts)
            ]
        values = _statistic(spectra)
        trusted = self.solver == "power" or all(all(s.converged) and s.searched for s in spectra)
        if not trusted:
            values = {name if name == "unconverged_share" else f"{name}_unconverged": v for name, v in values.items()}
        protocol = self._protocol(subject, parts, spectra)
        return Measurement("luong2024", values, protocol, {"eigenvalues": [s.values for s in spectra]})

    def _batch(self, subject: Subject, index: int, rows: torch.Tensor) -> dict[str, Any]:
        split = subject.split
        (raw,) = split.read([rows], [seeds.of_measure(self.seed, index)])
        batch = split.batch(raw, generator(self.seed, split.drawn_on, index))
        curvature = Curvature(subject.model, subject.criterion, [batch[:2]])
        starts = generator(self.seed, "cpu", index)

        def random() -> torch.Tensor:
            return torch.randn(curvature.size, generator=starts).to(curvature.params[0])

        if self.solver == "power":
            spectrum = top_by_power(curvature.hvp, random, COUNT, tolerance=TOLERANCE, iterations=ITERATIONS)
        else:
            spectrum = top(
                curvature.hvp,
                random,
                COUNT,
                order="magnitude",
                tolerance=self.tolerance,
                max_products=self.max_products,
            )
        return vars(spectrum)

    def _protocol(self, subject: Subject, parts: Any, spectra: list[Spectrum]) -> dict[str, Any]:
        params = [p for p in subject.model.parameters() if p.requires_grad]
        power = self.solver == "power"
        return subject.facts | {
            "examples": sum(map(len, parts)),
            "batch_size": self.batch_size,
            "batches": len(parts),
            "mode": self.mode,
            "parameters": "all",
            "weights": sum(p.numel() for p in params),
            "dtype": str(params[0].dtype).removeprefix("torch."),
            "seed": self.seed,
            "solver": self.solver,
            "order": "magnitude",
            "tolerance": TOLERANCE if power else self.tolerance,
            "max_products": COUNT * ITERATIONS if power else self.max_products,
            "outcome": {
                "products": sum(s.products for s in spectra),
                "largest_relative_residual": max(_relative(s) for s in spectra),
                "unsearched": sum(not s.searched for s in spectra),
            },
        }


def _statistic(spectra: list[Spectrum]) -> dict[str, float]:
    pooled = np.concatenate([s.values for s in spectra])
    positive = pooled[pooled > 0]
    return ({"mean_positive": float(positive.mean())} if len(positive) else {}) | {
        "maximum": float(pooled.max()),
        "negative_share": float((pooled < 0).mean()),
        "unconverged_share": float(1 - np.concatenate([s.converged for s in spectra]).mean()),
    }


def _relative(spectrum: Spectrum) -> float:
    told = zip(spectrum.residuals, spectrum.values, strict=True)
    return max(residual / abs(value) if value else residual for residual, value in told)
