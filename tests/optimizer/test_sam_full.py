"""The variants of SAM: other norms, several steps, a random direction, the second-order term, part of the weights.

The references are written with flat vectors and share no code with the package.
"""

import copy
import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from dense import batch, flat, gradient, loss, toy
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_repro.config.checks import check
from sam_repro.config.identity import cell_hash
from sam_repro.config.lines import compose_line
from sam_repro.config.schema1 import modern
from sam_repro.limits import shown
from sam_repro.optimizer import (
    SAM,
    SGD,
    Cost,
    Perturbing,
    SAMBall,
    SAMRandom,
    SAMSecondOrder,
    TwoPass,
    parameter_groups,
)
from sam_repro.oracle import Objective
from sam_repro.run import build
from sam_repro.run.dry_build import findings

jax.config.update("jax_enable_x64", True)
pytestmark = pytest.mark.usefixtures("float64")
RHO = 0.1
VARIANTS: dict[str, dict[str, Any]] = {
    "p = 1.5": {"rule": SAMBall, "p": 1.5},
    "p = 3": {"rule": SAMBall, "p": 3},
    "p = inf": {"rule": SAMBall, "p": "inf"},
    "two steps": {"rule": SAMBall, "ascent_steps": 2, "p": 2},
    "three steps, p = inf": {"rule": SAMBall, "ascent_steps": 3, "p": "inf"},
    "random": {"rule": SAMRandom},
    "second order": {"rule": SAMSecondOrder},
    "no_norm": {"rule": SAM, "perturb": "no_norm"},
    "only_norm": {"rule": SAM, "perturb": "only_norm"},
    "only_norm, second order": {"rule": SAMSecondOrder, "perturb": "only_norm"},
    "no_norm, two steps, p = inf": {"rule": SAMBall, "perturb": "no_norm", "ascent_steps": 2, "p": "inf"},
    "only_norm, random": {"rule": SAMRandom, "perturb": "only_norm"},
}
OPTIONS = {SAM: "sam", SAMBall: "sam_ball", SAMRandom: "sam_random", SAMSecondOrder: "sam_second_order"}


def normed(dropout: float = 0.3) -> nn.Module:
    """A network with a normalisation and with noise."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def sam(model: nn.Module, rho: float = RHO, rule: type[TwoPass] = SAM, **options: Any) -> Any:
    return rule(torch.optim.SGD(parameter_groups(model, 0.0), lr=0.1), rho, **options)


def ball(model: nn.Module, **options: Any) -> SAMBall:
    return sam(model, rule=SAMBall, **options)


def our_gradient(model: nn.Module, x: Tensor, y: Tensor, m: int | None = None, **options: Any) -> Tensor:
    decay = options.pop("weight_decay", 0.0)
    sam(model, **options).backward(Objective(model, F.cross_entropy, weight_decay=decay)(x, y, noise=3), m=m)
    return flat(p.grad for p in model.parameters())


def perturbations(model: nn.Module, x: Tensor, y: Tensor, m: int | None = None, **options: Any) -> list[Tensor]:
    """w + ε − w of every pass, seen from inside of the model."""
    start, seen = flat(model.parameters()), []
    hook = model.register_forward_pre_hook(lambda *_: seen.append(flat(model.parameters()) - start))
    our_gradient(model, x, y, m, **options)
    hook.remove()
    return seen


# Norms


def p_norm(a: Tensor, p: float) -> float:
    return float(np.linalg.norm(a.numpy(), p))


@pytest.mark.parametrize("p", [1.01, 1.5, 2, 2.5, 4, 40, math.inf])
def test_ascent_is_the_maximiser_of_the_linear_loss(p: float) -> None:
    """⟨g, ε⟩ ≤ ‖g‖_q‖ε‖_p with equality at the maximiser alone (Hölder)."""
    rule = ball(toy(), p=p)
    g = [torch.randn_like(t) for t in rule.params]
    epsilon = flat(rule.ascent(g, rule.params))
    q = 1 if p == math.inf else p / (p - 1)
    assert p_norm(epsilon, p) == pytest.approx(RHO, rel=1e-12)
    assert float(epsilon @ flat(g)) == pytest.approx(RHO * p_norm(flat(g), q), rel=1e-12)


@pytest.mark.parametrize("p", [1.5, 3, 5])
def test_ascent_is_where_a_numerical_maximiser_ends(p: float) -> None:
    weight = nn.Parameter(torch.zeros(5))
    g = torch.tensor([1.0, -2.0, 0.3, 0.2, 0.7])
    rule = SAMBall(torch.optim.SGD([weight], lr=0.1), RHO, p=p)
    found = minimize(
        lambda e: -e @ g.numpy(),
        np.full(5, 0.01),
        jac=lambda e: -g.numpy(),
        constraints={"type": "ineq", "fun": lambda e: 1 - np.sum(np.abs(e / RHO) ** p)},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    torch.testing.assert_close(rule.ascent([g], [weight])[0], torch.tensor(found.x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("p", [1.5, 3, 7])
def test_ascent_equals_equation_2(p: float) -> None:
    rule = ball(toy(), p=p)
    g = [torch.randn_like(t) for t in rule.params]
    a, q = flat(g), p / (p - 1)
    expected = RHO * a.sign() * a.abs() ** (q - 1) / (a.abs() ** q).sum() ** (1 / p)
    torch.testing.assert_close(flat(rule.ascent(g, rule.params)), expected, rtol=1e-12, atol=0)


def test_equation_2_runs_into_the_plain_ascent_and_into_the_sign() -> None:
    rules = {p: ball(toy(), p=p) for p in (2, 2 + 1e-9, 1e12, math.inf)}
    g = [torch.randn_like(t) for t in rules[2].params]
    ascents = {p: flat(rule.ascent(g, rule.params)) for p, rule in rules.items()}
    torch.testing.assert_close(ascents[2 + 1e-9], ascents[2], rtol=1e-7, atol=0)
    torch.testing.assert_close(ascents[1e12], ascents[math.inf], rtol=1e-9, atol=0)
    assert torch.equal(ascents[math.inf], RHO * flat(g).sign())


@pytest.mark.parametrize(("dtype", "scales"), [(torch.float32, [1e-30, 1e30]), (torch.float64, [1e-290, 1e290])])
@pytest.mark.parametrize("p", [1.01, 1.3, 3, math.inf])
def test_ascent_does_not_depend_on_the_length_of_g(p: float, dtype: torch.dtype, scales: list[float]) -> None:
    weights = [nn.Parameter(torch.zeros(7, dtype=dtype)), nn.Parameter(torch.zeros(3, dtype=dtype))]
    rule = SAMBall(torch.optim.SGD(weights, lr=0.1), RHO, p=p)
    g = [torch.linspace(-1, 1, 7, dtype=dtype), torch.tensor([0.0, 1e-3, -0.2], dtype=dtype)]
    plain = rule.ascent(g, weights)
    assert p_norm(flat(plain).double(), p) == pytest.approx(RHO, rel=1e-6)
    for scale in scales:
        for ours, expected in zip(rule.ascent([scale * t for t in g], weights), plain, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-10)


def test_plain_ascent_costs_what_it_did() -> None:
    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    names = []
    for depth in (1, 4):
        model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(depth)])
        rule = sam(model)
        g = [torch.randn_like(p) for p in rule.params]
        with torch.no_grad(), Count() as count:
            rule.ascent(g, rule.params)
        names.append(count.names)
    assert names[0] == names[1]
    assert len([name for name in names[0] if name.startswith("_foreach")]) == 2
    assert len(names[0]) <= 11


# Several steps


def climbed(w: Tensor, x: Tensor, y: Tensor, steps: int, p: float) -> Tensor:
    """Steps of length ρ up the gradient, each projected to the ball, with flat vectors."""
    epsilon = torch.zeros_like(w)
    for _ in range(steps):
        g = gradient(w + epsilon, x, y)
        if p == 2:
            epsilon = epsilon + RHO * g / g.norm()
            epsilon = epsilon * min(1.0, RHO / epsilon.norm().item())
        else:
            epsilon = (epsilon + RHO * g.sign()).clamp(-RHO, RHO)
    return epsilon


@pytest.mark.parametrize("m", [12, 5])
@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_several_steps_equal_projected_ascent_by_hand(steps: int, p: float, m: int) -> None:
    model = toy()
    x, y = batch()
    w = flat(model.parameters())
    parts = list(zip(x.split(m), y.split(m), strict=True))
    expected = sum(gradient(w + climbed(w, a, b, steps, p), a, b) * len(b) / len(y) for a, b in parts)
    torch.testing.assert_close(
        our_gradient(model, x, y, m, rule=SAMBall, ascent_steps=steps, p=p), expected, rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("p", [2, math.inf])
def test_every_step_stays_in_the_ball_and_the_loss_climbs(p: float) -> None:
    model = toy()
    x, y = batch()
    w = flat(model.parameters())
    seen = perturbations(model, x, y, rule=SAMBall, ascent_steps=6, p=p)
    assert len(seen) == 7
    assert all(p_norm(epsilon, p) <= RHO * (1 + 1e-12) for epsilon in seen)
    assert loss(w + seen[-1], x, y) >= loss(w + seen[1], x, y) > loss(w, x, y)


def test_two_steps_equal_optax_where_nothing_is_projected() -> None:
    """Over a concave loss the second step turns back into the ball: optax, which does not project, does the same."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False)
    model.weight.data *= 0.01
    curvature = torch.tensor([1.0, 1.2, 1.5, 2.0])
    objective = Objective(model, lambda _, __: -(curvature * model.weight.square()).sum())
    rule = SAMBall(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), RHO, p=2, ascent_steps=2)

    def grad(w: Any, _: Any = None) -> Any:
        return jax.grad(lambda v: -(jnp.asarray(curvature.numpy()) * v**2).sum())(w)

    inner = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    theirs = optax.contrib.sam(optax.sgd(0.01, 0.9), inner, sync_period=3, opaque_mode=True)
    w = jnp.asarray(model.weight.detach().numpy())
    state = theirs.init(w)
    for _ in range(10):
        first = RHO * grad(w) / jnp.linalg.norm(grad(w))
        second = first + RHO * grad(w + first) / jnp.linalg.norm(grad(w + first))
        assert 1e-4 < jnp.linalg.norm(second) < RHO
        updates, state = theirs.update(grad(w), state, w, grad_fn=grad)
        w = optax.apply_updates(w, updates)
        rule.step(objective(torch.zeros(1, 4), torch.zeros(1)))
    torch.testing.assert_close(model.weight.detach(), torch.tensor(w.tolist()), rtol=1e-12, atol=1e-15)


# Random direction


def test_random_ascent_has_length_rho_and_normal_numbers() -> None:
    weights = [nn.Parameter(torch.zeros(300, 200)), nn.Parameter(torch.zeros(40_000))]
    rule = SAMRandom(torch.optim.SGD(weights, lr=0.1), RHO)
    torch.manual_seed(0)
    epsilon = flat(rule.ascent([torch.zeros_like(p) for p in weights], weights))
    assert epsilon.norm().item() == pytest.approx(RHO, rel=1e-12)
    z = epsilon * len(epsilon) ** 0.5 / RHO
    sigma = len(z) ** -0.5
    assert abs(z.mean()) < 4 * sigma
    assert (z.abs() < 1).double().mean().item() == pytest.approx(math.erf(0.5**0.5), abs=4 * 0.47 * sigma)


@pytest.mark.parametrize("same_noise", [True, False])
def test_random_direction_is_a_function_of_step_and_part(same_noise: bool) -> None:
    def run(seed: int, steps: int = 2) -> list[Tensor]:
        model = normed()
        rule = sam(model, rule=SAMRandom)
        objective = Objective(model, F.cross_entropy, same_noise=same_noise)
        seen: list[Tensor] = []
        start = flat(model.parameters())
        model.register_forward_pre_hook(lambda *_: seen.append(flat(model.parameters()) - start))
        for step in range(steps):
            torch.rand(step)  # what was drawn before does not matter
            rule.backward(objective(*batch(), noise=seed + 100 * step), m=6)
            rule.base.zero_grad()
        return seen[1::2]

    directions = run(0)
    assert len(directions) == 4
    for i, direction in enumerate(directions):
        assert direction.norm().item() == pytest.approx(RHO, rel=1e-12)
        assert all(abs(direction @ other) < 0.5 * RHO**2 for other in directions[:i])
    assert all(torch.equal(a, b) for a, b in zip(directions, run(0), strict=True))
    assert torch.equal(run(100, steps=1)[0], directions[2])
    assert not torch.equal(run(5)[0], directions[0])


def test_random_direction_does_not_depend_on_the_memory_format() -> None:
    directions = []
    for layout in (torch.contiguous_format, torch.channels_last):
        rule = sam(nn.Conv2d(3, 4, 3).to(memory_format=layout), rule=SAMRandom)
        torch.manual_seed(0)
        directions.append(flat(rule.ascent([torch.zeros_like(p) for p in rule.params], rule.params)))
    assert torch.equal(*directions)


# Second order


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
    model = normed(dropout=0)
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


# Part of the weights


@pytest.mark.parametrize("perturb", ["no_norm", "only_norm"])
def test_perturbation_of_a_part_by_hand(perturb: str) -> None:
    model = normed(dropout=0)
    twin = copy.deepcopy(model)
    x, y = batch()
    F.cross_entropy(twin(x), y).backward()
    moved = [p for name, p in twin.named_parameters() if name.startswith("1.") == (perturb == "only_norm")]
    length = flat(p.grad for p in moved).norm()
    with torch.no_grad():
        for p in moved:
            p += RHO * p.grad / length
    expected = torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters()))
    torch.testing.assert_close(our_gradient(model, x, y, perturb=perturb), flat(expected), rtol=1e-10, atol=1e-13)


def test_perturb_needs_the_groups_of_its_choice() -> None:
    model = normed()
    for perturb in ("no_norm", "only_norm"):
        with pytest.raises(ValueError, match=f"perturb = {perturb}: every group of the base needs the flag norm"):
            SAM(torch.optim.SGD(model.parameters(), lr=0.1), RHO, perturb=perturb)
        mixed = [{"params": [model[0].weight], "norm": perturb == "only_norm"}, {"params": [model[1].weight]}]
        with pytest.raises(ValueError, match=f"perturb = {perturb}"):
            SAM(torch.optim.SGD(mixed, lr=0.1), RHO, perturb=perturb)
    with pytest.raises(ValueError, match="one must have True"):
        sam(toy(), perturb="only_norm")
    with pytest.raises(ValueError, match="one must have False"):
        sam(nn.BatchNorm1d(3), perturb="no_norm")


@pytest.mark.parametrize("perturb", ["no_norm", "only_norm"])
def test_perturb_is_kept_by_a_loaded_state(perturb: str) -> None:
    model = normed()
    rule, fresh = sam(model, perturb=perturb), sam(model, perturb=perturb)
    fresh.load_state_dict(rule.state_dict())
    g = [torch.ones_like(p) for p in rule.params]
    assert torch.equal(flat(fresh.climb(g)), flat(rule.climb(g)))


# All variants


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_rho_zero_is_bitwise_sgd(options: dict[str, Any]) -> None:
    models = normed(), normed()
    rules = sam(models[0], 0.0, **options), SGD(torch.optim.SGD(models[1].parameters(), lr=0.1))
    for step in range(3):
        for model, rule in zip(models, rules, strict=True):
            torch.manual_seed(step)
            rule.step(Objective(model, F.cross_entropy)(*batch(seed=step)))
    assert torch.equal(flat(models[0].parameters()), flat(models[1].parameters()))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_gradient_climbs_nowhere_and_gives_no_nan(options: dict[str, Any], dtype: torch.dtype) -> None:
    model = normed().to(dtype)
    before = flat(model.parameters())
    rule = sam(model, **options)
    rule.step(Objective(model, lambda outputs, _: 0 * outputs.square().sum())(batch()[0].to(dtype), batch()[1]))
    assert torch.equal(flat(model.parameters()), before)
    if not isinstance(rule, SAMRandom):
        assert flat(rule.ascent([torch.zeros_like(p) for p in rule.params], rule.params)).abs().max() == 0


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_two_halves_are_the_mean_of_two_batches(options: dict[str, Any]) -> None:
    x, y = batch()
    halves = []
    for part in range(2):
        model = normed()
        mine = slice(6 * part, 6 * part + 6)
        sam(model, **options).backward(Objective(model, F.cross_entropy)(x[mine], y[mine], noise=3 + part))
        halves.append(flat(p.grad for p in model.parameters()))
    torch.testing.assert_close(our_gradient(normed(), x, y, 6, **options), sum(halves) / 2, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("m", [None, 6])
def test_declared_cost_is_the_counted_one(options: dict[str, Any], m: int | None) -> None:
    model = normed()
    rule = sam(model, **options)
    examples = 0

    def count(_: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal examples
        examples += len(inputs[0])

    model.register_forward_pre_hook(count)
    rule.backward(Objective(model, F.cross_entropy)(*batch()), m=m)
    cost = rule.cost(0)
    assert cost == Cost(passes=options.get("ascent_steps", 1) + 1, products=isinstance(rule, SAMSecondOrder))
    assert examples == 12 * (cost.passes + cost.products)  # a product has one forward


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_weights_come_back_and_statistics_move_once(options: dict[str, Any]) -> None:
    model = normed()
    twin = copy.deepcopy(model)
    before = flat(model.parameters())
    torch.manual_seed(3)
    twin(batch()[0])
    our_gradient(model, *batch(), **options)
    assert torch.equal(flat(model.parameters()), before)
    assert torch.equal(flat(model.buffers()), flat(twin.buffers()))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_channels_last_with_a_fused_base_equals_contiguous(options: dict[str, Any]) -> None:
    ends = []
    for layout, fused in ((torch.contiguous_format, False), (torch.channels_last, True)):
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(20, 3)]
        model = nn.Sequential(*body).to(memory_format=layout)
        made = {key: value for key, value in options.items() if key != "rule"}
        rule = options["rule"](torch.optim.SGD(parameter_groups(model, 0.0), lr=0.1, fused=fused), RHO, **made)
        images = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
        for step in range(2):
            torch.manual_seed(step)
            rule.step(Objective(model, F.cross_entropy)(images, batch(size=6)[1]), m=3 if step else None)
        assert all(p.grad.stride() == p.stride() for p in model.parameters())
        ends.append(flat(model.parameters()))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


def test_observer_sees_the_gradients_at_both_ends() -> None:
    """With the term of second order, too."""
    model, seen = toy(), []
    rule = sam(model, rule=SAMSecondOrder)
    rule.backward(Objective(model, F.cross_entropy)(*batch()), observe=seen.append)
    assert [name for name, term in seen[0].items() if term.loss is not None] == ["g", "g_s"]
    torch.testing.assert_close(flat(seen[0]["g_s"].vector), our_gradient(toy(), *batch()), rtol=0, atol=0)


# What is refused, and the configuration

BAD: list[tuple[dict[str, Any], str]] = [
    ({"p": 1}, r"p = 1: must be a finite number > 1"),
    ({"p": 0.5}, r"p = 0.5: "),
    ({"p": -math.inf}, r"p = -inf: "),
    ({"p": math.nan}, r"p = nan: "),
    ({"p": "two"}, r"p = two: "),
    ({"p": True}, r"p = true: "),
    ({"ascent_steps": 0}, r"ascent_steps = 0: must be an integer >= 1"),
    ({"ascent_steps": 1.5}, r"ascent_steps = 1.5: "),
    ({"perturb": "biases"}, r"perturb = biases: must be one of all, no_norm, only_norm"),
    ({"ascent_steps": 2, "p": 3}, r"ascent_steps = 2: needs .*p ?= ?2 or .*p ?= ?inf"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ball(normed(), **options)
    written = [f"optimizer.{key}={shown(value)}" for key, value in options.items()]
    (line,) = findings([compose_line(["optimizer=sam_ball", *written])])
    assert re.match(rf"optimizer\.{message}", line.replace("'-inf'", "-inf"))


def configured(options: dict[str, Any]) -> Any:
    words = [f"optimizer.{key}={value}" for key, value in options.items() if key != "rule"]
    return compose_line([f"optimizer={OPTIONS[options['rule']]}", *words])


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_good_configurations_are_not_refused(options: dict[str, Any]) -> None:
    config = configured(options)
    assert check(config) == findings([config]) == []
    assert type(build.make_rule(config, normed())) is options["rule"]


def test_infinity_of_the_command_line_is_json() -> None:
    configs = [compose_line(["optimizer=sam_ball", f"optimizer.p={written}"]) for written in ("inf", "'inf'", "INF")]
    assert all(config["optimizer"]["p"] == "inf" for config in configs)
    json.dumps(configs, allow_nan=False)
    assert len({cell_hash(config) for config in configs}) == 1
    assert build.make_rule(configs[0], toy()).p == math.inf


def test_the_variants_are_other_cells_and_what_they_were_as_keys_of_sam() -> None:
    hashes = [cell_hash(configured(options)) for options in VARIANTS.values()]
    assert len({*hashes, cell_hash(compose_line([]))}) == len(VARIANTS) + 1
    plain = compose_line([])
    keys = {"p": 2, "ascent_steps": 1, "ascent": "gradient", "second_order": False, "perturb": "all"}
    for cell, options in zip(hashes, VARIANTS.values(), strict=True):
        then = {key: value for key, value in options.items() if key != "rule"}
        then |= {"ascent": "random"} if options["rule"] is SAMRandom else {}
        then |= {"second_order": True} if options["rule"] is SAMSecondOrder else {}
        old = plain | {"optimizer": plain["optimizer"] | keys | then}
        assert cell_hash(modern(old)) == cell
    assert cell_hash(modern(plain | {"optimizer": plain["optimizer"] | keys})) == cell_hash(plain)


def test_perturb_is_of_every_rule_that_perturbs(rules: Any) -> None:
    """Each climbs as far with the part that moves alone as if the rest had no gradient."""
    for name, make in rules.items():
        rule = make(torch.optim.SGD(parameter_groups(normed(), 0.0), lr=0.1))
        if not isinstance(rule, Perturbing):
            continue
        for perturb in ("no_norm", "only_norm"):
            rule = make(torch.optim.SGD(parameter_groups(normed(), 0.0), lr=0.1), perturb=perturb)
            whole = make(torch.optim.SGD(parameter_groups(normed(), 0.0), lr=0.1))
            moves = [
                group["norm"] == (perturb == "only_norm") for group in rule.base.param_groups for _ in group["params"]
            ]
            g = [torch.randn_like(p) for p in rule.params]
            with torch.no_grad():
                torch.manual_seed(0)
                epsilon = rule.climb(g)
                torch.manual_seed(0)
                rest = whole.climb([x if moving else 0 * x for x, moving in zip(g, moves, strict=True)])
            for e, r, moving in zip(epsilon, rest, moves, strict=True):
                assert moving or e.abs().sum() == 0, name
                if moving and not isinstance(rule, SAMRandom):
                    assert torch.equal(e, r), name
