"""SAM-k against SAM, SGD and a reference with flat vectors that shares no code with the package."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import batch, flat, gradient, toy
from torch import Tensor

from sam_repro.config.lines import compose_line
from sam_repro.optimizer import SAM, SAMK, SGD, Rule
from sam_repro.oracle import Objective
from sam_repro.run.dry_build import findings

pytestmark = pytest.mark.usefixtures("float64")
RHO, LR, MOMENTUM, STEPS = 0.1, 0.1, 0.9, 11


def trained(make: Any, steps: int = STEPS, **options: Any) -> Tensor:
    model = toy()
    rule: Rule = make(torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM), **options)
    objective = Objective(model, F.cross_entropy)
    for step in range(steps):
        rule.step(objective(*batch(step)))
    return flat(model.parameters())


@pytest.mark.parametrize("period", [1, 2, 3, 5, 40])
def test_equals_a_reference_by_hand(period: int) -> None:
    w, velocity = flat(toy().parameters()), 0
    for step in range(STEPS):
        g = gradient(w, *batch(step))
        if step % period == 0:
            g = gradient(w + RHO * g / g.norm(), *batch(step))
        velocity = MOMENTUM * velocity + g
        w = w - LR * velocity
    torch.testing.assert_close(trained(SAMK, rho=RHO, period=period), w, rtol=1e-11, atol=1e-13)


def test_period_one_is_bitwise_sam() -> None:
    assert torch.equal(trained(SAMK, rho=RHO, period=1), trained(SAM, rho=RHO))


def test_first_step_is_sams_and_the_others_up_to_the_period_are_sgds() -> None:
    assert torch.equal(trained(SAMK, 1, rho=RHO, period=5), trained(SAM, 1, rho=RHO))
    model = toy()
    rules = [rule(torch.optim.SGD(model.parameters(), lr=LR)) for rule in (lambda b: SAMK(b, RHO, 5), SGD)]
    rules[0].steps = 4
    gradients = []
    for rule in rules:
        rule.backward(Objective(model, F.cross_entropy)(*batch(0)))
        gradients.append(flat(p.grad for p in model.parameters()))
    assert torch.equal(*gradients)


def test_phase_and_cost_are_functions_of_the_step() -> None:
    rule = SAMK(torch.optim.SGD(toy().parameters(), lr=LR), RHO, 4)
    rule.steps = 7
    assert [rule.phase(step) for step in range(9)] == ["refresh", *["reuse"] * 3, "refresh", *["reuse"] * 3, "refresh"]
    assert [rule.cost(step).passes for step in range(9)] == [2, 1, 1, 1, 2, 1, 1, 1, 2]
    assert rule.total_cost(40).passes == 40 * (1 + 1 / 4)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, None])
def test_period_out_of_range_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"period = .*must be an integer >= 1"):
        SAMK(torch.optim.SGD(toy().parameters(), lr=LR), RHO, bad)
    for rule in ("sam_k", "looksam", "look_layersam"):
        config = compose_line([f"optimizer={rule}"])
        config["optimizer"]["period"] = bad
        assert "optimizer.period = " in findings([config])[0]
