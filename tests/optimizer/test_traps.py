"""Where a plain implementation of SAM goes wrong without a word; most tests first show that it does."""

import copy
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro.optimizer import SAM, SGD, Rule
from sam_repro.oracle import Objective
from sam_repro.vectors import Vector

RHO = 0.1


def assert_same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.1} | options))


def data(*shape: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(*shape, generator=generator)
    return inputs, torch.randint(classes, shape[:1], generator=generator)


# Storage of gradients


class Awkward(nn.Module):
    """Autograd gives `summed` one number with stride 0, and `left` and `right` the same storage."""

    def __init__(self) -> None:
        super().__init__()
        self.summed, self.left, self.right = (nn.Parameter(torch.arange(1.0, 7.0)) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ (self.left + self.right) + self.summed.sum()


@pytest.mark.parametrize("rule", [SGD, lambda base: SAM(base, rho=0.0)])
def test_fused_base_moves_every_element(rule: Any) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()

    inputs, targets = data(8, 6)
    naive, model = Awkward(), Awkward()
    before = copy.deepcopy(model)
    gradients = torch.autograd.grad(loss(naive(inputs), targets), list(naive.parameters()))
    assert gradients[0].stride() == (0,)
    assert gradients[1].data_ptr() == gradients[2].data_ptr()
    for p, g in zip(naive.parameters(), gradients, strict=True):
        p.grad = g
    sgd(naive, fused=True).step()

    rule(sgd(model, fused=True)).step(Objective(model, loss)(inputs, targets))
    for p, start, g in zip(model.parameters(), before.parameters(), gradients, strict=True):
        torch.testing.assert_close(p, start - 0.1 * g, rtol=1e-6, atol=0)
    assert not torch.allclose(naive.summed, model.summed)  # only its first element moved


def test_decay_in_the_loss_is_added_once_to_gradients_that_share_storage() -> None:
    inputs, targets = data(8, 6)
    vectors = []
    for decay in (0.0, 0.5):
        model = Awkward()
        objective = Objective(model, lambda outputs, _: outputs.mean(), weight_decay=decay)
        vectors.append(objective(inputs, targets).gradient(list(model.parameters())).vector)
    for plain, decayed, p in zip(*vectors, model.parameters(), strict=True):
        torch.testing.assert_close(decayed, plain + 0.5 * p, rtol=1e-6, atol=0)


def test_channels_last_with_a_fused_base_equals_contiguous() -> None:
    inputs, targets = data(4, 3, 6, 6)
    last = inputs.contiguous(memory_format=torch.channels_last)

    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3)
    (naive,) = torch.autograd.grad(convolution(last).sum(), [convolution.weight])
    assert naive.stride() != convolution.weight.stride()  # a fused kernel would read it in the wrong order

    def network() -> nn.Module:
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3)]
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(20, 3)).double()

    cases = [
        (network(), inputs, False),
        (network(), last, True),
        (network().to(memory_format=torch.channels_last), inputs, True),
        (network().to(memory_format=torch.channels_last), last, True),
    ]
    for model, images, fused in cases:
        rule = SAM(sgd(model, momentum=0.9, fused=fused), rho=RHO)
        for m in (None, None, 2):
            rule.step(Objective(model, F.cross_entropy)(images.double(), targets), m=m)
        assert all(p.grad.stride() == p.stride() for p in model.parameters())
    for model, _, _ in cases[1:]:
        for ours, reference in zip(model.parameters(), cases[0][0].parameters(), strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


# Autocast


def test_second_pass_sees_the_perturbed_weights_inside_the_callers_autocast() -> None:
    inputs, targets = data(16, 6)

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    naive = network()
    with torch.autocast("cpu", torch.bfloat16):
        before = naive(inputs)
        with torch.no_grad():
            naive[0].weight.add_(1.0)
        assert torch.equal(naive(inputs), before)  # the cache of the region hides the perturbation

    gradients, losses = {}, {}
    for name, rho, outer, own in (
        ("outer", 1.0, True, None),
        ("own", 1.0, False, torch.bfloat16),
        ("outer and own", 1.0, True, torch.bfloat16),
        ("rho = 0", 0.0, True, None),
        ("full", 1.0, False, None),
    ):
        model = network()
        rule = SAM(sgd(model), rho=rho)
        with torch.autocast("cpu", torch.bfloat16, enabled=outer):
            losses[name] = rule.backward(Objective(model, F.cross_entropy, autocast=own)(inputs, targets))
        gradients[name] = [p.grad for p in model.parameters()]
    assert not torch.allclose(gradients["outer"][0], gradients["rho = 0"][0], rtol=0.1)
    torch.testing.assert_close(gradients["outer"], gradients["full"], rtol=0.2, atol=0.02)
    assert_same(gradients["outer"], gradients["own"])
    assert_same(gradients["outer"], gradients["outer and own"])
    assert_same(losses["outer"], losses["rho = 0"])
    assert losses["outer"] != losses["full"]  # the passes did run in bfloat16
    assert losses["outer"].dtype == gradients["outer"][0].dtype == torch.float32


# Parameters that take no part


def test_head_only_base_leaves_the_backbone() -> None:
    torch.manual_seed(0)
    backbone, head = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh()), nn.Linear(8, 3)
    model = nn.Sequential(backbone, head).double()
    before = [p.detach().clone() for p in backbone.parameters()]
    seen: list[list[Tensor]] = []
    head.register_forward_pre_hook(lambda *_: seen.append([p.detach().clone() for p in backbone.parameters()]))
    rule = SAM(sgd(head), rho=RHO)
    inputs, targets = data(8, 6)
    for _ in range(3):
        rule.step(Objective(model, F.cross_entropy)(inputs.double(), targets))
    assert all(p.grad is None for p in backbone.parameters())
    assert len(seen) == 6
    for weights in seen:
        assert_same(weights, before)
    frozen = copy.deepcopy(model)
    expected = SAM(sgd(frozen), rho=RHO)
    frozen[0].requires_grad_(False)
    rule.backward(Objective(model, F.cross_entropy)(inputs.double(), targets))
    expected.backward(Objective(frozen, F.cross_entropy)(inputs.double(), targets))
    assert_same(head.weight.grad, frozen[1].weight.grad)  # ‖g‖ is the head's alone


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder, transposed, registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Parameter(torch.randn(4, 6))
        self.decoder = self.encoder

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ self.encoder.T) @ self.decoder


@pytest.mark.usefixtures("float64")
def test_tied_weights_climb_once() -> None:
    model = Tied()
    inputs, targets = data(8, 6, classes=6)
    w = model.encoder.detach().clone().requires_grad_()

    def loss(weight: Tensor) -> Tensor:
        return F.cross_entropy(torch.tanh(inputs @ weight.T) @ weight, targets)

    (g,) = torch.autograd.grad(loss(w), w)
    top = (w + RHO * g / g.norm()).detach().requires_grad_()
    (expected,) = torch.autograd.grad(loss(top), top)
    rule = SAM(sgd(model), rho=RHO)
    rule.backward(Objective(model, F.cross_entropy)(inputs, targets))
    torch.testing.assert_close(model.encoder.grad, expected, rtol=1e-12, atol=1e-14)


class Skipping(nn.Module):
    """Stochastic depth whose draw differs from pass to pass: the middle layer runs in the passes listed."""

    def __init__(self, runs_in: set[int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.runs_in, self.calls = runs_in, 0

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if self.calls in self.runs_in:
            hidden = hidden + torch.tanh(self.middle(hidden))
        self.calls += 1
        return self.last(hidden)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("m", [None, 4])
@pytest.mark.parametrize("runs_in", [{0}, {1}, set()])
def test_skipped_layer_keeps_no_perturbation(runs_in: set[int], m: int | None) -> None:
    model = Skipping(runs_in)
    before = copy.deepcopy(model)
    inputs, targets = data(8, 6)
    rule = SAM(sgd(model), rho=RHO)
    rule.backward(Objective(model, F.cross_entropy)(inputs, targets), m=m)
    for p, start in zip(model.parameters(), before.parameters(), strict=True):
        assert_same(p.detach(), start.detach())
    given = bool(runs_in)
    assert (model.middle.weight.grad is not None) == given
    if m is None and runs_in == {0}:  # a gradient in pass 1 alone: the missing one is zero
        assert_same(model.middle.weight.grad, torch.zeros(6, 6))
    if runs_in == {1}:
        assert model.middle.weight.grad.abs().sum() > 0


# Memory


class Watched(SAM):
    """Keeps weak references to the perturbation."""

    def ascent(self, g: Vector, w: Vector) -> Vector:
        epsilon = super().ascent(g, w)
        self.epsilon = [weakref.ref(tensor) for tensor in epsilon]
        return epsilon


def test_perturbation_is_freed_before_the_second_pass() -> None:
    model = nn.Sequential(nn.Linear(6, 3))
    rule = Watched(sgd(model), rho=RHO)
    alive: list[bool] = []
    model.register_forward_pre_hook(lambda *_: alive.extend(e() is not None for e in getattr(rule, "epsilon", [])))
    inputs, targets = data(8, 6)
    rule.backward(Objective(model, F.cross_entropy)(inputs, targets))
    assert alive == [False, False]


# Batch norm


def with_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


def after_a_step(statistics: str, m: int | None) -> nn.BatchNorm1d:
    model = with_batch_norm()
    inputs, targets = data(8, 6)
    objective = Objective(model, F.cross_entropy, batch_norm_statistics=statistics)
    rule: Rule = SAM(sgd(model), rho=RHO)
    rule.step(objective(inputs.double(), targets), m=m)
    return model[1]


def after_forwards(*parts: slice) -> nn.BatchNorm1d:
    model = with_batch_norm()
    for part in parts:
        model(data(8, 6)[0].double()[part])
    return model[1]


WHOLE, FIRST, SECOND = slice(8), slice(4), slice(4, 8)


@pytest.mark.parametrize(
    ("statistics", "m", "parts"),
    [("mean", None, [WHOLE]), ("first", None, [WHOLE]), ("first", 4, [FIRST])],
)
def test_running_statistics_move_in_one_pass(statistics: str, m: int | None, parts: list[slice]) -> None:
    ours, plain = after_a_step(statistics, m), after_forwards(*parts)
    assert_same(list(ours.buffers()), list(plain.buffers()))


def test_running_statistics_are_the_mean_over_parts() -> None:
    ours, halves = after_a_step("mean", 4), [after_forwards(FIRST), after_forwards(SECOND)]
    for name in ("running_mean", "running_var"):
        mean = (getattr(halves[0], name) + getattr(halves[1], name)) / 2
        torch.testing.assert_close(getattr(ours, name), mean, rtol=1e-14, atol=1e-16)
    assert ours.num_batches_tracked == 1


def test_running_statistics_move_in_both_passes() -> None:
    ours, plain = after_a_step("both", None), after_forwards(WHOLE)
    assert ours.num_batches_tracked == 2
    model = with_batch_norm()
    inputs, targets = data(8, 6)
    params = list(model.parameters())
    g = torch.autograd.grad(F.cross_entropy(model(inputs.double()), targets), params)
    length = torch.cat([t.flatten() for t in g]).norm()
    with torch.no_grad():
        for p, t in zip(params, g, strict=True):
            p += RHO * t / length
    model(inputs.double())
    torch.testing.assert_close(ours.running_mean, model[1].running_mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.running_var, model[1].running_var, rtol=1e-12, atol=1e-14)
    assert not torch.equal(ours.running_mean, plain.running_mean)


def test_first_with_ranks_moves_the_first_part_only() -> None:
    model = with_batch_norm()
    inputs, targets = data(8, 6)
    objective = Objective(model, F.cross_entropy, batch_norm_statistics="first")
    SAM(sgd(model), rho=RHO).backward(objective(inputs.double(), targets), m=4, mean=lambda tensors: tensors)
    assert_same(list(model[1].buffers()), list(after_forwards(FIRST).buffers()))


def test_m_by_its_place_is_told_by_its_name() -> None:
    model = nn.Linear(2, 3)
    rule, oracle = SAM(sgd(model), rho=RHO), Objective(model, F.cross_entropy)(*data(8, 2))
    for oracles in ((oracle, 4), (4,)):
        with pytest.raises(TypeError, match="4: is no batch but a number; if it is m, name it: m=4"):
            rule.step(*oracles)
    for others in (data(8, 2), (lambda: None,), ()):
        with pytest.raises(TypeError, match=r"batch; write|write rule\.step\(objective\(inputs, targets\)\)"):
            rule.step(*others)  # type: ignore[arg-type]
    assert rule.steps == 0


def test_a_base_that_is_no_optimizer_is_told_in_a_line() -> None:
    with pytest.raises(TypeError, match=r"base: generator is no optimizer; give one, such as torch\.optim\.SGD"):
        SAM(nn.Linear(2, 3).parameters(), rho=RHO)  # type: ignore[arg-type]
