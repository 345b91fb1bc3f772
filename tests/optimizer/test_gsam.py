"""GSAM against pytorch-optimizer, a reference with flat vectors, and the geometry of its gradient."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import batch, flat, gradient, toy
from pytorch_optimizer import GSAM as TheirGSAM
from torch import Tensor

from sam_repro.optimizer import GSAM, SAM
from sam_repro.oracle import Objective

pytestmark = pytest.mark.usefixtures("float64")
RHO, LR, MOMENTUM, STEPS = 0.1, 0.1, 0.9, 14


def base(model: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=1e-2)


def trained(make: Any, **options: Any) -> Tensor:
    model = toy()
    rule, objective = make(base(model), rho=RHO, **options), Objective(model, F.cross_entropy)
    for step in range(STEPS):
        rule.step(objective(*batch(step)))
    return flat(model.parameters())


@pytest.mark.parametrize("alpha", [0.0, 0.4, 3.0])
def test_equals_a_reference_by_hand(alpha: float) -> None:
    w, velocity = flat(toy().parameters()), 0
    for step in range(STEPS):
        g = gradient(w, *batch(step))
        g_s = gradient(w + RHO * g / g.norm(), *batch(step))
        unit = g_s / g_s.norm()
        velocity = MOMENTUM * velocity + g_s - alpha * (g - (g @ unit) * unit) + 1e-2 * w
        w = w - LR * velocity
    torch.testing.assert_close(trained(GSAM, alpha=alpha), w, rtol=1e-11, atol=1e-13)


class Constant:
    """Their schedule of the radius, at rest."""

    def step(self) -> float:
        return RHO


def test_equals_pytorch_optimizer() -> None:
    """Whose norms are float32."""
    model = toy()
    theirs = TheirGSAM(model.parameters(), base(model), model, Constant(), alpha=0.4)
    for step in range(STEPS):
        theirs.set_closure(F.cross_entropy, *batch(step))
        theirs.step()
    torch.testing.assert_close(trained(GSAM), flat(model.parameters()), rtol=1e-6, atol=1e-7)


def test_without_alpha_it_is_sam() -> None:
    assert torch.equal(trained(GSAM, alpha=0.0), trained(SAM))


def test_its_gradient_lowers_the_loss_at_the_top_as_much_as_sams_and_that_at_w_less() -> None:
    rule = GSAM(base(toy()), rho=RHO, alpha=0.7)
    g, g_s = ([torch.randn_like(p) for p in rule.params] for _ in range(2))
    d, a, b = (flat(vector) for vector in (rule.combine(g, g_s), g, g_s))
    assert float((d - b) @ b) == pytest.approx(0, abs=1e-12)
    assert float(d @ a) < float(b @ a)


def test_where_nothing_is_at_the_top_all_of_g_is_across() -> None:
    rule = GSAM(base(toy()), rho=RHO, alpha=0.5)
    g = [torch.ones_like(p) for p in rule.params]
    assert all(torch.equal(d, -0.5 * a) for d, a in zip(rule.combine(g, [0 * x for x in g]), g, strict=True))


def test_alpha_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^alpha = -0.1: must be a finite number >= 0$"):
        GSAM(base(toy()), rho=RHO, alpha=-0.1)
