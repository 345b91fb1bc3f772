"""What people write in their own loops that would train wrongly without a word: each is refused in one line."""

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro.oracle import Mean, Objective, Oracle

FIRST_AND_SECOND = ("first_step", "second_step")
"""The two halves of a step in another well-known implementation of SAM."""

OF_GROUPS = ("params", "param_names", "norm", "lr_factor")
"""What `parameter_groups` and torch put into a group."""


def refuse_base(base: Any, arguments: Sequence[str]) -> None:
    """Refuse what cannot be the base of a rule.

    Args:
        base: what was given as one.
        arguments: names of the rule's own settings, which no group of the base can have for itself.

    Raises:
        TypeError: if it is no optimizer, or its step needs a closure.
        ValueError: if a group has a setting of the rule.
    """
    if not isinstance(base, Optimizer):
        raise TypeError(
            f"base: {type(base).__name__} is no optimizer; give one, such as torch.optim.SGD(model.parameters(), "
            "lr=0.1)"
        )
    if any(x.default is x.empty and x.name == "closure" for x in inspect.signature(base.step).parameters.values()):
        raise TypeError(
            f"base: the step of {type(base).__name__} needs a closure, and a rule has a gradient for it alone; give "
            "an optimizer that steps without one, such as torch.optim.SGD"
        )
    for group in base.param_groups:
        if own := sorted({*arguments, "rho"} & set(group) - {*base.defaults, *OF_GROUPS}):
            raise ValueError(
                f"base: a group has its own {', '.join(own)}, and a rule has one for all groups; give it to the rule, "
                "and take it out of the group"
            )


def refuse_frozen(params: Sequence[Tensor]) -> None:
    """Refuse a base of which nothing is trained.

    Raises:
        ValueError: if there are no such parameters.
    """
    if not params:
        raise ValueError("base: none of its parameters requires a gradient; unfreeze what shall be trained")


def refuse_other_than_oracles(given: Sequence[Any]) -> None:
    """Refuse what people write in their own loops in place of a batch.

    Raises:
        TypeError: naming it.
    """
    if not given:
        raise TypeError("rule.step() without a batch: write rule.step(objective(inputs, targets))")
    for one in given:
        if isinstance(one, int):
            raise TypeError(f"{one}: is no batch but a number; if it is m, name it: m={one}")
        if not hasattr(one, "parts"):
            raise TypeError(
                f"{type(one).__name__}: is no batch; write rule.step(objective(inputs, targets)), or ByClosure(rule, "
                "model).step(closure)"
            )


def refuse_scaler(base: Optimizer) -> None:
    """Refuse a `GradScaler` that steps the base: it divides a gradient that nobody has multiplied.

    Raises:
        RuntimeError: if an enabled one does.
    """
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is torch.amp.GradScaler.step.__code__ and frame.f_locals["self"].is_enabled():
            for left in ("grad_scale", "found_inf"):  # by which a fused base would divide in later steps, too
                vars(base).pop(left, None)
            raise RuntimeError(
                "GradScaler: divides by a scale with which the rule's gradient was not multiplied; use bfloat16 "
                "without one, Objective(model, criterion, autocast=torch.bfloat16), and rule.update()"
            )


def refuse_decay(rule: str, objective: Objective, params: Sequence[Tensor]) -> None:
    """Refuse weight decay in the loss, for a rule that takes its gradients without.

    Raises:
        ValueError: if there is one.
    """
    if any(objective.weight_decay(p) for p in params):
        raise ValueError(f"{rule} takes gradients without weight decay: give it to the base, not to the objective")


def refuse_without_rows(rule: str, oracle: Oracle, mean: Mean | None) -> None:
    """Refuse what a rule that remembers something of each example cannot do with.

    Raises:
        ValueError: if the batch has no rows, or there are several ranks.
    """
    if oracle.rows is None:
        raise ValueError(
            f"{rule} remembers something of each example: number them, objective(inputs, targets, rows=rows)"
        )
    if mean is not None:
        raise ValueError(f"{rule}: each rank would remember its own examples alone; train in one process")


def refuse_second_backward(is_left: bool) -> None:
    """Refuse to lose a gradient that no update has taken.

    Raises:
        RuntimeError: if there is one.
    """
    if is_left:
        raise RuntimeError(
            "backward: a second call before a step would lose the gradient of the first; for one step from several "
            "batches write rule.step(objective(a), objective(b)), or drop the gradient by rule.base.zero_grad()"
        )


def refuse_no_gradient(given: Sequence[bool]) -> None:
    """Refuse a loss that depends on no parameter of the base: it would train nothing.

    Raises:
        ValueError: if no parameter was given a gradient.
    """
    if not any(given):
        raise ValueError(
            "no parameter of the base got a gradient: the objective is of another network, or weights were replaced "
            "after the optimizer was made; make both of the same model, as it is now"
        )


def missing(rule: str, name: str, base: Optimizer | None) -> str:
    """What is said of an attribute that a rule does not have."""
    if name in FIRST_AND_SECOND:
        return f"{rule}.{name}: one step is rule.step(objective(inputs, targets)), which takes all passes"
    if hasattr(base, name):
        return f"{rule} is no optimizer, its base is one: write rule.base.{name}, and give a scheduler rule.base"
    return f"{rule} has no {name}"
