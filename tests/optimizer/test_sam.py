"""SAM against optax, pytorch-optimizer, autograd by hand, and its Taylor expansion."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
import torch
import torch.nn.functional as F
from pytorch_optimizer import SAM as TheirSAM
from torch import Tensor, nn

from sam_repro.optimizer import SAM
from sam_repro.oracle import Objective
from sam_repro.oracle.products import hvp
from sam_repro.vectors import dot, norm

jax.config.update("jax_enable_x64", True)
pytestmark = pytest.mark.usefixtures("float64")
RHO, LR, DECAY, STEPS = 0.1, 0.1, 1e-2, 40


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator)) for _ in range(STEPS)
    ]


def trained(optimizer: Callable[..., torch.optim.Optimizer], decay_in_loss: Any = 0.0, **options: Any) -> list[Tensor]:
    model = network()
    if callable(decay_in_loss):
        decay_in_loss = decay_in_loss(model)
    rule = SAM(optimizer(model.parameters(), lr=LR, **options), rho=RHO)
    objective = Objective(model, F.cross_entropy, weight_decay=decay_in_loss)
    for inputs, targets in batches():
        rule.step(objective(inputs, targets))
    return [p.detach() for p in model.parameters()]


def trained_by_optax(outer: Any, decay_in_loss: tuple[float, float] = (0.0, 0.0)) -> list[Tensor]:
    """The same run in optax, decay of matrices and of biases in the loss."""

    def loss(params: list[Any], inputs: Any, targets: Any) -> Any:
        w1, b1, w2, b2 = params
        logits = jnp.tanh(inputs @ w1.T + b1) @ w2.T + b2
        decay = 0.5 * sum(decay_in_loss[p.ndim == 1] * (p**2).sum() for p in params)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean() + decay

    inner = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    sam = optax.contrib.sam(outer, inner, sync_period=2, opaque_mode=True)

    @jax.jit
    def step(params: list[Any], state: Any, inputs: Any, targets: Any) -> Any:
        updates, state = sam.update(
            jax.grad(loss)(params, inputs, targets),
            state,
            params,
            grad_fn=lambda p, _: jax.grad(loss)(p, inputs, targets),
        )
        return optax.apply_updates(params, updates), state

    params = [jnp.asarray(p.detach().numpy()) for p in network().parameters()]
    state = sam.init(params)
    for inputs, targets in batches():
        params, state = step(params, state, inputs.numpy(), targets.numpy())
    assert all(p.dtype == jnp.float64 for p in params)
    return [torch.tensor(p.tolist()) for p in params]


def relative_distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    difference = norm([a - b for a, b in zip(ours, theirs, strict=True)]) / norm(theirs)
    return difference.item()


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_optax_with_decay_in_the_base(nesterov: bool) -> None:
    ours = trained(torch.optim.SGD, momentum=0.9, nesterov=nesterov, weight_decay=DECAY)
    outer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(LR, 0.9, nesterov))
    assert relative_distance(ours, trained_by_optax(outer)) < 1e-10


def test_equals_optax_with_decay_in_the_loss() -> None:
    ours = trained(torch.optim.SGD, DECAY, momentum=0.9)
    theirs = trained_by_optax(optax.sgd(LR, 0.9), (DECAY, DECAY))
    assert relative_distance(ours, theirs) < 1e-10
    outside = trained(torch.optim.SGD, momentum=0.9, weight_decay=DECAY)
    assert relative_distance(outside, theirs) > 1e-4  # the two places of the decay are two algorithms


def test_equals_optax_with_decay_of_the_matrices_in_the_loss() -> None:
    ours = trained(
        torch.optim.SGD,
        lambda model: {p: DECAY if p.ndim == 2 else 0.0 for p in model.parameters()},
        momentum=0.9,
    )
    theirs = trained_by_optax(optax.sgd(LR, 0.9), (DECAY, 0.0))
    assert relative_distance(ours, theirs) < 1e-10


def test_equals_optax_on_adamw() -> None:
    ours = trained(torch.optim.AdamW, weight_decay=DECAY)
    assert relative_distance(ours, trained_by_optax(optax.adamw(LR, weight_decay=DECAY))) < 1e-8


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_pytorch_optimizer(nesterov: bool) -> None:
    options = {"lr": LR, "momentum": 0.9, "nesterov": nesterov, "weight_decay": DECAY}
    model = network()
    theirs = TheirSAM(model.parameters(), torch.optim.SGD, rho=RHO, **options)
    for inputs, targets in batches():
        for step in (theirs.first_step, theirs.second_step):
            F.cross_entropy(model(inputs), targets).backward()
            step(zero_grad=True)
    del options["lr"]
    ours = trained(torch.optim.SGD, **options)
    assert relative_distance(ours, [p.detach() for p in model.parameters()]) < 1e-6


@pytest.mark.parametrize("m", [12, 4, 5])
def test_gradient_equals_algorithm_1_by_hand(m: int) -> None:
    """Each part climbs by its own gradient; the gradients at the tops are averaged by size."""
    model = network()
    params = list(model.parameters())
    inputs, targets = batches()[0]
    expected = [torch.zeros_like(p) for p in params]
    for x, y in zip(inputs.split(m), targets.split(m), strict=True):
        g = torch.autograd.grad(F.cross_entropy(model(x), y), params)
        length = math.sqrt(sum(t.square().sum().item() for t in g))
        top = [(p + RHO * t / length).detach().requires_grad_() for p, t in zip(params, g, strict=True)]
        named = dict(zip(dict(model.named_parameters()), top, strict=True))
        loss = F.cross_entropy(torch.func.functional_call(model, named, (x,)), y)
        for total, t in zip(expected, torch.autograd.grad(loss, top), strict=True):
            total += t * len(y) / len(targets)
    rule = SAM(torch.optim.SGD(params, lr=LR), rho=RHO)
    rule.backward(Objective(model, F.cross_entropy)(inputs, targets), m=m)
    torch.testing.assert_close([p.grad for p in params], expected, rtol=1e-12, atol=1e-14)


def test_ascent_has_length_rho_and_the_direction_of_g() -> None:
    rule = SAM(torch.optim.SGD(network().parameters(), lr=LR), rho=RHO)
    g = [torch.randn_like(p) for p in rule.params]
    epsilon = rule.ascent(g, rule.params)
    assert norm(epsilon).item() == pytest.approx(RHO, rel=1e-14)
    assert (dot(epsilon, g) / norm(g)).item() == pytest.approx(RHO, rel=1e-14)


def test_gradient_is_g_plus_rho_hu_to_second_order() -> None:
    """‖g_s − g − ρHu‖ = O(ρ²) with u = g/‖g‖: the slope in a log–log plot is 2."""
    model = network()
    params = list(model.parameters())
    oracle = Objective(model, F.cross_entropy)(*batches()[0])
    g = oracle.gradient(params).vector
    hu = hvp(oracle, params, torch._foreach_div(g, norm(g)))
    rhos, rests = [1e-2, 1e-3, 1e-4], []
    for rho in rhos:
        rule = SAM(torch.optim.SGD(params, lr=LR), rho=rho)
        rule.backward(oracle)
        rests.append(norm([p.grad - a - rho * b for p, a, b in zip(params, g, hu, strict=True)]).item())
    slopes = [math.log10(a / b) for a, b in pairwise(rests)]
    assert slopes == pytest.approx([2, 2], abs=0.05)
    assert rests[0] < 0.1 * rhos[0] * norm(hu)


@pytest.mark.parametrize("scale", [0.0, 1e-42])
def test_vanishing_gradient_gives_no_nan(scale: float) -> None:
    """At 0 nothing climbs; where ρ/‖g‖ is beyond float32 the step is shorter than ρ, but finite."""
    weight = nn.Parameter(torch.ones(5, dtype=torch.float32))
    other = nn.Parameter(torch.ones(3, dtype=torch.float32))
    rule = SAM(torch.optim.SGD([weight, other], lr=LR), rho=RHO)
    epsilon = rule.ascent([torch.full((5,), scale, dtype=torch.float32), torch.zeros(3)], [weight, other])
    assert torch.isfinite(epsilon[0]).all()
    assert norm(epsilon).item() <= RHO
    assert torch.equal(epsilon[1], torch.zeros(3))
    assert (norm(epsilon) > 0) == (scale > 0)


@pytest.mark.parametrize("rho", [RHO, 0.0])
def test_zero_gradient_takes_a_whole_step(rho: float) -> None:
    model = network()
    rule = SAM(torch.optim.SGD(model.parameters(), lr=LR), rho=rho)
    before = [p.detach().clone() for p in model.parameters()]
    rule.step(Objective(model, lambda outputs, _: 0 * outputs.square().sum())(*batches()[0]))
    for p, w in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, w)
