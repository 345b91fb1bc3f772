"""Momentum-SAM against a reference that leaves the weights perturbed, as its authors do, with flat vectors."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import batch, flat, gradient, toy
from torch import Tensor

from sam_repro.optimizer import SGD, MomentumSAM
from sam_repro.oracle import Objective

pytestmark = pytest.mark.usefixtures("float64")
RHO, STEPS, LR, DECAY = 0.3, 14, 0.1, 1e-2
SGD_SETTINGS = {"lr": LR, "momentum": 0.9, "weight_decay": DECAY}


def trained(base: Any, settings: dict[str, Any], rule: Any = MomentumSAM, **options: Any) -> Tensor:
    model = toy()
    made = rule(base(model.parameters(), **settings), **options)
    objective = Objective(model, F.cross_entropy)
    for step in range(STEPS):
        made.step(objective(*batch(step)))
    return flat(model.parameters())


def against(v: Tensor) -> Tensor:
    return -RHO * v / v.norm() if v.norm() > 0 else torch.zeros_like(v)


@pytest.mark.parametrize("decay_at", ["perturbed", "clean"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_with_sgd_it_equals_a_reference_by_hand(decay_at: str, nesterov: bool) -> None:
    top = flat(toy().parameters())
    v = torch.zeros_like(top)
    for step in range(STEPS):
        w = top - against(v)
        d = gradient(top, *batch(step)) + DECAY * (top if decay_at == "perturbed" else w)
        v = 0.9 * v + d
        w = w - LR * (d + 0.9 * v if nesterov else v)
        top = w + against(v)
    ours = trained(torch.optim.SGD, SGD_SETTINGS | {"nesterov": nesterov}, rho=RHO, decay_at=decay_at)
    torch.testing.assert_close(ours, w, rtol=1e-11, atol=1e-13)


def test_with_adamw_it_equals_a_reference_by_hand() -> None:
    w = flat(toy().parameters())
    v, square = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(STEPS):
        g = gradient(w + against(v), *batch(step))
        v, square = 0.9 * v + 0.1 * g, 0.99 * square + 0.01 * g**2
        size = (square / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8
        w = (1 - 0.01 * DECAY) * w - 0.01 * v / (1 - 0.9 ** (step + 1)) / size
    ours = trained(torch.optim.AdamW, {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": DECAY}, rho=RHO)
    torch.testing.assert_close(ours, w, rtol=1e-10, atol=1e-12)


def test_decay_in_the_loss_is_decay_of_sgd_at_the_perturbed_weights() -> None:
    model = toy()
    rule = MomentumSAM(torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9), rho=RHO)
    objective = Objective(model, F.cross_entropy, weight_decay=DECAY)
    for step in range(STEPS):
        rule.step(objective(*batch(step)))
    theirs = trained(torch.optim.SGD, SGD_SETTINGS, rho=RHO)
    torch.testing.assert_close(flat(model.parameters()), theirs, rtol=1e-11, atol=1e-13)


def test_the_first_step_is_the_bases() -> None:
    """It has no momentum yet."""
    model, twin = toy(), toy()
    for rule in (
        MomentumSAM(torch.optim.SGD(model.parameters(), **SGD_SETTINGS), rho=RHO),
        SGD(torch.optim.SGD(twin.parameters(), **SGD_SETTINGS)),
    ):
        rule.step(Objective(model if rule.rho is not None else twin, F.cross_entropy)(*batch(0)))
    assert torch.equal(flat(model.parameters()), flat(twin.parameters()))


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adagrad])
def test_a_base_without_momentum_is_refused(base: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"^base: this {base.__name__} keeps no momentum, .*; give SGD a momentum > 0"
    ):
        MomentumSAM(base(toy().parameters(), lr=LR), rho=RHO)


class Elsewhere(torch.optim.SGD):
    """Keeps its momentum under another name."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for slots in self.state.values():
            slots["velocity"] = slots.pop("momentum_buffer")


def test_a_momentum_that_is_not_found_is_refused_and_not_taken_for_none() -> None:
    with pytest.raises(ValueError, match=r"^base: this Elsewhere keeps no momentum"):
        trained(Elsewhere, SGD_SETTINGS, rho=RHO)


def test_another_place_of_the_decay_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^decay_at = there: must be one of perturbed, clean$"):
        MomentumSAM(torch.optim.SGD(toy().parameters(), **SGD_SETTINGS), rho=RHO, decay_at="there")
