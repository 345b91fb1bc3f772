"""What a rule is: it turns one batch into one gradient, and a stock optimizer does the rest."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.oracle import Mean, Oracle, Term
from sam_repro.vectors import Vector, moved, norm, ratio, scaled


class Observation(NamedTuple):
    """The losses, vectors and outputs that a backward has anyway, for diagnostics. Nothing is computed for it."""

    losses: list[Tensor]
    vectors: list[Vector]
    outputs: Tensor | None


class Rule(ABC):
    """Turns one batch into the gradient that the base optimizer takes (abstract).

    A subclass says what it asks the oracle (`terms`), how the answers become one gradient (`combine`), and what that
    costs (`passes`, `products`); with `allows_decay_in_loss = False` that its gradients are meant without weight decay.

    Args:
        base: any `torch.optim` optimizer; its parameters that require a gradient are the rule's.
    """

    rho: Tensor | None = None
    allows_decay_in_loss: bool = True

    def __init__(self, base: Optimizer) -> None:
        self.base = base
        self.steps = 0

    @abstractmethod
    def terms(self, oracle: Oracle, phase: str) -> list[Term]:
        """The vectors of one part of the batch, the gradient at w first; each is averaged over parts and ranks."""

    @abstractmethod
    def combine(self, *vectors: Vector) -> Vector:
        """The gradient for the base, from the averaged vectors of `terms`."""

    @abstractmethod
    def passes(self, step: int) -> int:
        """Forward + backward passes over the whole batch in this step."""

    def products(self, step: int) -> int:
        """Hessian or Gauss–Newton products over the whole batch in this step."""
        return 0

    def phase(self, step: int) -> str:
        """What kind of step this is, a pure function of the step, counted from 0."""
        return "full"

    @property
    def params(self) -> list[Tensor]:
        """The base's parameters that require a gradient."""
        return [p for group in self.base.param_groups for p in group["params"] if p.requires_grad]

    def backward(
        self,
        oracle: Oracle,
        m: int | None = None,
        mean: Mean | None = None,
        observe: Callable[[Observation], None] | None = None,
    ) -> Tensor:
        """Leave the rule's gradient in `p.grad` and the weights bitwise as they were.

        Args:
            oracle: the batch.
            m: examples that share one perturbation, default the whole batch. The terms of the parts are averaged,
                weighted by size, and combined once.
            mean: averages a list of tensors over ranks; nothing on one process.
            observe: called once with the averaged losses and vectors, before they are combined.

        Returns:
            The mean loss at w, a fresh 0-dim tensor on the device.

        Raises:
            ValueError: if weight decay is a part of the loss and the rule takes its gradients without.
        """
        phase, params = self.phase(self.steps), self.params
        if not self.allows_decay_in_loss and any(oracle.objective.weight_decay(p) for p in params):
            name = type(self).__name__
            raise ValueError(f"{name} takes gradients without weight decay: give it to the base, not to the objective")
        terms: list[Term] = []
        for part in oracle.parts(m, mean):
            terms = _added(terms, self.terms(part, phase), part.share)
        vectors = [term.vector for term in terms]
        losses = [term.loss for term in terms if term.loss is not None]
        if mean is not None:
            vectors, losses = [mean(vector) for vector in vectors], mean(losses)
        if observe is not None:
            observe(Observation(losses, vectors, terms[0].outputs))
        given = [any(flags) for flags in zip(*(term.given for term in terms if term.given), strict=True)]
        with torch.no_grad():
            gradient = self.combine(*vectors)
        for p, u, g in zip(params, gradient, given, strict=True):
            p.grad = _laid_out_as(p, u) if g else None
        return losses[0]

    def step(self, oracle: Oracle, m: int | None = None) -> Tensor:
        """One update: `backward`, the base's step, the counter. Returns the mean loss before the update."""
        loss = self.backward(oracle, m)
        self.base.step()
        self.steps += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The counter and the base's state: all that the next step depends on besides the weights."""
        return {"steps": self.steps, "base": self.base.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.steps = state["steps"]
        self.base.load_state_dict(state["base"])


class TwoPass(Rule):
    """A rule with a gradient at w and one at w + ε: SAM and its relatives (abstract).

    Args:
        base: the optimizer below.
        rho: radius ρ of the perturbation, ≥ 0. Kept as the float64 0-dim tensor `rho`, which a schedule may fill.

    Memory: two vectors (the saved weights, and g while it is needed) beside the base's.
    """

    def __init__(self, base: Optimizer, rho: float) -> None:
        limits.radius("rho", rho)
        super().__init__(base)
        self.rho: Tensor = torch.tensor(rho, dtype=torch.float64, device=self.params[0].device)
        self._backup: Vector = []

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε, the perturbation of the weights `w` where the gradient is `g`: SAM's ρ·g/‖g‖₂, and 0 where g = 0."""
        return scaled(g, ratio(self.rho, norm(g)))

    @abstractmethod
    def combine(self, g: Vector, g_s: Vector) -> Vector:
        """The gradient for the base, from g = ∇L(w) and g_s = ∇L(w + ε)."""

    def terms(self, oracle: Oracle, phase: str) -> list[Term]:
        """∇L(w), which moves the running statistics, and ∇L(w + ε), which does not."""
        w = self.params
        first = oracle.gradient(w)
        with torch.no_grad():
            epsilon = self.ascent(first.vector, w)
        with moved(w, by=epsilon, backup=self._room(w)):
            del epsilon
            second = oracle.gradient(w, update_statistics=False)
        return [first, second]

    def passes(self, step: int) -> int:
        """Two."""
        return 2

    def _room(self, w: Vector) -> Vector:
        """Where the weights are kept meanwhile: made once, so that addresses stay."""
        if len(self._backup) != len(w) or any(b.shape != p.shape for b, p in zip(self._backup, w, strict=True)):
            self._backup = [torch.empty_like(p, requires_grad=False) for p in w]
        return self._backup


def _laid_out_as(p: Tensor, u: Tensor) -> Tensor:
    """`u` with the strides of `p`: a fused base walks through both as they lie in memory."""
    return u if u.stride() == p.stride() else torch.empty_like(p, requires_grad=False).copy_(u)


def _added(total: list[Term], terms: list[Term], share: float) -> list[Term]:
    """Total + share·terms, term by term; a part that is the whole batch stays bitwise what it is."""
    if share == 1.0:
        return terms
    weighted = [
        Term(
            list(torch._foreach_mul(term.vector, share)),
            term.given,
            None if term.loss is None else term.loss * share,
            term.outputs,
        )
        for term in terms
    ]
    return [a.plus(b) for a, b in zip(total, weighted, strict=True)] if total else weighted
