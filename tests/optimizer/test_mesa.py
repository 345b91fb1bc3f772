"""MESA against a reference with flat vectors, which keeps the average of the weights itself."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import batch, flat, loss, outputs, toy
from torch import Tensor

from sam_repro.optimizer import MESA, SGD, Cost
from sam_repro.oracle import Objective

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 14
BASE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
SETTINGS = [
    {"strength": 0.8, "temperature": 5.0, "decay": 0.9},
    {"strength": 2.0, "temperature": 1.0, "decay": 0.5},
    {"strength": 3.0, "temperature": 2.0, "decay": 0.9, "start": 5},
]


def trained(steps: int = STEPS, rule: Any = MESA, pieces: int = 1, **settings: Any) -> Tensor:
    model = toy()
    made = rule(torch.optim.SGD(model.parameters(), **BASE), **settings)
    objective = Objective(model, F.cross_entropy)
    for step in range(steps):
        made.step(*(objective(x, y) for x, y in zip(*(t.tensor_split(pieces) for t in batch(step)), strict=True)))
    return flat(model.parameters())


def by_hand(strength: float, temperature: float, decay: float, start: int = 0) -> Tensor:
    w = flat(toy().parameters())
    average, velocity = w.clone(), torch.zeros_like(w)
    for step in range(STEPS):
        x, y = batch(step)
        theirs = (outputs(average, x) / temperature).softmax(1)
        w.requires_grad_()
        ours = (outputs(w, x) / temperature).softmax(1)
        divergence = (theirs * (theirs / ours).log()).sum(1).mean()
        total = loss(w, x, y) + (step >= start) * strength * temperature**2 * divergence
        (g,) = torch.autograd.grad(total, w)
        w = w.detach()
        velocity = 0.9 * velocity + g + 1e-2 * w
        w = w - 0.1 * velocity
        average = decay * average + (1 - decay) * w
    return w


@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_a_reference_by_hand(settings: dict[str, Any]) -> None:
    expected = by_hand(**settings)
    torch.testing.assert_close(trained(**settings), expected, rtol=1e-11, atol=1e-13)
    assert not torch.allclose(trained(**settings | {"strength": 0.0}), expected, rtol=1e-2)


def test_a_batch_in_pieces_is_the_batch() -> None:
    whole, pieces = trained(**SETTINGS[1]), trained(pieces=5, **SETTINGS[1])  # of three and of two examples
    torch.testing.assert_close(pieces, whole, rtol=1e-11, atol=1e-13)


def test_it_is_the_base_in_the_first_step_before_the_start_and_without_strength() -> None:
    """At first the average is the weights, from which KL has no gradient but for rounding."""
    for steps, settings in ((4, {"start": 4}), (STEPS, {"strength": 0.0})):
        assert torch.equal(trained(steps, **settings), trained(steps, SGD))
    torch.testing.assert_close(trained(1), trained(1, SGD), rtol=1e-14, atol=1e-15)


def test_the_loss_that_is_told_is_without_the_pull() -> None:
    model = toy()
    rule = MESA(torch.optim.SGD(model.parameters(), **BASE), strength=50.0, decay=0.9)
    for step in range(3):
        clean = F.cross_entropy(model(batch(step)[0]), batch(step)[1]).detach()
        torch.testing.assert_close(rule.step(Objective(model, F.cross_entropy)(*batch(step))), clean)


def test_the_cost_has_a_forward_from_the_start_on() -> None:
    rule = MESA(torch.optim.SGD(toy().parameters(), lr=0.1), start=3)
    assert [rule.cost(step).forwards for step in range(5)] == [0, 0, 0, 1, 1]
    for steps in (0, 2, 3, 8):
        assert rule.total_cost(steps) == sum(map(rule.cost, range(steps)), Cost(passes=0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strength": -1.0}, r"strength = -1.0: must be a finite number >= 0"),
        ({"temperature": 0.0}, r"temperature = 0.0: must be a finite number > 0"),
        ({"decay": 1.1}, r"decay = 1.1: must be a finite number >= 0 and <= 1"),
        ({"start": 0.5}, r"start = 0.5: must be an integer >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        MESA(torch.optim.SGD(toy().parameters(), **BASE), **given)
