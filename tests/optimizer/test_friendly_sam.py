"""Friendly-SAM against pytorch-optimizer and a reference with flat vectors."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import batch, flat, gradient, toy
from pytorch_optimizer import FriendlySAM as TheirFriendlySAM
from torch import Tensor

from sam_repro.optimizer import SAM, FriendlySAM
from sam_repro.oracle import Objective

pytestmark = pytest.mark.usefixtures("float64")
RHO, STEPS = 0.1, 14
BASE = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
SETTINGS = [(1.0, 0.9), (0.7, 0.6), (1.0, 0.0), (2.0, 1.0)]


def trained(make: Any, **options: Any) -> Tensor:
    model = toy()
    rule = make(torch.optim.SGD(model.parameters(), **BASE), rho=RHO, **options)
    objective = Objective(model, F.cross_entropy)
    for step in range(STEPS):
        rule.step(objective(*batch(step)))
    return flat(model.parameters())


@pytest.mark.parametrize(("sigma", "decay"), SETTINGS)
def test_equals_a_reference_by_hand(sigma: float, decay: float) -> None:
    w, velocity, m = flat(toy().parameters()), 0, None
    for step in range(STEPS):
        g = gradient(w, *batch(step))
        d = g if m is None else g - sigma * m
        m = g if m is None else decay * m + (1 - decay) * g
        velocity = 0.9 * velocity + gradient(w + RHO * d / d.norm(), *batch(step)) + 1e-2 * w
        w = w - 0.1 * velocity
    torch.testing.assert_close(trained(FriendlySAM, sigma=sigma, decay=decay), w, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("sigma", "decay"), SETTINGS[:2])
def test_equals_pytorch_optimizer(sigma: float, decay: float) -> None:
    """Whose norms are float32."""
    model = toy()
    theirs = TheirFriendlySAM(model.parameters(), torch.optim.SGD, rho=RHO, sigma=sigma, lmbda=decay, **BASE)
    for step in range(STEPS):
        x, y = batch(step)
        for half in (theirs.first_step, theirs.second_step):
            F.cross_entropy(model(x), y).backward()
            half(zero_grad=True)
    ours = trained(FriendlySAM, sigma=sigma, decay=decay)
    torch.testing.assert_close(ours, flat(model.parameters()), rtol=1e-6, atol=1e-7)


def test_without_sigma_it_is_sam() -> None:
    assert torch.equal(trained(FriendlySAM, sigma=0.0), trained(SAM))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sigma": -1.0}, "sigma = -1.0: must be a finite number >= 0"),
        ({"decay": 1.1}, "decay = 1.1: must be a finite number >= 0 and <= 1"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        FriendlySAM(torch.optim.SGD(toy().parameters(), **BASE), rho=RHO, **given)
