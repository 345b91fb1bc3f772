"""A rule behind the usual closure convention, for loops that are not ours."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_repro.optimizer.rule import Rule
from sam_repro.oracle import Mean, Objective, Term, drawn_noise, reseed

Closure = Callable[[], Tensor]


class ByClosure(Optimizer):
    """Looks like a `torch.optim` optimizer; `step(closure)` takes as many passes as the rule asks for.

    The closure computes the loss of one batch, calls `backward` on it and returns it, as for `torch.optim.LBFGS`; it
    may call `zero_grad`. Learning-rate schedulers, `add_param_group` and `zero_grad` act on the rule's base.

    Args:
        rule: any rule that asks for gradients only; one that asks for Hessian products needs an `Objective`.
        model: the network, whose running statistics only the first pass moves.
    """

    def __init__(self, rule: Rule, model: nn.Module) -> None:
        # not Optimizer.__init__, which would make groups of its own: the base's are the only ones
        self.rule = rule
        self.defaults = rule.base.defaults
        self._objective = Objective(model, _no_criterion)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's groups."""
        return self.rule.base.param_groups

    @property
    def state(self) -> Any:
        """The base's state."""
        return self.rule.base.state

    def step(self, closure: Closure) -> Tensor:
        """One update; returns the mean loss at the weights before it.

        Args:
            closure: computes the loss of the batch, calls `backward` on it, and returns it.

        Raises:
            TypeError: if the closure returns no tensor.
        """
        return self.rule.step(_ClosureOracle(self._objective, closure, drawn_noise()))  # type: ignore[arg-type]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the base's parameters."""
        self.rule.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give the base one more group."""
        self.rule.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The rule's state, the base's within."""
        return self.rule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.rule.load_state_dict(state_dict)


class _ClosureOracle:
    """Answers with what a closure leaves in `p.grad`."""

    share = 1.0

    def __init__(self, objective: Objective, closure: Closure, noise: int) -> None:
        self.objective = objective
        self.closure = closure
        self.noise = noise

    def parts(self, m: int | None, mean: Mean | None = None) -> Iterator["_ClosureOracle"]:
        yield self

    def gradient(self, params: Sequence[Tensor], update_statistics: bool = True) -> Term:
        for p in params:
            p.grad = None
        reseed(self.noise, params[0].device)
        with torch.enable_grad(), self.objective.region(params[0].device, update_statistics):
            loss = self.closure()
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"the closure returned {type(loss).__name__}: it must return the loss, after loss.backward()"
            )
        given = [p.grad is not None for p in params]
        vector = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        for p in params:
            p.grad = None
        return Term(vector, given, loss.detach())

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"{name}: a closure gives gradients only; a rule that asks for more needs an Objective")


def _no_criterion(outputs: Tensor, targets: Tensor) -> Tensor:
    raise NotImplementedError("the closure has the criterion")
