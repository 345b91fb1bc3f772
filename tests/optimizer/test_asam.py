"""ASAM against pytorch-optimizer and the formula of its paper by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_optimizer import SAM as TheirSAM
from torch import Tensor, nn

from sam_repro.optimizer import ASAM, parameter_groups
from sam_repro.oracle import Objective
from sam_repro.vectors import norm

pytestmark = pytest.mark.usefixtures("float64")
RHO = 0.5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator)) for _ in range(steps)
    ]


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_pytorch_optimizer(nesterov: bool) -> None:
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 1e-2}
    ours, theirs = network(), network()
    rule = ASAM(torch.optim.SGD(ours.parameters(), **options), rho=RHO)
    adaptive = TheirSAM(theirs.parameters(), torch.optim.SGD, rho=RHO, adaptive=True, **options)
    objective = Objective(ours, F.cross_entropy)
    for inputs, targets in batches(40):
        rule.step(objective(inputs, targets))
        for step in (adaptive.first_step, adaptive.second_step):
            F.cross_entropy(theirs(inputs), targets).backward()
            step(zero_grad=True)
    distance = norm([a - b for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)])
    assert distance / norm(list(theirs.parameters())) < 1e-6


@pytest.mark.parametrize("eta", [0.0, 0.01, 2.0])
def test_gradient_equals_the_formula_by_hand(eta: float) -> None:
    model = network()
    params = list(model.parameters())
    ((inputs, targets),) = batches(1)
    g = torch.autograd.grad(F.cross_entropy(model(inputs), targets), params)
    scales = [p.detach().abs() + eta for p in params]
    length = math.sqrt(sum((t * d).square().sum().item() for t, d in zip(scales, g, strict=True)))
    top = [(p + RHO * t**2 * d / length).detach().requires_grad_() for p, t, d in zip(params, scales, g, strict=True)]
    named = dict(zip(dict(model.named_parameters()), top, strict=True))
    loss = F.cross_entropy(torch.func.functional_call(model, named, (inputs,)), targets)
    expected = torch.autograd.grad(loss, top)
    ASAM(torch.optim.SGD(params, lr=0.1), rho=RHO, eta=eta).backward(Objective(model, F.cross_entropy)(inputs, targets))
    torch.testing.assert_close([p.grad for p in params], list(expected), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("named", ["base", "parameter_groups"])
def test_weights_alone_adapt_as_in_the_authors_code(named: str) -> None:
    """T = |w| + η for what has "weight" in its name, the scale of a normalisation too, and 1 for the rest."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))
    given = model.named_parameters() if named == "base" else parameter_groups(model, 0.0)
    rule = ASAM(torch.optim.SGD(given, lr=0.1), rho=RHO, eta=0.01, adapt="weights")
    names = {p: name for name, p in model.named_parameters()}
    g = [torch.randn_like(p) for p in rule.params]
    t = [p.detach().abs() + 0.01 if names[p].endswith("weight") else torch.ones_like(p) for p in rule.params]
    length = math.sqrt(sum(float((a * b).square().sum()) for a, b in zip(t, g, strict=True)))
    with torch.no_grad():
        epsilon = rule.ascent(g, rule.params)
    expected = [RHO * a**2 * b / length for a, b in zip(t, g, strict=True)]
    torch.testing.assert_close(epsilon, expected, rtol=1e-12, atol=0)


def test_weights_need_names() -> None:
    with pytest.raises(ValueError, match="adapt = weights: every group of the base needs param_names"):
        ASAM(torch.optim.SGD(network().parameters(), lr=0.1), rho=RHO, adapt="weights")
    with pytest.raises(ValueError, match="adapt = biases: must be one of all, weights"):
        ASAM(torch.optim.SGD(network().parameters(), lr=0.1), rho=RHO, adapt="biases")


def test_ascent_lies_on_the_sphere_in_units_of_the_weights() -> None:
    rule = ASAM(torch.optim.SGD(network().parameters(), lr=0.1), rho=RHO, eta=0.1)
    epsilon = rule.ascent([torch.randn_like(p) for p in rule.params], rule.params)
    in_units = [e / (p.abs() + 0.1) for e, p in zip(epsilon, rule.params, strict=True)]
    assert norm(in_units).item() == pytest.approx(RHO, rel=1e-14)


def test_ascent_follows_a_rescaling_of_the_weights() -> None:
    """For η = 0 the ascent of (a·w, g/a) is a times that of (w, g): the invariance that the paper is about."""
    rule = ASAM(torch.optim.SGD(network().parameters(), lr=0.1), rho=RHO)
    w = [p.detach() for p in rule.params]
    g = [torch.randn_like(p) for p in w]
    factors = [2.0, 0.5, 4.0, 0.25]
    rescaled = rule.ascent([t / a for t, a in zip(g, factors, strict=True)], torch._foreach_mul(w, factors))
    torch.testing.assert_close(rescaled, torch._foreach_mul(rule.ascent(g, w), factors), rtol=1e-14, atol=0)


def test_zero_weights_and_zero_gradients_give_no_nan() -> None:
    weight = nn.Parameter(torch.zeros(4))
    rule = ASAM(torch.optim.SGD([weight], lr=0.1), rho=RHO)
    assert torch.equal(rule.ascent([torch.ones(4)], [weight])[0], torch.zeros(4))
    assert torch.equal(rule.ascent([torch.zeros(4)], [torch.ones(4)])[0], torch.zeros(4))


@pytest.mark.parametrize("eta", [-1.0, float("nan")])
def test_eta_out_of_range_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=r"eta = .*must be a finite number >= 0"):
        ASAM(torch.optim.SGD(network().parameters(), lr=0.1), rho=RHO, eta=eta)
