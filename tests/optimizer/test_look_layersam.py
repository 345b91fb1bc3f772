"""Look-LayerSAM: each formula against a reference with flat vectors that shares no code with the package."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from dense import batch, flat, gradient, toy
from torch import Tensor, nn

from sam_repro.config.lines import compose_line
from sam_repro.optimizer import SGD, LookLayerSAM, LookSAM, Rule
from sam_repro.oracle import Objective
from sam_repro.run.dry_build import findings

pytestmark = pytest.mark.usefixtures("float64")
RHO, ALPHA, PERIOD, LR, MOMENTUM, STEPS = 0.05, 0.3, 3, 0.05, 0.9, 20
SLICES = [slice(0, 48), slice(48, 56), slice(56, 80), slice(80, 83)]  # of the toy's tensors in its vector of weights
Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def fresh() -> nn.Module:
    """The toy with its first biases at 0."""
    model = toy()
    nn.init.zeros_(model[0].bias)
    return model


def layer_wg(w: Tensor, g: Tensor, whole: Tensor) -> Tensor:
    return RHO * (w.norm() / g.norm() if w.norm() > 0 else 1) * g


def layer_wg_globalnorm(w: Tensor, g: Tensor, whole: Tensor) -> Tensor:
    return RHO * (w.norm() / g.norm() if w.norm() > 0 else 1) * g / whole.norm()


def layer_unit(w: Tensor, g: Tensor, whole: Tensor) -> Tensor:
    return RHO * g / g.norm()


FORMULAS: list[Formula] = [layer_wg, layer_wg_globalnorm, layer_unit]
each_formula = pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)


def trained(rule: Rule, model: nn.Module) -> Tensor:
    for step in range(STEPS):
        rule.step(Objective(model, F.cross_entropy)(*batch(step)))
    return flat(model.parameters())


def ascent_of(formula: Formula, w: list[Tensor], g: list[Tensor]) -> list[Tensor]:
    parameters = [nn.Parameter(t) for t in w]
    return LookLayerSAM(torch.optim.SGD(parameters, lr=LR), RHO, formula=formula.__name__).ascent(g, parameters)


@each_formula
def test_equals_the_rule_by_hand(formula: Formula) -> None:
    w = flat(fresh().parameters())
    velocity, g_v = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(STEPS):
        g = gradient(w, *batch(step))
        if step % PERIOD == 0:
            epsilon = torch.cat([formula(w[s], g[s], g) for s in SLICES])
            u = gradient(w + epsilon, *batch(step))
            g_v = u - (u @ g) / (g @ g) * g
        else:
            u = g + ALPHA * g.norm() / g_v.norm() * g_v
        velocity = MOMENTUM * velocity + u
        w = w - LR * velocity
    model = fresh()
    ours = trained(LookLayerSAM(sgd(model), RHO, PERIOD, ALPHA, formula.__name__), model)
    assert (ours - w).norm() < 1e-10 * w.norm()


@each_formula
def test_ascent_of_each_layer_has_the_length_of_its_formula(formula: Formula) -> None:
    torch.manual_seed(0)
    w, g = ([torch.randn(n) for n in (7, 5, 3)] for _ in range(2))
    norms = {
        "layer_wg": [RHO * a.norm() for a in w],
        "layer_wg_globalnorm": [RHO * a.norm() / flat(g).norm() for a in w],
        "layer_unit": [torch.tensor(RHO)] * 3,
    }[formula.__name__]
    for epsilon, b, length in zip(ascent_of(formula, w, g), g, norms, strict=True):
        torch.testing.assert_close(epsilon, length * b / b.norm(), rtol=1e-13, atol=0)


def test_layer_wg_follows_a_rescaling_of_a_layer() -> None:
    """(a·w_l, g_l/a) climbs a times as far: it does not matter in which units a layer's weights are."""
    torch.manual_seed(0)
    w, g = ([torch.randn(n) for n in (7, 5, 3)] for _ in range(2))
    factors = [2.0, 0.25, 8.0]
    rescaled = ascent_of(
        layer_wg, list(torch._foreach_mul(w, factors)), [t / a for t, a in zip(g, factors, strict=True)]
    )
    torch.testing.assert_close(
        rescaled, list(torch._foreach_mul(ascent_of(layer_wg, w, g), factors)), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fresh_weights_have_factor_one(dtype: torch.dtype) -> None:
    w = [torch.zeros(3, dtype=dtype), torch.tensor([3.0, 4.0], dtype=dtype)]
    g = [torch.tensor([0.0, 6.0, 8.0], dtype=dtype), torch.tensor([0.0, 24.0], dtype=dtype)]
    rho = torch.tensor(RHO, dtype=dtype)
    expected = {
        layer_wg: [rho * g[0], rho * 5 * g[1] / 24],
        layer_wg_globalnorm: [rho * g[0] / 26, rho * 5 * g[1] / 24 / 26],
        layer_unit: [rho * g[0] / 10, rho * g[1] / 24],
    }
    for formula, epsilon in expected.items():
        torch.testing.assert_close(ascent_of(formula, w, g), epsilon, rtol=1e-6, atol=0)


@each_formula
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vanishing_gradients_give_no_nan(formula: Formula, dtype: torch.dtype) -> None:
    w = [torch.ones(3, dtype=dtype), torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)]
    tiny = torch.finfo(dtype).tiny / 800
    for scales in ((0, 0, 0), (1, 0, 0), (tiny, 1, 0), (tiny, tiny, tiny)):
        g = [scale * torch.arange(len(t), dtype=dtype) for t, scale in zip(w, scales, strict=True)]
        for epsilon, t in zip(ascent_of(formula, w, g), g, strict=True):
            assert torch.isfinite(epsilon).all()
            assert torch.equal(epsilon == 0, t == 0) or t.abs().max() < 1e-30


@each_formula
def test_rho_zero_is_bitwise_sgd(formula: Formula) -> None:
    models = fresh(), fresh()
    ours = trained(LookLayerSAM(sgd(models[0]), 0.0, PERIOD, ALPHA, formula.__name__), models[0])
    assert torch.equal(ours, trained(SGD(sgd(models[1])), models[1]))


def test_only_the_perturbation_differs_from_looksam() -> None:
    """On one layer ‖w‖ = 1 makes layer_wg LookSAM's ε; so do the steps between."""
    gradients = []
    for make in (lambda b: LookLayerSAM(b, RHO, PERIOD, ALPHA), lambda b: LookSAM(b, RHO, PERIOD, ALPHA)):
        torch.manual_seed(0)
        model = nn.Linear(6, 3, bias=False)
        with torch.no_grad():
            model.weight /= model.weight.norm()
        rule: Rule = make(torch.optim.SGD(model.parameters(), lr=LR))
        for step in range(PERIOD):
            rule.backward(Objective(model, F.cross_entropy)(*batch(step)))
            rule.update()
            gradients.append(model.weight.grad)
    torch.testing.assert_close(gradients[:PERIOD], gradients[PERIOD:], rtol=1e-12, atol=1e-14)


def test_bad_arguments_are_refused() -> None:
    message = "formula = layer_norm: must be one of layer_wg, layer_wg_globalnorm, layer_unit"
    with pytest.raises(ValueError, match=message):
        LookLayerSAM(sgd(fresh()), RHO, formula="layer_norm")
    config = compose_line(["optimizer=look_layersam"])
    config["optimizer"]["formula"] = "layer_norm"
    assert findings([config]) == [f"optimizer.{message}"]
    for options in ({"period": 0}, {"alpha": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} = "):
            LookLayerSAM(sgd(fresh()), RHO, **options)
