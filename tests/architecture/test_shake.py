"""Random gates: values and derivatives by hand, example by example; expectations; the same gates wherever they must."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sam_repro.architecture.shake import ShakeDrop, ShakeShake
from sam_repro.optimizer import SAM
from sam_repro.oracle import Objective
from sam_repro.oracle.products import hvp

pytestmark = pytest.mark.usefixtures("float64")


def numbers(count: int) -> Tensor:
    """The next uniform numbers, one for each example."""
    return torch.rand(count, 1, 1, 1, dtype=torch.float32).flatten()


def shake_shake(x: Tensor, y: Tensor, backward: str) -> tuple[Tensor, Tensor, Tensor]:
    """The mixture and its derivatives by x and by y, in a loop over the examples, from the gates of seed 0."""
    torch.manual_seed(0)
    alpha = numbers(len(x))
    beta = numbers(len(x)) if backward == "drawn" else alpha
    alpha, beta = alpha.double(), beta.double()
    value, by_x, by_y = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    for example in range(len(x)):
        value[example] = alpha[example] * x[example] + (1 - alpha[example]) * y[example]
        by_x[example], by_y[example] = beta[example], 1 - beta[example]
    return value, by_x, by_y


@pytest.mark.parametrize("backward", ["drawn", "same"])
def test_shake_shake_by_hand(backward: str) -> None:
    x, y = torch.randn(6, 2, 3, 3, requires_grad=True), torch.randn(6, 2, 3, 3, requires_grad=True)
    value, by_x, by_y = shake_shake(x.detach(), y.detach(), backward)
    torch.manual_seed(0)
    mixed = ShakeShake(backward)(x, y)
    slope = torch.randn_like(x)
    found = torch.autograd.grad(mixed, (x, y), slope)
    torch.testing.assert_close((mixed, *found), (value, slope * by_x, slope * by_y))


@pytest.mark.parametrize("backward", ["drawn", "same"])
def test_shakedrop_by_hand(backward: str) -> None:
    x, p = torch.randn(40, 2, 3, 3, requires_grad=True), 0.6
    torch.manual_seed(0)
    uniform, alpha = numbers(40), numbers(40)
    beta = numbers(40) if backward == "drawn" else None
    value, by_x, passed = torch.empty_like(x), torch.empty_like(x), 0
    for example in range(40):
        if uniform[example] < p:  # b = 1: the branch passes in both directions
            passed += 1
            forward = behind = 1.0
        else:  # α in [-1, 1], β in [0, 1]
            forward = float(2 * alpha[example] - 1)
            behind = forward if beta is None else float(beta[example])
        value[example], by_x[example] = forward * x[example].detach(), behind
    torch.manual_seed(0)
    gated = ShakeDrop(p, backward)(x)
    (found,) = torch.autograd.grad(gated.sum(), x)
    torch.testing.assert_close((gated, found), (value, by_x))
    assert 0 < passed < 40


def test_evaluation_is_the_mean_of_what_training_draws() -> None:
    x, y = torch.ones(100_000, 1, 1, 1), torch.zeros(100_000, 1, 1, 1)
    torch.manual_seed(0)
    drop, mix = ShakeDrop(0.7), ShakeShake()
    assert float(drop(x).mean()) == pytest.approx(0.7, abs=0.01)
    assert float(mix(x, y).mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(drop.eval()(x), 0.7 * x)
    assert torch.equal(mix.eval()(x, y), 0.5 * x)


class Gated(nn.Module):
    """mean over pixels of gate(w·x), or of a mixture of w·x and v·x: a linear function of its two weights."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.7, -0.3]))
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.w[0] * x, self.w[1] * x)
        mixed = self.gate(*branches) if isinstance(self.gate, ShakeShake) else self.gate(sum(branches))
        return mixed.mean((1, 2, 3))


GATES: list[Callable[[str], nn.Module]] = [lambda backward: ShakeDrop(0.5, backward), ShakeShake]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("backward", ["drawn", "same"])
def test_hessian_products_have_the_gates_of_the_backward(gate: Callable[[str], nn.Module], backward: str) -> None:
    """The loss is square in outputs whose derivatives J have the backward's gates, so H = 2·mean(J Jᵀ)."""
    torch.manual_seed(0)
    model = Gated(gate(backward))
    inputs, targets = torch.randn(8, 1, 2, 2), torch.randn(8)
    noise, params = torch.initial_seed(), list(model.parameters())
    oracle = Objective(model, mse_loss)(inputs, targets)
    columns = [hvp(oracle, params, [v])[0] for v in torch.eye(2)]
    torch.manual_seed(0)
    assert torch.initial_seed() == noise
    gradient = oracle.gradient(params)
    jacobian = jacobian_at(oracle.noise, model, inputs)
    torch.testing.assert_close(torch.stack(columns), 2 * jacobian.T @ jacobian / 8)
    assert torch.equal(gradient.vector[0], oracle.gradient(params).vector[0])


def jacobian_at(noise: int, model: nn.Module, inputs: Tensor) -> Tensor:
    from sam_repro.oracle.oracle import reseed

    rows = []
    for example in range(len(inputs)):
        reseed(noise, inputs.device)
        rows.append(torch.autograd.grad(model(inputs)[example], model.w)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("gate", GATES)
def test_passes_of_a_step_have_one_noise_and_parts_and_steps_others(gate: Callable[[str], nn.Module]) -> None:
    model, seen = Gated(gate("drawn")), []
    model.gate.register_forward_hook(lambda _, branches, mixed: seen.append(mixed.detach() / branches[0].detach()))
    rule = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=1e-9)
    objective = Objective(model, mse_loss)
    for seed in (1, 2):
        torch.manual_seed(seed)
        rule.step(objective(torch.ones(4, 1, 1, 1), torch.zeros(4)), m=2)
    part1, part1_at_e, part2, part2_at_e = seen[:4]
    torch.testing.assert_close(part1, part1_at_e)
    torch.testing.assert_close(part2, part2_at_e)
    assert not torch.allclose(part1, part2)
    assert not torch.allclose(part1, seen[4])


@pytest.mark.parametrize("gate", [ShakeDrop, ShakeShake])
def test_limits(gate: type[nn.Module]) -> None:
    given = (0.5,) if gate is ShakeDrop else ()
    with pytest.raises(ValueError, match=r"^backward = true: must be one of drawn, same$"):
        gate(*given, backward=True)
    with pytest.raises(ValueError, match=r"^p = 1.5: must be a finite number >= 0 and <= 1$"):
        ShakeDrop(1.5)
