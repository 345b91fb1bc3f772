"""What every rule owes, for every file of configs/optimizer: the clauses of the contract, and more about numbers.

That a clause can be broken is shown in `test_check.py`.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from numbered import Objective
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_repro.optimizer import SAM, SGD, Cost, Rule, contract
from sam_repro.optimizer.left import taken_by

MakeRule = Callable[..., Rule]
BATCH = 8
STEPS = 7  # more than the longest period
ROWS = torch.arange(BATCH)


def network(dtype: torch.dtype = torch.float64, dropout: float = 0.3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(48, 3),
    ).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(BATCH, 1, 4, 4, generator=generator, dtype=dtype)
    return inputs, torch.randint(3, (BATCH,), generator=generator)


def base(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2} | options))


def train(rule: Rule, model: nn.Module, steps: range, m: int | None = None) -> list[Tensor]:
    """The losses; the noise of a step is a function of the step, as in the trainer."""
    objective = Objective(model, F.cross_entropy)
    losses = []
    for step in steps:
        oracle = objective(*batch(step, next(model.parameters()).dtype), noise=step)
        losses.append(rule.step(oracle, m=m))
    return losses


def state(model: nn.Module, rule: Rule) -> list[Tensor]:
    """Copies of parameters, buffers and momentum."""
    momentum = [tensor for slots in rule.base.state.values() for tensor in slots.values() if tensor is not None]
    return [tensor.detach().clone() for tensor in [*model.parameters(), *model.buffers(), *momentum]]


def assert_bitwise(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("clause", contract.CLAUSES)
def test_clause(make_rule: MakeRule, clause: Callable[[MakeRule], None]) -> None:
    clause(make_rule)


@pytest.mark.parametrize("dtype", [torch.float32])
def test_rho_zero_is_bitwise_sgd(make_rule: MakeRule, rho: float, dtype: torch.dtype) -> None:
    ours, theirs = network(dtype), network(dtype)
    rule, sgd = make_rule(base(ours), rho=0.0), SGD(base(theirs))
    assert_bitwise(train(rule, ours, range(STEPS)), train(sgd, theirs, range(STEPS)))
    assert_bitwise(state(ours, rule), state(theirs, sgd))


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), True])
def test_rho_out_of_range_is_refused(make_rule: MakeRule, rho: float, bad: float) -> None:
    with pytest.raises(Exception, match=r"rho = .*must be a finite number >= 0"):
        make_rule(base(network()), rho=bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [None, 3])
def test_backward_leaves_the_weights_bitwise(make_rule: MakeRule, m: int | None, dtype: torch.dtype) -> None:
    model = network(dtype)
    rule, objective = make_rule(base(model)), Objective(model, F.cross_entropy)
    for step in range(STEPS):
        before = [p.detach().clone() for p in model.parameters()]
        rule.backward(objective(*batch(step, dtype)), m=m)
        assert_bitwise([p.detach() for p in model.parameters()], before)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        del gradients["0.bias"]  # before batch norm: 0 but for rounding
        assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
        rule.update()


@pytest.mark.parametrize("m", [None, 4])
def test_addresses_are_constant(make_rule: MakeRule, m: int | None) -> None:
    model = network()
    rule = make_rule(base(model))

    def addresses() -> list[int]:
        momentum = [slots["momentum_buffer"] for slots in rule.base.state.values()]
        return [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers(), *momentum]]

    train(rule, model, range(1), m)
    before = addresses()
    train(rule, model, range(1, STEPS), m)
    assert addresses() == before


def test_step_counts_and_backward_does_not(make_rule: MakeRule) -> None:
    model = network()
    rule = make_rule(base(model))
    rule.backward(Objective(model, F.cross_entropy)(*batch(0)))
    assert rule.steps == 0
    rule.base.zero_grad()
    train(rule, model, range(3))
    assert rule.steps == rule.state_dict()["steps"] == 3


@pytest.mark.parametrize(("m", "momentum"), [(4, None), (3, 0.1)])
def test_parts_equal_parts_made_by_hand(make_rule: MakeRule, m: int, momentum: float | None) -> None:
    ours, theirs = network(), network()
    ours[1].momentum = theirs[1].momentum = momentum
    rule, hand = make_rule(base(ours)), make_rule(base(theirs))
    objective = Objective(theirs, F.cross_entropy)
    for step in range(STEPS):
        train(rule, ours, range(step, step + 1), m)

        start = {name: buffer.clone() for name, buffer in theirs.named_buffers()}
        mean = {name: torch.zeros_like(buffer) for name, buffer in start.items() if buffer.is_floating_point()}
        vectors: dict[str, list[Tensor]] = {}
        outputs = []
        for part, (x, y, rows) in enumerate(zip(*(t.split(m) for t in (*batch(step), ROWS)), strict=True)):
            theirs.load_state_dict(start, strict=False)
            terms = hand.terms(objective(x, y, noise=step + part, rows=rows), hand.phase(step))
            outputs.append(next(iter(terms.values())).outputs)
            share = len(y) / BATCH
            vectors = vectors or {name: [torch.zeros_like(x) for x in term.vector] for name, term in terms.items()}
            for name, term in terms.items():
                torch._foreach_add_(vectors[name], term.vector, alpha=share)
            for name in mean:
                mean[name] += share * theirs.get_buffer(name)
        theirs.load_state_dict(mean, strict=False)
        with torch.no_grad():
            gradient = hand.combine(**vectors)
            hand.remember(**taken_by(hand.remember, vectors))
            if hand.needs_rows:
                hand.remember_examples(ROWS, torch.cat(outputs))
        for p, g in zip(hand.params, gradient, strict=True):
            p.grad = g
        hand.update()
        hand.steps += 1
    for a, b in zip(state(ours, rule), state(theirs, hand), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert ours[1].num_batches_tracked == STEPS


def test_parts_of_a_network_without_batch_norm(make_rule: MakeRule, float64: None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    rule, objective = make_rule(base(model)), Objective(model, F.cross_entropy)
    whole = F.cross_entropy(model(batch(0)[0]), batch(0)[1])
    torch.testing.assert_close(rule.step(objective(*batch(0)), m=3), whole.detach(), rtol=1e-12, atol=0)


def assert_refuses_decay_in_the_loss(rule: Rule, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="takes gradients without weight decay"):
        rule.step(Objective(model, F.cross_entropy, weight_decay=0.5)(*batch(0)))


def test_returned_loss_is_without_decay_in_the_loss(make_rule: MakeRule) -> None:
    plain, decayed = network(), network()
    losses = []
    for model, decay in ((plain, 0.0), (decayed, 0.5)):
        rule = make_rule(base(model))
        if not rule.allows_decay_in_loss:
            assert_refuses_decay_in_the_loss(rule, model)
            return
        torch.manual_seed(0)
        losses.append(rule.step(Objective(model, F.cross_entropy, weight_decay=decay)(*batch(0))))
    assert_bitwise(losses[:1], losses[1:])
    assert not torch.equal(plain[0].weight, decayed[0].weight)


class HostSync(TorchDispatchMode):
    """Refuses the operations through which the host reads a tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal"):
            raise AssertionError(f"{func} reads a tensor on the host")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("m", [None, 4])
def test_step_never_waits_for_the_device(make_rule: MakeRule, m: int | None) -> None:
    model = network()
    rule = make_rule(base(model))
    with HostSync():
        train(rule, model, range(STEPS), m)


def test_that_the_guard_sees_a_host_sync() -> None:
    with HostSync(), pytest.raises(AssertionError, match="reads a tensor"):
        torch.ones(()).item()


class Partial(nn.Module):
    """A used, a frozen and an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen, self.used, self.unused = nn.Linear(16, 5), nn.Linear(5, 3), nn.Linear(5, 3)
        self.frozen.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(torch.tanh(self.frozen(inputs.flatten(1))))


def test_unused_and_frozen_parameters_are_left_alone(make_rule: MakeRule, float64: None) -> None:
    model = Partial()
    rule = make_rule(base(model))
    idle = [*model.frozen.parameters(), *model.unused.parameters()]
    before = [p.detach().clone() for p in idle]
    for p in model.unused.parameters():
        p.grad = torch.ones_like(p)  # left over from somebody's own backward
    for m in (None, 3):
        train(rule, model, range(STEPS), m)
        assert all(p.grad is None for p in idle)
        assert all(p.grad is not None for p in model.used.parameters())
        assert_bitwise([p.detach() for p in idle], before)


@pytest.mark.parametrize("m", [None, 3])
def test_decay_in_the_loss_reaches_unused_parameters(make_rule: MakeRule, m: int | None, float64: None) -> None:
    model = Partial()
    rule = make_rule(base(model))
    if not rule.allows_decay_in_loss:
        assert_refuses_decay_in_the_loss(rule, model)
        return
    rule.backward(Objective(model, F.cross_entropy, weight_decay=0.5)(*batch(0)), m=m)
    for p in model.unused.parameters():
        assert p.grad is not None
        assert (p.grad * p).sum() > 0
    assert all(p.grad is None for p in model.frozen.parameters())


def test_mode_and_requires_grad_are_left_alone(make_rule: MakeRule) -> None:
    for training in (True, False):
        model = network().train(training)
        train(make_rule(base(model)), model, range(STEPS))
        assert all(module.training == training for module in model.modules())
        assert all(p.requires_grad and p.is_leaf for p in model.parameters())


def test_evaluation_mode_moves_no_statistics(make_rule: MakeRule) -> None:
    model = network().eval()
    before = [buffer.clone() for buffer in model.buffers()]
    for m in (None, 4):
        train(make_rule(base(model)), model, range(2), m)
    assert_bitwise(list(model.buffers()), before)


def test_groups_of_the_base_are_one_vector(make_rule: MakeRule) -> None:
    ours, theirs = network(), network()
    grouped = torch.optim.SGD(
        [{"params": list(part.parameters())} for part in (ours[0], ours[1], ours[5])],
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-2,
    )
    rule, plain = make_rule(grouped), make_rule(base(theirs))
    train(rule, ours, range(STEPS))
    train(plain, theirs, range(STEPS))
    assert_bitwise(state(ours, rule), state(theirs, plain))


def test_channels_last_with_a_fused_base_equals_contiguous(make_rule: MakeRule) -> None:
    weights = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 3)
        )
        model = model.double().to(memory_format=layout)
        rule = make_rule(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True))
        objective = Objective(model, F.cross_entropy)
        for _ in range(4):
            images, labels = torch.randn(8, 2, 6, 6, dtype=torch.float64), torch.randint(3, (8,))
            torch.manual_seed(1)
            rule.step(objective(images.contiguous(memory_format=layout), labels), m=4)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-10, atol=1e-12)


def test_under_bfloat16_every_rule_gives_nearly_its_gradient(make_rule: MakeRule) -> None:
    gradients = []
    for autocast in (None, torch.bfloat16):
        rest = network(torch.float32)
        model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1), rest)
        rule = make_rule(base(model))
        if rule.rho is not None:
            rule.rho.fill_(0.01)  # further away rounding alone moves g_s
        rule.backward(Objective(model, F.cross_entropy, autocast=autocast)(*batch(0, torch.float32)))
        gradients.append(torch.cat([p.grad.flatten() for p in rule.params if p.grad is not None]))
    full, half = gradients
    assert torch.linalg.vector_norm(half - full) < 0.05 * torch.linalg.vector_norm(full)


def test_a_total_cost_is_the_sum_of_all_steps_without_adding_them(make_rule: MakeRule) -> None:
    rule = make_rule(base(network()))
    for steps in (0, 1, 3, 97):
        assert rule.total_cost(steps) == sum(map(rule.cost, range(steps)), Cost(passes=0))
    assert 10**12 <= rule.total_cost(10**12).passes <= 10**14


def test_a_rule_that_does_not_say_when_its_costs_repeat_has_them_added() -> None:
    class Late(SAM):
        def cost(self, step: int) -> Cost:
            return Cost(passes=1 if step < 5 else 2)

    assert Late(base(network()), rho=0.1).total_cost(12) == Cost(passes=19)
