"""The second-order term against autograd through ε."""

import pytest
import torch
import torch.nn.functional as F
from dense import RHO, batch, flat, loss, normed, our_gradient, sam, toy
from torch import Tensor

from sam_repro.optimizer import SAMSecondOrder
from sam_repro.oracle import Objective

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("m", [12, 5])
def test_second_order_equals_autograd_through_epsilon(m: int, weight_decay: float) -> None:
    model = toy()
    x, y = batch()
    w = flat(model.parameters()).requires_grad_()

    def total(v: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return loss(v, a, b) + weight_decay / 2 * v.square().sum()

    expected = torch.zeros_like(w)
    for a, b in zip(x.split(m), y.split(m), strict=True):
        (g,) = torch.autograd.grad(total(w, a, b), w, create_graph=True)
        (whole,) = torch.autograd.grad(total(w + RHO * g / g.norm(), a, b), w)
        expected += whole * len(b) / len(y)
    ours = our_gradient(model, x, y, m, rule=SAMSecondOrder, weight_decay=weight_decay)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    plain = our_gradient(model, x, y, m, weight_decay=weight_decay)
    assert (ours - plain).norm() > 1e-3 * plain.norm()


@pytest.mark.parametrize("perturb", ["no_norm", "only_norm"])
def test_second_order_over_a_part_of_the_weights_equals_autograd(perturb: str) -> None:
    model = normed()
    x, y = batch()
    weights = dict(model.named_parameters())
    moves = {name: name.startswith("1.") == (perturb == "only_norm") for name in weights}

    def value(named: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, named, (x,)), y)

    g = torch.autograd.grad(value(weights), list(weights.values()), create_graph=True)
    length = torch.cat([t.flatten() for t, moved in zip(g, moves.values(), strict=True) if moved]).norm()
    top = {name: p + RHO * t / length if moves[name] else p for (name, p), t in zip(weights.items(), g, strict=True)}
    expected = flat(torch.autograd.grad(value(top), list(weights.values())))
    ours = our_gradient(model, x, y, perturb=perturb, rule=SAMSecondOrder)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_observer_sees_the_gradients_at_both_ends() -> None:
    """With the term of second order, too."""
    model, seen = toy(), []
    rule = sam(model, rule=SAMSecondOrder)
    rule.backward(Objective(model, F.cross_entropy)(*batch()), observe=seen.append)
    assert [name for name, term in seen[0].items() if term.loss is not None] == ["g", "g_s"]
    torch.testing.assert_close(flat(seen[0]["g_s"].vector), our_gradient(toy(), *batch()), rtol=0, atol=0)
