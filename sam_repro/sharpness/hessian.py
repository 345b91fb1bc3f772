"""The Hessian's spectrum: its top, its trace, its density."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sam_repro import limits
from sam_repro.sharpness.curvature import Curvature
from sam_repro.sharpness.density import density
from sam_repro.sharpness.lanczos import Spectrum, quadrature
from sam_repro.sharpness.measure import ByLanczos, Subject, named
from sam_repro.sharpness.measurement import Measurement
from sam_repro.sharpness.notes import Notes
from sam_repro.sharpness.trace import hutchpp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNT = 5
POINTS = 400  # of the density's grid


@dataclass(frozen=True, kw_only=True)
class Hessian(ByLanczos):
    """λ_1 ≥ … ≥ λ_5, λ_max/λ_5, trace and spectral density of ∇²L, L the mean loss of a sample.

    Args:
        trace_products: products for the trace (Hutch++), ≥ 6; default 60.
        probes: random vectors for the density (stochastic Lanczos quadrature), ≥ 2; default 4.
        steps: Lanczos steps for each of them, default 50; so many vectors of memory.
        width: standard deviation of the Gaussian that smooths the density, as a share of the spectrum's span; default
            0.01.

    `trace_se` and `density_se` are standard errors over the random vectors.
    """

    trace_products: int = 60
    probes: int = 4
    steps: int = 50
    width: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.count("trace_products", self.trace_products, low=6)
        limits.count("probes", self.probes, low=2)
        limits.count("steps", self.steps, low=2)
        limits.number("width", self.width, above=0, high=1)

    def __call__(self, subject: Subject, notes: Notes) -> Measurement:
        """Measure `lambda_1` … `lambda_5`, `lambda_max_over_lambda_5`, `trace`, `trace_se`, and the density."""
        pieces = 2 + self.probes
        with self.curvature(subject) as curvature:
            spectrum = Spectrum(**notes.piece("eigenvalues", pieces, lambda: vars(self.top(curvature, COUNT, notes))))
            trace, error = notes.piece(
                "trace", pieces, lambda: hutchpp(curvature.hvp, self.signs(curvature), self.trace_products)
            )
            random = self.gaussian(curvature)
            starts = [random() for _ in range(self.probes)]
            probes = [
                notes.piece(f"probe {i}", pieces, partial(self._probe, curvature, start))
                for i, start in enumerate(starts)
            ]
            protocol = self.solved(
                subject,
                curvature,
                spectrum,
                trace=f"Hutch++ with {self.trace_products} products",
                density=f"stochastic Lanczos quadrature, {self.probes} vectors of {self.steps} steps",
                width=self.width,
            )
        x, p, p_error = density(probes, POINTS, self.width)
        arrays = {"eigenvalue": x.tolist(), "density": p.tolist(), "density_se": p_error.tolist()}
        values = named(spectrum, [f"lambda_{i + 1}" for i in range(COUNT)])
        if values.get("lambda_5"):
            values["lambda_max_over_lambda_5"] = values["lambda_1"] / values["lambda_5"]
        values |= {"trace": trace, "trace_se": error}
        return Measurement("hessian", values, protocol, arrays, lambda figure: _draw(figure, arrays))

    def _probe(self, curvature: Curvature, start: Any) -> list[list[float]]:
        nodes, weights = quadrature(curvature.hvp, start, self.steps)
        return [nodes.tolist(), weights.tolist()]


def _draw(figure: "Figure", arrays: dict[str, Any]) -> None:
    axes = figure.subplots()
    axes.semilogy(arrays["eigenvalue"], [max(p, 1e-12) for p in arrays["density"]])
    axes.set(xlabel="eigenvalue of the Hessian", ylabel="density", ylim=(1e-6, None))
