"""SAM-direction and SAM-magnitude against the formulas by hand, in every scope."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numbered import Objective
from torch import Tensor, nn

from sam_repro.config.lines import compose_line
from sam_repro.errors import UserError
from sam_repro.optimizer import SAM, SGD, Rule, SAMDirection, SAMMagnitude
from sam_repro.optimizer.mix import Mix
from sam_repro.run import build
from sam_repro.vectors import Vector, norm

pytestmark = pytest.mark.usefixtures("float64")
RHO, LR, MOMENTUM, DECAY = 0.3, 0.1, 0.9, 1e-2
SCOPES = ["global", "tensor", "element"]
RULES = [SAMDirection, SAMMagnitude]
every_scope = pytest.mark.parametrize("scope", SCOPES)
every_rule = pytest.mark.parametrize("rule_class", RULES)
Arrays = list[np.ndarray]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator)) for _ in range(steps)
    ]


def base(params: Any, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(params, **({"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY} | options))


def trained(make_rule: Callable[[torch.optim.Optimizer], Rule], dtype: torch.dtype, m: int | None = None) -> Vector:
    model = network().to(dtype)
    rule, objective = make_rule(base(model.parameters())), Objective(model, F.cross_entropy)
    for inputs, targets in batches(5):
        rule.step(objective(inputs.to(dtype), targets), m=m)
    return [p.detach() for p in model.parameters()]


def assert_bitwise(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    torch.testing.assert_close(list(ours), list(theirs), rtol=0, atol=0)


def pair(dtype: torch.dtype = torch.float64) -> tuple[Vector, Vector]:
    """g and g_s of several sizes, with zeros here and there in each, and a tensor of zeros in each."""
    generator = torch.Generator().manual_seed(2)
    sizes = {(3, 5): 1e-3, (7,): 1e3, (): 1.0, (2, 3): 1e-20, (4, 4): 1.0, (6,): 1.0}
    g, g_s = ([s * torch.randn(shape, generator=generator) for shape, s in sizes.items()] for _ in range(2))
    for vector, whole in ((g, 4), (g_s, 5)):
        vector[0].view(-1)[whole : whole + 2] = 0
        vector[whole].zero_()
    return [x.to(dtype) for x in g], [x.to(dtype) for x in g_s]


# Names and formulas


def test_the_names_mean_what_the_text_says() -> None:
    """g = (3, 4 | 0, −12) has norm 13 and 5 | 12 by tensor; g_s = (0, 8 | 6, 0) has norm 10 and 8 | 6."""
    g, g_s = ([torch.tensor(a), torch.tensor(b)] for a, b in (([3.0, 4.0], [0.0, -12.0]), ([0.0, 8.0], [6.0, 0.0])))
    expected = {
        (SAMDirection, "global"): [[0.0, 10.4], [7.8, 0.0]],
        (SAMDirection, "tensor"): [[0.0, 5.0], [12.0, 0.0]],
        (SAMDirection, "element"): [[0.0, 4.0], [0.0, 0.0]],
        (SAMMagnitude, "global"): [[30 / 13, 40 / 13], [0.0, -120 / 13]],
        (SAMMagnitude, "tensor"): [[4.8, 6.4], [0.0, -6.0]],
        (SAMMagnitude, "element"): [[0.0, 8.0], [0.0, 0.0]],
    }
    for (rule_class, scope), vector in expected.items():
        rule = rule_class(base(network().parameters()), rho=RHO, scope=scope)
        torch.testing.assert_close(rule.combine(g, g_s), [torch.tensor(x) for x in vector], rtol=1e-15, atol=0)


def test_the_classes_of_the_study_have_the_two_names_the_other_way_round() -> None:
    """Its class `samdirection` is sign(g)·|g_s|, ours is SAMMagnitude; its `sammagnitude` sign(g_s)·|g|."""
    g, g_s = [torch.tensor([1.0, -2.0, 3.0, -4.0])], [torch.tensor([-5.0, 6.0, 7.0, -8.0])]
    options = {"rho": RHO, "scope": "element"}
    samdirection = SAMMagnitude(base(network().parameters()), **options)
    sammagnitude = SAMDirection(base(network().parameters()), **options)
    assert_bitwise(samdirection.combine(g, g_s), [torch.tensor([5.0, -6.0, 7.0, -8.0])])
    assert_bitwise(sammagnitude.combine(g, g_s), [torch.tensor([-1.0, 2.0, 3.0, -4.0])])


@pytest.mark.parametrize("name", ["sam_direction", "sam_magnitude"])
def test_defaults_follow_the_text(name: str) -> None:
    rule_class = {"sam_direction": SAMDirection, "sam_magnitude": SAMMagnitude}[name]
    rule = rule_class(base(network().parameters()), rho=RHO)
    config = compose_line([f"optimizer={name}"])["optimizer"]
    assert rule.scope == config["scope"] == "global"
    assert config["_target_"] == f"sam_repro.optimizer.{rule_class.__name__}"


# Properties


def sources(rule: Rule, g: Vector, g_s: Vector) -> tuple[Vector, Vector]:
    """(direction, magnitude) of a rule."""
    return (g_s, g) if isinstance(rule, SAMDirection) else (g, g_s)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_element_has_the_sign_of_one_and_the_size_of_the_other(rule_class: Any, dtype: torch.dtype) -> None:
    rule = rule_class(base(network().parameters()), rho=RHO, scope="element")
    g, g_s = pair(dtype)
    direction, magnitude = sources(rule, g, g_s)
    for d, b, a in zip(rule.combine(g, g_s), direction, magnitude, strict=True):
        assert d.dtype == dtype
        assert torch.equal(d.abs(), torch.where(b == 0, 0, a.abs()))
        assert torch.equal(d.sign(), torch.where(a == 0, 0, b.sign()))


@every_rule
def test_global_has_the_direction_of_one_and_the_norm_of_the_other(rule_class: Any) -> None:
    rule = rule_class(base(network().parameters()), rho=RHO)
    g, g_s = pair()
    direction, magnitude = sources(rule, g, g_s)
    d, b, a = (torch.cat([x.flatten() for x in v]) for v in (rule.combine(g, g_s), direction, magnitude))
    assert (d.norm() / a.norm()).item() == pytest.approx(1, rel=1e-12)
    assert (d @ b / (d.norm() * b.norm())).item() == pytest.approx(1, rel=1e-12)


@every_rule
def test_tensor_has_the_direction_and_the_norm_of_each_tensor(rule_class: Any) -> None:
    rule = rule_class(base(network().parameters()), rho=RHO, scope="tensor")
    g, g_s = pair()
    for d, b, a in zip(rule.combine(g, g_s), *sources(rule, g, g_s), strict=True):
        if b.norm() == 0 or a.norm() == 0:
            assert torch.equal(d, torch.zeros_like(d))
        else:
            assert (d.norm() / a.norm()).item() == pytest.approx(1, rel=1e-12)
            assert ((d * b).sum() / (d.norm() * b.norm())).item() == pytest.approx(1, rel=1e-12)


# Training


def by_hand(
    name: str, scope: str, gradient: Callable[[Arrays, int], Arrays], w: Arrays, steps: int, rho: float = RHO
) -> Arrays:
    """Momentum SGD with coupled decay on the mix of g and g_s, in NumPy."""

    def length(vector: Arrays) -> float:
        return float(np.sqrt(sum((x**2).sum() for x in vector)))

    buffers = [np.zeros_like(x) for x in w]
    for step in range(steps):
        g = gradient(w, step)
        g_s = gradient([x + rho * y / length(g) for x, y in zip(w, g, strict=True)], step)
        b, a = (g_s, g) if name == "direction of g_s" else (g, g_s)
        if scope == "global":
            d = [x / length(b) * length(a) for x in b]
        elif scope == "tensor":
            d = [x / np.linalg.norm(x) * np.linalg.norm(y) for x, y in zip(b, a, strict=True)]
        else:
            d = [np.where(x > 0, 1.0, np.where(x < 0, -1.0, 0.0)) * np.abs(y) for x, y in zip(b, a, strict=True)]
        buffers = [MOMENTUM * m + x + DECAY * y for m, x, y in zip(buffers, d, w, strict=True)]
        w = [x - LR * m for x, m in zip(w, buffers, strict=True)]
    return w


@every_scope
@every_rule
def test_training_equals_the_formula_by_hand(rule_class: Any, scope: str) -> None:
    steps, model = batches(30), network()

    def gradient(w: Arrays, step: int) -> Arrays:
        inputs, targets = steps[step]
        leaves = [torch.tensor(x, requires_grad=True) for x in w]
        logits = torch.func.functional_call(
            model, dict(zip(dict(model.named_parameters()), leaves, strict=True)), inputs
        )
        return [x.numpy() for x in torch.autograd.grad(F.cross_entropy(logits, targets), leaves)]

    name = "direction of g_s" if rule_class is SAMDirection else "magnitude of g_s"
    expected = by_hand(name, scope, gradient, [p.detach().numpy().copy() for p in model.parameters()], len(steps))
    rule = rule_class(base(model.parameters()), rho=RHO, scope=scope)
    objective = Objective(model, F.cross_entropy)
    for inputs, targets in steps:
        rule.step(objective(inputs, targets))
    theirs = [torch.tensor(x) for x in expected]
    distance = norm([p.detach() - x for p, x in zip(model.parameters(), theirs, strict=True)]) / norm(theirs)
    assert distance < 1e-12


class OfSAM(Mix):
    """Both from g_s."""

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        return self.mixed(g_s, g_s)


class OfSGD(Mix):
    """Both from g."""

    def combine(self, g: Vector, g_s: Vector) -> Vector:
        return self.mixed(g, g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [None, 5])
@every_scope
def test_both_from_one_source_is_that_source(scope: str, m: int | None, dtype: torch.dtype) -> None:
    sam = trained(lambda base: SAM(base, rho=RHO), dtype, m)
    sgd = trained(SGD, dtype, m)
    assert_bitwise(trained(lambda base: OfSAM(base, rho=RHO, scope=scope), dtype, m), sam)
    assert_bitwise(trained(lambda base: OfSGD(base, rho=RHO, scope=scope), dtype, m), sgd)
    assert not torch.equal(sam[0], sgd[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_scope
@every_rule
def test_rho_zero_is_bitwise_sgd(rule_class: Any, scope: str, dtype: torch.dtype) -> None:
    assert_bitwise(trained(lambda base: rule_class(base, rho=0.0, scope=scope), dtype), trained(SGD, dtype))


@every_scope
@every_rule
def test_parts_are_averaged_before_they_are_mixed(rule_class: Any, scope: str) -> None:
    model = network()
    rule, objective = rule_class(base(model.parameters()), rho=RHO, scope=scope), Objective(model, F.cross_entropy)
    ((inputs, targets),) = batches(1)
    pairs = []
    for x, y in zip(inputs.split(4), targets.split(4), strict=True):
        pairs.append([term.vector for term in rule.terms(objective(x, y), "full").values()])
    averaged = [[sum(tensors) / 3 for tensors in zip(*vectors, strict=True)] for vectors in zip(*pairs, strict=True)]
    mixes = [rule.combine(*vectors) for vectors in pairs]
    rule.backward(objective(inputs, targets), m=4)
    gradient = [p.grad for p in model.parameters()]
    torch.testing.assert_close(gradient, rule.combine(*averaged), rtol=1e-12, atol=1e-14)
    mean_of_mixes = [sum(tensors) / 3 for tensors in zip(*mixes, strict=True)]
    assert norm(torch._foreach_sub(gradient, mean_of_mixes)) > 1e-3 * norm(gradient)


# Zeros, numbers that are none, layouts


@pytest.mark.parametrize("scale", [0.0, 1e-42])
@every_scope
@every_rule
def test_vanishing_gradients_give_no_nan(rule_class: Any, scope: str, scale: float) -> None:
    rule = rule_class(base(network().parameters()), rho=RHO, scope=scope)
    small = [torch.full((5,), scale, dtype=torch.float32), torch.zeros(3, dtype=torch.float32)]
    large = [torch.full((5,), 1e3, dtype=torch.float32), torch.full((3,), -1.0, dtype=torch.float32)]
    for direction, magnitude in itertools.product((small, large), repeat=2):
        mixed = rule.mixed(direction, magnitude)
        assert all(torch.isfinite(x).all() for x in mixed)
        for d, b in zip(mixed, direction, strict=True):
            assert torch.equal(d[b == 0], torch.zeros_like(d[b == 0]))


def test_zero_gradient_stands_still() -> None:
    for rule_class, scope in itertools.product(RULES, SCOPES):
        model = network()
        before = [p.detach().clone() for p in model.parameters()]
        rule = rule_class(base(model.parameters(), weight_decay=0.0), rho=RHO, scope=scope)
        rule.step(Objective(model, lambda outputs, _: 0 * outputs.square().sum())(*batches(1)[0]))
        assert_bitwise([p.detach() for p in model.parameters()], before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@every_scope
@every_rule
def test_what_is_not_finite_is_not_hidden(rule_class: Any, scope: str, bad: float) -> None:
    for place in (0, 1):
        vectors = pair()
        vectors[place][0][0, 0] = bad
        rule = rule_class(base(network().parameters()), rho=RHO, scope=scope)
        assert not torch.isfinite(norm(rule.combine(*vectors)))


@every_scope
def test_fused_base_on_channels_last_equals_plain(scope: str) -> None:
    """A fused kernel reads numbers in the order of the memory, whatever the strides say."""
    results = []
    for layout, fused in ((torch.contiguous_format, False), (torch.channels_last, True)):
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3)]
        model = nn.Sequential(*body, nn.Flatten(), nn.Linear(20, 3)).to(memory_format=layout)
        rule = SAMDirection(base(model.parameters(), fused=fused), rho=RHO, scope=scope)
        inputs, targets = torch.randn(4, 3, 6, 6).to(memory_format=layout), torch.tensor([0, 1, 2, 0])
        for m in (None, 2):
            rule.step(Objective(model, F.cross_entropy)(inputs, targets), m=m)
        results.append([p.detach().contiguous() for p in model.parameters()])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


# Refusals


@every_rule
def test_decay_in_the_loss_is_refused(rule_class: Any) -> None:
    model = network()
    first, *others = model.parameters()
    rule = rule_class(base(model.parameters()), rho=RHO)
    before = [p.detach().clone() for p in model.parameters()]
    for decay in (0.1, {first: 0.0, others[0]: 0.1}):
        objective = Objective(model, F.cross_entropy, weight_decay=decay)
        for call in (rule.backward, rule.step):
            with pytest.raises(ValueError, match=f"{rule_class.__name__} takes gradients without weight decay"):
                call(objective(*batches(1)[0]))
    assert_bitwise([p.detach() for p in model.parameters()], before)
    assert all(p.grad is None for p in model.parameters())
    assert rule.steps == 0
    for decay in (0.0, dict.fromkeys(model.parameters(), 0.0)):
        rule.step(Objective(model, F.cross_entropy, weight_decay=decay)(*batches(1)[0]))
    SAM(base(model.parameters()), rho=RHO).step(Objective(model, F.cross_entropy, weight_decay=0.1)(*batches(1)[0]))


@pytest.mark.parametrize("name", ["sam_direction", "sam_magnitude"])
def test_decay_in_the_loss_is_refused_at_the_door(name: str) -> None:
    with pytest.raises(UserError, match=f"weight_decay_in = loss: {name} .*; choose weight_decay_in=base"):
        build.make_rule(compose_line([f"optimizer={name}", "weight_decay_in=loss"]), network())
    build.make_rule(compose_line([f"optimizer={name}"]), network())
    build.make_rule(compose_line(["optimizer=sam", "weight_decay_in=loss"]), network())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "layer"}, "scope = layer: must be one of global, tensor, element"),
        ({"scope": None}, "scope = null: must be one of global, tensor, element"),
        ({"rho": -1.0}, "rho = -1.0: must be a finite number >= 0"),
    ],
)
@every_rule
def test_bad_input_is_refused(rule_class: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule_class(base(network().parameters()), **({"rho": RHO} | options))
