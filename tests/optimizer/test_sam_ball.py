"""Ascent in the balls of other norms, in one step and in several; the references share no code with the package."""

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
from dense import RHO, batch, flat, gradient, loss, normed, our_gradient, sam, toy
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_repro.config.identity import cell_hash
from sam_repro.config.lines import compose_line
from sam_repro.limits import shown
from sam_repro.optimizer import SAMBall
from sam_repro.oracle import Objective
from sam_repro.run import build
from sam_repro.run.dry_build import findings

jax.config.update("jax_enable_x64", True)
pytestmark = pytest.mark.usefixtures("float64")


def ball(model: nn.Module, **options: Any) -> SAMBall:
    return sam(model, rule=SAMBall, **options)


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


def perturbations(model: nn.Module, x: Tensor, y: Tensor, m: int | None = None, **options: Any) -> list[Tensor]:
    """w + ε − w of every pass, seen from inside of the model."""
    start, seen = flat(model.parameters()), []
    hook = model.register_forward_pre_hook(lambda *_: seen.append(flat(model.parameters()) - start))
    our_gradient(model, x, y, m, **options)
    hook.remove()
    return seen


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
        ball(normed(0.3), **options)
    written = [f"optimizer.{key}={shown(value)}" for key, value in options.items()]
    (line,) = findings([compose_line(["optimizer=sam_ball", *written])])
    assert re.match(rf"optimizer\.{message}", line.replace("'-inf'", "-inf"))


def test_infinity_of_the_command_line_is_json() -> None:
    configs = [compose_line(["optimizer=sam_ball", f"optimizer.p={written}"]) for written in ("inf", "'inf'", "INF")]
    assert all(config["optimizer"]["p"] == "inf" for config in configs)
    json.dumps(configs, allow_nan=False)
    assert len({cell_hash(config) for config in configs}) == 1
    assert build.make_rule(configs[0], toy()).p == math.inf
