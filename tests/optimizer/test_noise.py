"""The noise of a step: which passes, parts and steps draw the same masks."""

import torch
import torch.nn.functional as F
from dense import batch
from torch import Tensor, nn

from sam_repro.optimizer import SAM
from sam_repro.oracle import Objective

RHO = 0.1


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def masks_of_steps(m: int | None, same_noise: bool = True, steps: int = 2) -> list[Tensor]:
    """The dropout masks, pass by pass: for each step, for each part, pass 1 and pass 2."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.5), nn.Linear(40, 3))
    masks: list[Tensor] = []
    model[1].register_forward_hook(lambda _, __, outputs: masks.append(outputs != 0))
    rule, objective = SAM(sgd(model), rho=RHO), Objective(model, F.cross_entropy, same_noise=same_noise)
    for _ in range(steps):
        rule.step(objective(*batch(size=8)), m=m)
    return masks


def test_same_noise_in_both_passes_and_new_noise_in_every_step() -> None:
    first, first_again, second, second_again = masks_of_steps(None)
    assert torch.equal(first, first_again)
    assert torch.equal(second, second_again)
    assert not torch.equal(first, second)


def test_fresh_noise_in_each_pass_on_request() -> None:
    masks = masks_of_steps(None, same_noise=False)
    assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])
    assert torch.equal(masks[0], masks_of_steps(None)[0])


def test_noise_differs_between_parts_and_steps() -> None:
    masks = masks_of_steps(4)
    assert len(masks) == 8
    assert all(torch.equal(a, b) for a, b in zip(masks[::2], masks[1::2], strict=True))
    distinct = masks[::2]
    assert all(not torch.equal(a, b) for i, a in enumerate(distinct) for b in distinct[:i])


def first_mask(seed: int, drawn_before: int = 0, noise: int | None = None) -> Tensor:
    model = nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.5), nn.Linear(40, 3))
    masks: list[Tensor] = []
    model[1].register_forward_hook(lambda _, __, outputs: masks.append(outputs != 0))
    torch.manual_seed(seed)
    torch.rand(drawn_before)
    SAM(sgd(model), rho=RHO).step(Objective(model, F.cross_entropy)(*batch(size=8), noise=noise))
    return masks[0]


def test_noise_that_is_given_is_all_that_counts() -> None:
    assert torch.equal(first_mask(5, noise=1), first_mask(6, drawn_before=3, noise=1))
    assert not torch.equal(first_mask(5, noise=1), first_mask(5, noise=2))


def test_noise_that_is_not_given_is_drawn_as_all_else_is() -> None:
    assert torch.equal(first_mask(5), first_mask(5))
    assert not torch.equal(first_mask(5), first_mask(6))
    assert not torch.equal(first_mask(5), first_mask(5, drawn_before=3))


def test_batches_that_wait_side_by_side_have_noise_of_their_own() -> None:
    objective = Objective(nn.Linear(6, 3), F.cross_entropy)
    assert objective(*batch(size=8)).noise != objective(*batch(size=8)).noise


def test_chained_noise_does_not_repeat() -> None:
    """A loop that seeds once: each step seeds the generator from which the next one's noise is drawn."""
    torch.manual_seed(0)
    objective = Objective(nn.Linear(6, 3), F.cross_entropy)
    noises = set()
    for _ in range(200):
        oracle = objective(*batch(size=8))
        noises.add(oracle.noise)
        for part in oracle.parts(4):
            part.gradient(list(objective.model.parameters()))
    assert len(noises) == 200
