"""SAM-masked against a plain loop over the elements."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro.config.lines import compose_line
from sam_repro.limits import shown
from sam_repro.optimizer import SAM, SGD, Rule, SAMMasked
from sam_repro.oracle import Objective
from sam_repro.run.dry_build import findings
from sam_repro.vectors import Vector, norm

pytestmark = pytest.mark.usefixtures("float64")
RHO, LR, MOMENTUM, DECAY = 0.3, 0.1, 0.9, 1e-2
EVERY_CHOICE = [list(c) for k in (1, 2, 3, 4) for c in itertools.combinations((1, 2, 3, 4), k)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator)) for _ in range(steps)
    ]


def base(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)


def trained(make_rule: Callable[[torch.optim.Optimizer], Rule], dtype: torch.dtype = torch.float64) -> Vector:
    model = network().to(dtype)
    rule, objective = make_rule(base(model)), Objective(model, F.cross_entropy)
    for inputs, targets in batches(5):
        rule.step(objective(inputs.to(dtype), targets))
    return [p.detach() for p in model.parameters()]


def assert_bitwise(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    torch.testing.assert_close(list(ours), list(theirs), rtol=0, atol=0)


def one_by_one(g: np.ndarray, g_s: np.ndarray, classes: Sequence[int], scale: float, rest: str) -> np.ndarray:
    """The rule as its text says it, element by element, by the quotient r."""
    intervals = {1: (1, np.inf), 2: (0, 1), 3: (-np.inf, -1), 4: (-1, 0)}
    d = np.empty_like(g)
    for place in np.ndindex(g.shape):
        r = g_s[place] / g[place] if g[place] != 0 else np.nan
        taken = any(intervals[k][0] < r < intervals[k][1] for k in classes)
        d[place] = scale * g_s[place] if taken else g[place] if rest == "sgd" else g_s[place]
    return d


def pair() -> tuple[Vector, Vector]:
    """Elements of every class, on every boundary, and zeros; and twenty at random."""
    values = [(2.0, 5.0), (-2.0, -5.0), (2.0, 1.0), (-2.0, -1.0), (2.0, -5.0), (-2.0, 5.0), (2.0, -1.0), (-2.0, 1.0)]
    values += [(2.0, 2.0), (-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 0.0), (-2.0, 0.0)]  # r = 1, −1, 0
    values += [(0.0, 3.0), (0.0, -3.0), (0.0, 0.0), (-0.0, 3.0), (2.0, -0.0)]  # no r; r = −0
    g, g_s = torch.tensor(values).unbind(dim=1)
    generator = torch.Generator().manual_seed(2)
    return [g, torch.randn(4, 5, generator=generator)], [g_s, torch.randn(4, 5, generator=generator)]


@pytest.mark.parametrize("rest", ["sgd", "sam"])
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.0, 3.0])
@pytest.mark.parametrize("classes", EVERY_CHOICE, ids=str)
def test_equals_a_loop_over_the_elements(classes: list[int], scale: float, rest: str) -> None:
    rule = SAMMasked(base(network()), rho=RHO, classes=classes, scale=scale, rest=rest)
    g, g_s = pair()
    for d, x, y in zip(rule.combine(g, g_s), g, g_s, strict=True):
        assert np.array_equal(d.numpy(), one_by_one(x.numpy(), y.numpy(), classes, scale, rest))


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 1e-40), (torch.float64, 1e-310)])
def test_classes_of_numbers_whose_products_and_quotients_leave_the_range(dtype: torch.dtype, tiny: float) -> None:
    g = [torch.tensor([tiny, -tiny, tiny, -tiny, tiny, 1e30], dtype=dtype)]
    g_s = [torch.tensor([3 * tiny, tiny / 3, -3 * tiny, tiny, 1e30, tiny], dtype=dtype)]
    for k, places in {1: [0, 4], 2: [5], 3: [2], 4: [1]}.items():
        (d,) = SAMMasked(base(network()), rho=RHO, classes=[k]).combine(g, g_s)
        expected = g[0].clone()
        expected[places] = g_s[0][places]
        assert torch.equal(d, expected)


@pytest.mark.parametrize(
    ("classes", "scale", "rest"), [([1], 1.0, "sgd"), ([1, 2], 1.0, "sgd"), ([3], 0.1, "sam"), ([4, 2], 2.0, "sam")]
)
def test_training_equals_the_loop_by_hand(classes: list[int], scale: float, rest: str) -> None:
    steps, model = batches(30), network()

    def gradient(w: list[np.ndarray], step: int) -> list[np.ndarray]:
        inputs, targets = steps[step]
        leaves = [torch.tensor(x, requires_grad=True) for x in w]
        logits = torch.func.functional_call(
            model, dict(zip(dict(model.named_parameters()), leaves, strict=True)), inputs
        )
        return [x.numpy() for x in torch.autograd.grad(F.cross_entropy(logits, targets), leaves)]

    w = [p.detach().numpy().copy() for p in model.parameters()]
    buffers = [np.zeros_like(x) for x in w]
    for step in range(len(steps)):
        g = gradient(w, step)
        length = np.sqrt(sum((x**2).sum() for x in g))
        g_s = gradient([x + RHO * y / length for x, y in zip(w, g, strict=True)], step)
        d = [one_by_one(x, y, classes, scale, rest) for x, y in zip(g, g_s, strict=True)]
        buffers = [MOMENTUM * b + x + DECAY * y for b, x, y in zip(buffers, d, w, strict=True)]
        w = [x - LR * b for x, b in zip(w, buffers, strict=True)]

    rule = SAMMasked(base(model), rho=RHO, classes=classes, scale=scale, rest=rest)
    for inputs, targets in steps:
        rule.step(Objective(model, F.cross_entropy)(inputs, targets))
    theirs = [torch.tensor(x) for x in w]
    distance = norm([p.detach() - x for p, x in zip(model.parameters(), theirs, strict=True)]) / norm(theirs)
    assert distance < 1e-12


def test_default_is_class_1_of_sam_in_sgd() -> None:
    g, g_s = pair()
    rule = SAMMasked(base(network()), rho=RHO, classes=[1])
    assert np.array_equal(rule.combine(g, g_s)[0].numpy(), one_by_one(g[0].numpy(), g_s[0].numpy(), [1], 1.0, "sgd"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_sam_and_sgd(dtype: torch.dtype) -> None:
    sam, sgd = trained(lambda base: SAM(base, rho=RHO), dtype), trained(SGD, dtype)
    assert not torch.equal(sam[0], sgd[0])
    for classes in ([1], [2, 3], [1, 2, 3, 4]):
        assert_bitwise(trained(lambda base, c=classes: SAMMasked(base, RHO, c, rest="sam"), dtype), sam)
    for scale, rest in itertools.product((1.0, 5.0), ("sgd", "sam")):
        rho_zero = trained(lambda base, s=scale, r=rest: SAMMasked(base, 0.0, [1, 2, 3, 4], s, r), dtype)
        assert_bitwise(rho_zero, sgd)


def test_parts_are_averaged_before_they_are_compared() -> None:
    model = network()
    rule, objective = SAMMasked(base(model), RHO, [1, 3], scale=2.0), Objective(model, F.cross_entropy)
    ((inputs, targets),) = batches(1)
    pairs = [
        [term.vector for term in rule.terms(objective(x, y), "full").values()]
        for x, y in zip(inputs.split(4), targets.split(4), strict=True)
    ]
    averaged = [[sum(tensors) / 3 for tensors in zip(*vectors, strict=True)] for vectors in zip(*pairs, strict=True)]
    rule.backward(objective(inputs, targets), m=4)
    gradient = [p.grad for p in model.parameters()]
    torch.testing.assert_close(gradient, rule.combine(*averaged), rtol=1e-12, atol=1e-14)
    mixes = [rule.combine(*vectors) for vectors in pairs]
    mean_of_mixes = [sum(tensors) / 3 for tensors in zip(*mixes, strict=True)]
    assert norm(torch._foreach_sub(gradient, mean_of_mixes)) > 1e-3 * norm(gradient)


def test_zero_gradient_stands_still() -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    rule = SAMMasked(torch.optim.SGD(model.parameters(), lr=LR), RHO, [1, 2, 3, 4])
    rule.step(Objective(model, lambda outputs, _: 0 * outputs.square().sum())(*batches(1)[0]))
    assert_bitwise([p.detach() for p in model.parameters()], before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rest", ["sgd", "sam"])
@pytest.mark.parametrize("classes", [[1], [2], [3], [4]], ids=str)
def test_what_is_not_finite_is_not_hidden(classes: list[int], rest: str, bad: float) -> None:
    g, g_s = pair()
    g_s[0][0] = bad
    assert not torch.isfinite(norm(SAMMasked(base(network()), RHO, classes, rest=rest).combine(g, g_s)))


def test_fused_base_on_channels_last_equals_plain() -> None:
    """A fused kernel reads numbers in the order of the memory, whatever the strides say."""
    results = []
    for layout, fused in ((torch.contiguous_format, False), (torch.channels_last, True)):
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3)]
        model = nn.Sequential(*body, nn.Flatten(), nn.Linear(20, 3)).to(memory_format=layout)
        rule = SAMMasked(torch.optim.SGD(model.parameters(), lr=LR, fused=fused), RHO, [1])
        inputs, targets = torch.randn(4, 3, 6, 6).to(memory_format=layout), torch.tensor([0, 1, 2, 0])
        for m in (None, 2):
            rule.step(Objective(model, F.cross_entropy)(inputs, targets), m=m)
        results.append([p.detach().contiguous() for p in model.parameters()])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": []}, r"classes = \[\]: must be a list of integers, such as \[1, 2\]"),
        ({"classes": 1}, "classes = 1: must be a list of integers"),
        ({"classes": "12"}, "classes = .*12.*: must be a list of integers"),
        ({"classes": None}, "classes = null: must be a list of integers"),
        ({"classes": [1, 5]}, r"classes\[1\] = 5: must be an integer >= 1 and <= 4"),
        ({"classes": [0]}, r"classes\[0\] = 0: must be an integer >= 1 and <= 4"),
        ({"classes": [True]}, r"classes\[0\] = true: must be an integer"),
        ({"classes": [1.0]}, r"classes\[0\] = 1.0: must be an integer"),
        ({"classes": [2, 2]}, r"classes = \[2, 2\]: must be distinct"),
        ({"scale": -0.1}, "scale = -0.1: must be a finite number >= 0"),
        ({"scale": float("nan")}, "scale = nan: must be a finite number >= 0"),
        ({"rest": "asam"}, "rest = asam: must be one of sgd, sam"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAMMasked(base(network()), **({"rho": RHO, "classes": [1]} | options))
    ((key, value),) = options.items()
    (line,) = findings([compose_line(["optimizer=sam_masked", f"optimizer.{key}={shown(value)}"])])
    assert line.startswith(f"optimizer.{key}")
