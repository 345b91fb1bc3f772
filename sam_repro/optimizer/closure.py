"""A rule behind the usual closure convention, for loops that are not ours."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_repro.optimizer.rule import Rule
from sam_repro.oracle import Mean, Objective, Oracle, Term, draw_noise, reseed, take_gradients

Closure = Callable[[], Tensor]


class ByClosure(Optimizer):
    """A `torch.optim` optimizer whose `step(closure)` takes as many passes as the rule asks for.

    The closure computes the loss of one batch, calls `backward` on it and returns it, as for `torch.optim.LBFGS`; it
    may call `zero_grad`, and may call `backward` on several losses if it returns their sum. The groups and the state
    are those of the rule's base: learning-rate schedulers and `add_param_group` act on it.

    Args:
        rule: any rule that asks for gradients only; one that asks for Hessian products needs an `Objective`.
        model: the network, whose running statistics only the first pass moves.
    """

    def __init__(self, rule: Rule, model: nn.Module) -> None:
        # not Optimizer.__init__, which would make groups of its own: what an unpickled one gets is all it needs
        self.__setstate__({"rule": rule, "model": model})

    def __getstate__(self) -> dict[str, Any]:
        return {"rule": self.rule, "model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.rule: Rule = state["rule"]
        self.model: nn.Module = state["model"]
        self._objective = Objective(self.model, _no_criterion)
        super().__setstate__({})

    @property
    def defaults(self) -> dict[str, Any]:
        """The base's defaults."""
        return self.rule.base.defaults

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's groups."""
        return self.rule.base.param_groups

    @property
    def state(self) -> Any:
        """The base's state."""
        return self.rule.base.state

    def step(self, closure: Closure) -> Tensor:
        """One update; returns the loss at the weights before it.

        Args:
            closure: computes the loss of the batch, calls `backward` on it, and returns it.

        Raises:
            TypeError: if the closure returns no tensor.
            ValueError: if what it called `backward` on is not the loss that it returns, or has no gradient here.
        """
        oracle = _ClosureOracle(self._objective, closure, draw_noise())
        return self.rule.step(cast(Oracle, oracle))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the base's parameters."""
        self.rule.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give the base one more group."""
        self.rule.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The rule's state, the base's within."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state = self.rule.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        self.rule.load_state_dict(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)


class _ClosureOracle:
    """Answers with what a closure leaves in `p.grad`."""

    share = 1.0

    def __init__(self, objective: Objective, closure: Closure, noise: int) -> None:
        self.objective = objective
        self.closure = closure
        self.noise = noise
        self.buffers = objective.buffers()

    def parts(self, m: int | None, mean: Mean | None = None) -> Iterator["_ClosureOracle"]:
        yield self

    def gradient(self, params: Sequence[Tensor], update_statistics: bool = True) -> Term:
        for p in params:
            p.grad = None
        reseed(self.noise, params[0].device)
        held = self.buffers.held(statistics=not update_statistics, others=not update_statistics)
        region = self.objective.region(params[0].device)
        with torch.enable_grad(), held, region, _backwards() as roots:
            loss = self.closure()
        _refuse_other_loss(loss, roots)
        vector, given = take_gradients(params)
        if not any(given):
            raise ValueError(
                "closure: no parameter of this optimizer got a gradient; call backward on the loss, of the network "
                "whose parameters it has (a copied optimizer has copied parameters)"
            )
        return Term(vector, given, loss.detach())

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"{name}: a closure gives gradients only; a rule that asks for more needs an Objective")


@contextmanager
def _backwards() -> Iterator[list[Tensor]]:
    """Inside the block the list gets every loss that `backward` is called on; a GradScaler is refused."""
    roots: list[Tensor] = []
    running: list[bool] = []
    original, scale = torch.autograd.backward, torch.amp.GradScaler.scale

    def note(tensors: Any, grad_tensors: Any = None, *arguments: Any, **options: Any) -> None:
        if not running:  # a checkpointed block calls backward within backward
            roots.extend(_weighted(tensors, grad_tensors))
        running.append(True)
        try:
            original(tensors, grad_tensors, *arguments, **options)
        finally:
            running.pop()

    def refuse(scaler: torch.amp.GradScaler, outputs: Any) -> Any:
        if scaler.is_enabled():
            raise ValueError("closure: a GradScaler scales the loss, and with it the update; use bfloat16 without one")
        return scale(scaler, outputs)

    torch.autograd.backward, torch.amp.GradScaler.scale = note, refuse  # type: ignore[assignment, method-assign]
    try:
        yield roots
    finally:
        torch.autograd.backward, torch.amp.GradScaler.scale = original, scale  # type: ignore[method-assign]


def _weighted(tensors: Any, weights: Any) -> list[Tensor]:
    """What `backward` differentiates: each tensor, or its product with the gradient that it is given."""
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    weights = [weights] if weights is None or isinstance(weights, Tensor) else list(weights)
    weights = weights * len(tensors) if len(weights) < len(tensors) else weights
    return [x if w is None else (x.detach() * w).sum() for x, w in zip(tensors, weights, strict=True)]


def _refuse_other_loss(loss: Any, roots: Sequence[Tensor]) -> None:
    """Refuse a closure whose gradient is not that of the loss which it returns.

    Where it did not call `backward` on that very tensor, the host reads the losses.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"the closure returned {type(loss).__name__}: it must return the loss, after loss.backward()")
    if not roots or (len(roots) == 1 and roots[0] is loss):
        return
    values = torch.stack([root.detach().double().reshape(()) for root in roots])
    total, returned = values.sum(), loss.detach().double()
    if (total - returned).abs() > 0.01 * values.abs().sum():
        raise ValueError(
            f"closure: it returned a loss of {float(returned):.6g} and called backward on {float(total):.6g}; do not "
            "scale the loss, and return the sum of what backward is called on"
        )


def _no_criterion(outputs: Tensor, targets: Tensor) -> Tensor:
    raise NotImplementedError("the closure has the criterion")
