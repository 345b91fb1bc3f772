"""Steps of SGDHESS: what each leaves, the diagonal that is kept, its noise, and what is refused."""

import gc
import io
import itertools
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import convolutional, flat, images, squared
from torch import Tensor, nn

from sam_repro.config.lines import compose_line
from sam_repro.optimizer import SGD, Cost, SGDHess
from sam_repro.oracle import Objective
from sam_repro.run.dry_build import findings
from sam_repro.vectors import Vector, rademacher

pytestmark = pytest.mark.usefixtures("float64")
BATCH, RHO = 8, 0.7
PRODUCTS, DIAGONALS = ("gauss_newton", "hessian"), ("gauss_newton_diagonal", "hutchinson_abs")
every_curvature = pytest.mark.parametrize("curvature", PRODUCTS + DIAGONALS)
every_diagonal = pytest.mark.parametrize("curvature", DIAGONALS)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=1e-2)


def step(rule: Any, objective: Objective, number: int, m: int | None = None) -> Tensor:
    """One step whose noise and data are functions of its number."""
    torch.manual_seed(number)
    return rule.step(objective(*images(seed=number)), m=m)


def state(model: nn.Module, rule: Any) -> list[Tensor]:
    momentum = [slots["momentum_buffer"] for slots in rule.base.state.values()]
    return [tensor.detach().clone() for tensor in [*model.parameters(), *model.buffers(), *momentum]]


def assert_bitwise(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


# What a step leaves


@every_curvature
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rho_zero_is_bitwise_sgd(curvature: str, dtype: torch.dtype) -> None:
    ours, theirs = convolutional(0.3).to(dtype), convolutional(0.3).to(dtype)
    rule, plain = SGDHess(sgd(ours), rho=0.0, curvature=curvature), SGD(sgd(theirs))
    for number in range(3):
        for one, model in ((rule, ours), (plain, theirs)):
            torch.manual_seed(number)
            inputs, targets = images(seed=number)
            one.step(Objective(model, F.cross_entropy)(inputs.to(dtype), targets))
    assert_bitwise(state(ours, rule), state(theirs, plain))


@pytest.mark.parametrize(("curvature", "period"), [(c, 1) for c in PRODUCTS + DIAGONALS] + [(c, 3) for c in DIAGONALS])
def test_forwards_are_passes_and_products(curvature: str, period: int) -> None:
    model = convolutional()
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    rule, objective = SGDHess(sgd(model), rho=RHO, curvature=curvature, period=period), Objective(model, squared)
    for number in range(7):
        forwards.clear()
        step(rule, objective, number)
        assert rule.cost(number) == Cost(passes=1, products=number % period == 0)
        assert len(forwards) == rule.cost(number).passes + rule.cost(number).products


@every_curvature
@pytest.mark.parametrize("m", [None, 4])
def test_running_statistics_are_those_of_one_forward(curvature: str, m: int | None) -> None:
    model, twin = convolutional(), convolutional()
    step(SGDHess(sgd(model), rho=RHO, curvature=curvature), Objective(model, F.cross_entropy), 0, m)
    step(SGD(sgd(twin)), Objective(twin, F.cross_entropy), 0, m)
    assert_bitwise(list(model.buffers()), list(twin.buffers()))
    assert model[1].num_batches_tracked == 1


@every_curvature
@pytest.mark.parametrize("m", [None, 4])
def test_graphs_are_freed_without_the_collector(curvature: str, m: int | None) -> None:
    model = convolutional()
    alive: list[weakref.ref[Tensor]] = []
    for layer in model:
        layer.register_forward_hook(lambda _, __, outputs: alive.append(weakref.ref(outputs)))
    rule, objective = SGDHess(sgd(model), rho=RHO, curvature=curvature), Objective(model, F.cross_entropy)
    gc.disable()
    try:
        rule.backward(objective(*images()), m=m)
    finally:
        survivors = [reference for reference in alive if reference() is not None]
        gc.enable()
    assert len(alive) >= 2 * len(model)
    assert not survivors
    assert not any(p.grad.requires_grad or p.grad.grad_fn for p in rule.params)


# Period


@every_diagonal
def test_reuse_takes_the_last_diagonal(curvature: str) -> None:
    model = convolutional()
    rule, objective = SGDHess(sgd(model), rho=RHO, curvature=curvature, period=3), Objective(model, F.cross_entropy)
    diagonal: Vector = []
    for number in range(7):
        torch.manual_seed(number)
        oracle = objective(*images(seed=number))
        terms = rule.terms(oracle, "refresh")
        if number in (0, 3, 6):
            assert rule.phase(number) == "refresh"
            diagonal = terms["curved"].vector
        expected = [g * (1 + RHO * d) for g, d in zip(terms["g"].vector, diagonal, strict=True)]
        torch.manual_seed(number)
        rule.backward(objective(*images(seed=number)))
        torch.testing.assert_close([p.grad for p in rule.params], expected, rtol=1e-13, atol=0)
        rule.base.step()


@every_diagonal
@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("stop", range(1, 6))
def test_save_load_continue_is_bitwise(curvature: str, period: int, stop: int) -> None:
    def fresh() -> tuple[nn.Module, SGDHess]:
        model = convolutional(dropout=0.3)
        return model, SGDHess(sgd(model), rho=RHO, curvature=curvature, period=period)

    (straight, whole), (first, before), (second, after) = fresh(), fresh(), fresh()
    for number in range(6):
        step(whole, Objective(straight, F.cross_entropy), number)
    for number in range(stop):
        step(before, Objective(first, F.cross_entropy), number)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "rule": before.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    addresses = [x.data_ptr() for x in after.memory.get("diagonal", [])]
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["rule"])
    for number in range(stop, 6):
        step(after, Objective(second, F.cross_entropy), number)
    assert_bitwise(state(second, after), state(straight, whole))
    assert [x.data_ptr() for x in after.memory.get("diagonal", [])] == addresses
    assert len(addresses) == (0 if period == 1 else 6)


def test_state_of_another_period_is_refused() -> None:
    rules = [SGDHess(sgd(convolutional()), rho=RHO, curvature="hutchinson_abs", period=period) for period in (1, 2)]
    with pytest.raises(ValueError, match="memory does not fit SGDHess"):
        rules[1].load_state_dict(rules[0].state_dict())


# Noise


@every_curvature
def test_gradient_is_a_function_of_the_seed(curvature: str) -> None:
    model = convolutional(dropout=0.3)
    rule, objective = SGDHess(sgd(model), rho=RHO, curvature=curvature), Objective(model, F.cross_entropy)
    gradients = []
    for seed, drawn_before in ((5, 0), (5, 3), (6, 0)):
        torch.rand(drawn_before)
        rule.backward(objective(*images(), noise=seed), m=4)
        gradients.append(flat(p.grad for p in rule.params))
        rule.base.zero_grad()
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[0], gradients[2])


def test_signs_of_the_outputs_differ_between_parts_and_steps(drawn: list[Vector]) -> None:
    model = convolutional()
    rule, objective = SGDHess(sgd(model), RHO, "gauss_newton_diagonal"), Objective(model, F.cross_entropy)
    torch.manual_seed(0)
    for _ in range(3):  # the caller does not seed again
        rule.step(objective(*images(16)), m=8)
    assert [u.shape for (u,) in drawn] == [(8, 3)] * 6
    assert all((u.abs() == 1).all() for (u,) in drawn)
    assert all(not torch.equal(a, b) for (a,), (b,) in itertools.combinations(drawn, 2))


def test_signs_of_the_weights_are_those_of_the_batch(drawn: list[Vector]) -> None:
    model = convolutional(dropout=0.3)
    rule, objective = SGDHess(sgd(model), RHO, "hutchinson_abs"), Objective(model, F.cross_entropy)
    torch.manual_seed(0)
    for _ in range(3):
        rule.step(objective(*images()), m=3)
    signs = [flat(v) for v in drawn]
    assert len(signs) == 9
    assert all((v.abs() == 1).all() for v in signs)
    for first in (0, 3, 6):  # the three parts of a step
        assert torch.equal(signs[first], signs[first + 1])
        assert torch.equal(signs[first], signs[first + 2])
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(signs[::3], 2))


def test_ranks_share_the_signs_of_the_weights() -> None:
    """Two ranks, each with a half and a noise of its own, are one process with m = half the batch."""
    models = convolutional(dropout=0.3), convolutional(dropout=0.3)
    whole, rank = (SGDHess(sgd(model), RHO, "hutchinson_abs") for model in models)
    torch.manual_seed(0)
    whole.backward(Objective(models[0], F.cross_entropy)(*images()), m=BATCH // 2)
    terms = []
    for number, (inputs, targets) in enumerate(zip(*(t.split(BATCH // 2) for t in images()), strict=True)):
        torch.manual_seed(0)
        oracle = Objective(models[1], F.cross_entropy)(inputs, targets)
        terms.append(rank.terms(replace(oracle, noise=oracle.noise + number), "refresh").values())
    means = [torch._foreach_lerp(a.vector, b.vector, 0.5) for a, b in zip(*terms, strict=True)]
    torch.testing.assert_close([p.grad for p in whole.params], rank.combine(*means), rtol=1e-12, atol=1e-15)


@every_diagonal
def test_signs_are_not_the_noise_of_the_passes(curvature: str, drawn: list[Vector]) -> None:
    model = convolutional(dropout=0.5)
    states, masks = [], []
    model.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state()))
    model[4].register_forward_hook(lambda _, __, outputs: masks.append(outputs != 0))
    torch.manual_seed(3)
    SGDHess(sgd(model), RHO, curvature).backward(Objective(model, F.cross_entropy)(*images()))
    assert len(masks) == 2
    assert torch.equal(masks[0], masks[1])
    start = torch.Generator()
    start.set_state(states[0])
    (signs,) = drawn
    assert not torch.equal(flat(rademacher(signs, start)), flat(signs))


def test_shared_draws_leave_the_global_generator_alone() -> None:
    oracle = Objective(convolutional(), F.cross_entropy)(*images())
    before = torch.get_rng_state()
    a, b = (
        torch.rand(3, generator=oracle.shared_generator()),
        torch.rand(3, generator=oracle.split(4)[1].shared_generator()),
    )
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -0.1}, r"rho = -0.1: must be a finite number >= 0"),
        ({"rho": float("nan")}, r"rho = nan: must be a finite number"),
        (
            {"curvature": "fisher"},
            r"curvature = fisher: must be one of gauss_newton, hessian, gauss_newton_d",
        ),
        ({"curvature": "hutchinson_abs", "period": 0}, r"period = 0: must be an integer >= 1"),
        ({"curvature": "hutchinson_abs", "period": True}, r"period = true: must be an integer >= 1"),
        ({"period": 2}, r"period = 2: gauss_newton has no diagonal to keep; choose period=1, or curvature=g"),
        ({"curvature": "hessian", "period": 5}, r"period = 5: hessian has no diagonal to keep"),
    ],
)
def test_arguments_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SGDHess(sgd(convolutional()), **({"rho": RHO} | settings))


@every_curvature
def test_weight_decay_in_the_loss_is_refused(curvature: str) -> None:
    model = convolutional()
    rule = SGDHess(sgd(model), RHO, curvature)
    with pytest.raises(ValueError, match="SGDHess takes gradients without weight decay"):
        rule.backward(Objective(model, F.cross_entropy, weight_decay=0.1)(*images()))


@pytest.mark.parametrize(
    ("overrides", "finding"),
    [
        (["optimizer.period=2"], "optimizer.period = 2: "),
        (["optimizer.curvature=hessian", "optimizer.period=2"], "optimizer.period = 2: "),
        (["optimizer.curvature=fisher"], "optimizer.curvature = fisher: must be one of "),
        (["optimizer.curvature=hutchinson_abs", "optimizer.period=0"], "optimizer.period = 0: must be an integer >= 1"),
        (["optimizer.curvature=hutchinson_abs", "optimizer.period=2"], None),
        ([], None),
    ],
)
def test_the_door_refuses_the_same(overrides: list[str], finding: str | None) -> None:
    heard = findings([compose_line(["optimizer=sgdhess", *overrides])])
    assert len(heard) == (finding is not None)
    assert all(line.startswith(finding) for line in heard)
