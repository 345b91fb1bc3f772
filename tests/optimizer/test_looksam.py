"""LookSAM against pytorch-optimizer, and against a reference with flat vectors that shares no code with the package."""

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import batch, flat, gradient, toy
from pytorch_optimizer import LookSAM as TheirLookSAM
from torch import Tensor, nn

from sam_repro.config.lines import compose_line
from sam_repro.limits import shown
from sam_repro.optimizer import SAM, SAMK, LookSAM, Rule
from sam_repro.oracle import Objective
from sam_repro.run.dry_build import findings

pytestmark = pytest.mark.usefixtures("float64")
RHO, ALPHA, PERIOD, LR, MOMENTUM, STEPS = 0.1, 0.7, 5, 0.1, 0.9, 30
SLICES = [slice(0, 48), slice(48, 56), slice(56, 80), slice(80, 83)]  # of the toy's tensors in its vector of weights


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)


def trained(make: Any, steps: int = STEPS, m: int | None = None, fixed: bool = False, **options: Any) -> Tensor:
    model = toy()
    rule: Rule = make(sgd(model), **options)
    objective = Objective(model, F.cross_entropy)
    for step in range(steps):
        rule.step(objective(*batch(0 if fixed else step)), m=m)
    return flat(model.parameters())


def by_hand(scopes: list[slice], alpha: float = ALPHA, period: int = PERIOD, m: int = 12) -> Tensor:
    """LookSAM on SGD with momentum; each scope has its own projection and ratio, ε is over all weights."""
    w = flat(toy().parameters())
    velocity, g_v = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(STEPS):
        parts = [(a, b, len(b) / 12) for a, b in zip(*(t.split(m) for t in batch(step)), strict=True)]
        gradients = [gradient(w, a, b) for a, b, _ in parts]
        g = sum(share * part for part, (_, _, share) in zip(gradients, parts, strict=True))
        if step % period == 0:
            u = torch.zeros_like(w)
            for own, (a, b, share) in zip(gradients, parts, strict=True):
                u += share * gradient(w + RHO * own / own.norm(), a, b)
            for s in scopes:
                cosine = (g[s] @ u[s]) / (g[s].norm() * u[s].norm())
                g_v[s] = u[s] - u[s].norm() * cosine * g[s] / g[s].norm()
        else:
            u = g.clone()
            for s in scopes:
                u[s] += alpha * g[s].norm() / g_v[s].norm() * g_v[s]
        velocity = MOMENTUM * velocity + u
        w = w - LR * velocity
    return w


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


# Against references


@pytest.mark.parametrize("m", [12, 5])
@pytest.mark.parametrize("period", [2, 5])
@pytest.mark.parametrize("alpha", [0.1, 0.7, 1.5])
def test_equals_the_global_rule_by_hand(alpha: float, period: int, m: int) -> None:
    ours = trained(LookSAM, rho=RHO, alpha=alpha, period=period, m=m)
    assert distance(ours, by_hand([slice(0, 83)], alpha, period, m)) < 1e-10


def test_equals_the_rule_of_single_tensors_by_hand() -> None:
    ours = trained(LookSAM, rho=RHO, scope="tensor")
    assert distance(ours, by_hand(SLICES)) < 1e-10
    assert distance(ours, by_hand([slice(0, 83)])) > 0.1  # another algorithm


def test_equals_pytorch_optimizer_tensor_by_tensor() -> None:
    """What is left is theirs: 1e-8 is added to each ‖g_v‖, and ‖g‖ of ε is a float32 number."""
    model = toy()
    theirs = TheirLookSAM(model.parameters(), torch.optim.SGD, rho=RHO, k=PERIOD, alpha=ALPHA, lr=LR, momentum=MOMENTUM)
    x, y = batch(0)
    for step in range(STEPS):
        F.cross_entropy(model(x), y).backward()
        if step % PERIOD == 0:
            theirs.first_step(zero_grad=True)
            F.cross_entropy(model(x), y).backward()
        theirs.second_step(zero_grad=True)
    expected = flat(model.parameters())
    assert distance(trained(LookSAM, fixed=True, rho=RHO, scope="tensor"), expected) < 1e-6
    assert distance(trained(LookSAM, fixed=True, rho=RHO), expected) > 0.1


def test_two_passes_in_a_refresh_and_one_in_the_others() -> None:
    model, forwards = toy(), []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    rule = LookSAM(sgd(model), RHO)
    for step in range(STEPS):
        rule.step(Objective(model, F.cross_entropy)(*batch(step)))
    assert len(forwards) == rule.total_cost(STEPS).passes == STEPS * (1 + 1 / PERIOD)


# Identities


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_part_across_is_orthogonal_from_the_first_step_on(scope: str) -> None:
    model = toy()
    rule, seen = LookSAM(sgd(model), RHO, scope=scope), []
    for step in range(PERIOD + 1):
        rule.backward(Objective(model, F.cross_entropy)(*batch(step)), observe=seen.append)
        rule.base.step()
        if step % PERIOD == 0:
            g, g_s = (flat(term.vector) for term in seen[-1].values())
            g_v = flat(rule.memory["g_v"])
            for s in [slice(0, 83)] if scope == "global" else SLICES:
                assert g_v[s].norm() > 1e-3 * g_s[s].norm()
                assert abs(g_v[s] @ g[s]) < 1e-14 * g_s[s].norm() * g[s].norm()
                along = (g_s[s] @ g[s]) / g[s].norm()
                assert g_s[s].norm() ** 2 == pytest.approx((along**2 + g_v[s].norm() ** 2).item(), rel=1e-13)


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_reused_part_is_alpha_times_as_long_as_g(scope: str) -> None:
    model = toy()
    rule, seen = LookSAM(sgd(model), RHO, alpha=0.3, scope=scope), []
    for step in range(3):
        rule.backward(Objective(model, F.cross_entropy)(*batch(step)), observe=seen.append)
        rule.update()
    (g,) = (flat(term.vector) for term in seen[-1].values())
    added = flat(p.grad for p in model.parameters()) - g
    for s in [slice(0, 83)] if scope == "global" else SLICES:
        assert added[s].norm().item() == pytest.approx(0.3 * g[s].norm().item(), rel=1e-12)
        cosine = added[s] @ flat(rule.memory["g_v"])[s] / (added[s].norm() * flat(rule.memory["g_v"])[s].norm())
        assert cosine.item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_alpha_zero_is_bitwise_sam_k_and_another_alpha_is_not(scope: str) -> None:
    sam_k = trained(SAMK, rho=RHO, period=PERIOD)
    assert torch.equal(trained(LookSAM, rho=RHO, alpha=0, scope=scope), sam_k)
    assert distance(trained(LookSAM, rho=RHO, alpha=0.1, scope=scope), sam_k) > 1e-3
    assert distance(trained(LookSAM, 2, rho=RHO, alpha=0.1, scope=scope), trained(SAMK, 2, rho=RHO, period=5)) > 1e-5


def test_period_one_is_bitwise_sam() -> None:
    assert torch.equal(trained(LookSAM, rho=RHO, period=1), trained(SAM, rho=RHO))


# Where there is no part across


class Bowl(nn.Module):
    """‖w‖², whose gradients are all along w."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = nn.ParameterList([torch.randn(size, dtype=dtype) for size in (200, 30)])

    def forward(self, inputs: Tensor) -> Tensor:
        return sum(w.square().sum() for w in self.weights) + 0 * inputs


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_not_reused(dtype: torch.dtype, scope: str) -> None:
    """Where g_s is parallel to g but for the last digits, the steps between take g, bitwise."""
    model = Bowl(dtype)
    rule, seen = LookSAM(sgd(model), RHO, scope=scope), []
    objective = Objective(model, lambda outputs, _: outputs.sum())
    rounded = 0.0
    for step in range(PERIOD):
        rule.backward(objective(torch.zeros(1, dtype=dtype), torch.zeros(1)), observe=seen.append)
        if step == 0:
            g, g_s = (flat(term.vector).double() for term in seen[0].values())
            rounded = (g_s - (g_s @ g) / (g @ g) * g).norm().item()
        else:
            assert torch.equal(flat(p.grad for p in model.parameters()), flat(seen[-1]["g"].vector))
        rule.base.step()
    assert rounded > 0


def test_guard_is_of_each_tensor_where_the_scope_is() -> None:
    torch.manual_seed(0)
    g = [torch.randn(5), torch.randn(5)]
    g_s = [2 * g[0], torch.randn(5)]
    next_g = [torch.randn(5), torch.randn(5)]
    weights = [nn.Parameter(torch.zeros(5)) for _ in range(2)]
    rules = {scope: LookSAM(torch.optim.SGD(weights, lr=LR), RHO, scope=scope) for scope in ("global", "tensor")}
    with torch.no_grad():
        reused = {}
        for scope, rule in rules.items():
            assert rule.combine(g, g_s) is g_s
            rule.remember(g, g_s)
            reused[scope] = rule.combine(next_g)
    assert torch.equal(reused["tensor"][0], next_g[0])
    assert not torch.allclose(reused["tensor"][1], next_g[1])
    assert not torch.allclose(reused["global"][0], next_g[0])


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_and_vanishing_gradients_give_no_nan(dtype: torch.dtype, scope: str) -> None:
    weights = [nn.Parameter(torch.ones(4, dtype=dtype)), nn.Parameter(torch.ones(3, dtype=dtype))]
    zero = [torch.zeros_like(w, requires_grad=False) for w in weights]
    some = [torch.arange(4, dtype=dtype), torch.arange(3, dtype=dtype)]
    other = [some[0].flip(0), some[1].flip(0)]
    tiny = [t * torch.finfo(dtype).tiny / 800 for t in other]
    for refresh in ((zero, zero), (zero, some), (some, zero), (tiny, some), (some, tiny), (tiny, [-t for t in some])):
        rule = LookSAM(torch.optim.SGD(weights, lr=LR), RHO, scope=scope)
        with torch.no_grad():
            rule.remember(*refresh)
            for g in (zero, some, tiny):
                assert torch.isfinite(flat(rule.combine(g))).all()
            assert torch.equal(flat(rule.combine(zero)), flat(zero))


# State


def after(steps: int, **options: Any) -> tuple[nn.Module, LookSAM]:
    model = toy()
    rule = LookSAM(sgd(model), RHO, **options)
    for step in range(steps):
        rule.step(Objective(model, F.cross_entropy)(*batch(step)))
    return model, rule


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("stop", range(PERIOD + 2))
def test_a_fresh_rule_that_is_loaded_goes_on_bitwise(stop: int, scope: str) -> None:
    straight, _ = after(2 * PERIOD, scope=scope)
    model, rule = after(stop, scope=scope)
    file = io.BytesIO()
    torch.save(rule.state_dict(), file)
    file.seek(0)
    fresh = LookSAM(sgd(model), RHO, scope=scope)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for step in range(stop, 2 * PERIOD):
        fresh.step(Objective(model, F.cross_entropy)(*batch(step)))
    assert torch.equal(flat(model.parameters()), flat(straight.parameters()))


def test_cache_stays_where_it_is_and_a_loaded_one_is_a_copy() -> None:
    model, rule = after(1)
    addresses = [g_v.data_ptr() for g_v in rule.memory["g_v"]]
    twin = LookSAM(sgd(toy()), RHO)
    before = [g_v.data_ptr() for g_v in twin.memory["g_v"]]
    twin.load_state_dict(rule.state_dict())
    kept = flat(twin.memory["g_v"])
    assert torch.equal(kept, flat(rule.memory["g_v"]))
    for step in range(1, 2 * PERIOD):
        rule.step(Objective(model, F.cross_entropy)(*batch(step)))
    assert [g_v.data_ptr() for g_v in rule.memory["g_v"]] == addresses
    assert [g_v.data_ptr() for g_v in twin.memory["g_v"]] == before
    assert torch.equal(flat(twin.memory["g_v"]), kept)


def test_cache_keeps_the_memory_format_of_the_weights() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    rule = LookSAM(torch.optim.SGD(model.parameters(), lr=LR, fused=True), RHO)
    reference = nn.Conv2d(3, 4, 3)
    reference.load_state_dict(model.state_dict())
    other = LookSAM(torch.optim.SGD(reference.parameters(), lr=LR), RHO)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = torch.randn(2, 3, 5, 5, generator=generator)
        for net, one in ((model, rule), (reference, other)):
            one.step(Objective(net, lambda outputs, _: outputs.square().mean())(x, torch.zeros(2)))
    assert rule.memory["g_v"][0].stride() == model.weight.stride()
    torch.testing.assert_close(flat(model.parameters()), flat(reference.parameters()), rtol=1e-10, atol=1e-12)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, "alpha = -0.1: must be a finite number >= 0"),
        ({"alpha": float("nan")}, "alpha = nan: "),
        ({"period": 0}, "period = 0: must be an integer >= 1"),
        ({"scope": "layer"}, "scope = layer: must be one of global, tensor"),
        ({"scope": "element"}, "scope = element: must be one of global, tensor"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookSAM(sgd(toy()), RHO, **options)
    config = compose_line(["optimizer=looksam", *(f"optimizer.{key}={shown(value)}" for key, value in options.items())])
    assert findings([config])[0].startswith(f"optimizer.{message.split(':')[0]}")


def test_defaults_are_the_published_ones() -> None:
    rule = LookSAM(sgd(toy()), RHO)
    assert (rule.period, rule.alpha, rule.scope) == (5, 0.7, "global")
