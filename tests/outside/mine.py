"""A rule that lives outside of the package, as the README shows it."""

from sam_repro.optimizer import TwoPass
from sam_repro.vectors import scaled


class USAM(TwoPass):
    """SAM without the norm: ε = ρ·g, and the base takes ∇L(w + ε) (Andriushchenko and Flammarion, 2022)."""

    def ascent(self, g, w):
        return scaled(g, self.rho)

    def combine(self, g, g_s):
        return g_s
