"""A random direction of length ρ: its law, and of what it is a function."""

import math

import pytest
import torch
import torch.nn.functional as F
from dense import RHO, batch, flat, normed, sam
from torch import Tensor, nn

from sam_repro.optimizer import SAMRandom
from sam_repro.oracle import Objective

pytestmark = pytest.mark.usefixtures("float64")


def test_random_ascent_has_length_rho_and_normal_numbers() -> None:
    weights = [nn.Parameter(torch.zeros(300, 200)), nn.Parameter(torch.zeros(40_000))]
    rule = SAMRandom(torch.optim.SGD(weights, lr=0.1), RHO)
    torch.manual_seed(0)
    epsilon = flat(rule.ascent([torch.zeros_like(p) for p in weights], weights))
    assert epsilon.norm().item() == pytest.approx(RHO, rel=1e-12)
    z = epsilon * len(epsilon) ** 0.5 / RHO
    sigma = len(z) ** -0.5
    assert abs(z.mean()) < 4 * sigma
    assert (z.abs() < 1).double().mean().item() == pytest.approx(math.erf(0.5**0.5), abs=4 * 0.47 * sigma)


@pytest.mark.parametrize("same_noise", [True, False])
def test_random_direction_is_a_function_of_step_and_part(same_noise: bool) -> None:
    def run(seed: int, steps: int = 2) -> list[Tensor]:
        model = normed(0.3)
        rule = sam(model, rule=SAMRandom)
        objective = Objective(model, F.cross_entropy, same_noise=same_noise)
        seen: list[Tensor] = []
        start = flat(model.parameters())
        model.register_forward_pre_hook(lambda *_: seen.append(flat(model.parameters()) - start))
        for step in range(steps):
            torch.rand(step)  # what was drawn before does not matter
            rule.backward(objective(*batch(), noise=seed + 100 * step), m=6)
            rule.base.zero_grad()
        return seen[1::2]

    directions = run(0)
    assert len(directions) == 4
    for i, direction in enumerate(directions):
        assert direction.norm().item() == pytest.approx(RHO, rel=1e-12)
        assert all(abs(direction @ other) < 0.5 * RHO**2 for other in directions[:i])
    assert all(torch.equal(a, b) for a, b in zip(directions, run(0), strict=True))
    assert torch.equal(run(100, steps=1)[0], directions[2])
    assert not torch.equal(run(5)[0], directions[0])


def test_random_direction_does_not_depend_on_the_memory_format() -> None:
    directions = []
    for layout in (torch.contiguous_format, torch.channels_last):
        rule = sam(nn.Conv2d(3, 4, 3).to(memory_format=layout), rule=SAMRandom)
        torch.manual_seed(0)
        directions.append(flat(rule.ascent([torch.zeros_like(p) for p in rule.params], rule.params)))
    assert torch.equal(*directions)
