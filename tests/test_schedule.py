"""Schedules against torch's, and by hand."""

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from sam_repro import rho_schedule
from sam_repro.schedule import Constant, Cosine, MultiStep, Schedule

EPOCHS, STEPS_PER_EPOCH = 50, 7


def torch_factors(make: Any, ticks: int) -> list[float]:
    """The learning rates of a torch scheduler from 1, stepped once a tick."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(ticks):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def factors(schedule: Schedule, epochs: int = EPOCHS, steps_per_epoch: int = STEPS_PER_EPOCH) -> list[float]:
    return [schedule.factor(step, steps_per_epoch, epochs) for step in range(epochs * steps_per_epoch)]


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_per_epoch_equals_torch(final: float) -> None:
    ours = factors(Cosine(per="epoch", final=final))
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS, final), EPOCHS)
    assert ours == pytest.approx([factor for factor in theirs for _ in range(STEPS_PER_EPOCH)], abs=1e-12)


def test_cosine_per_step_equals_torch() -> None:
    total = EPOCHS * STEPS_PER_EPOCH
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, total), total)
    assert factors(Cosine()) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("epochs", "milestones", "shares"),
    [
        (200, [60, 120, 160], [0.3, 0.6, 0.8]),
        (90, [30, 60, 80], [1 / 3, 2 / 3, 8 / 9]),
        (100, [29, 57], [0.29, 0.57]),  # 0.29·100 is 28.999999999999996
    ],
)
@pytest.mark.parametrize("per", ["step", "epoch"])
@pytest.mark.parametrize("steps_per_epoch", [1, 7, 391])
def test_multi_step_equals_torch(
    per: str, epochs: int, milestones: list[int], shares: list[float], steps_per_epoch: int
) -> None:
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones, 0.2), epochs)
    ours = factors(MultiStep(shares, 0.2, per), epochs, steps_per_epoch)
    assert ours[::steps_per_epoch] == pytest.approx(theirs)
    assert ours[steps_per_epoch - 1 :: steps_per_epoch] == pytest.approx(theirs)


def test_multi_step_per_epoch_waits_for_the_epochs_end() -> None:
    """A milestone inside of an epoch acts at once per step, and with the next epoch per epoch."""
    assert [MultiStep([0.5], 0.1, "step").factor(step, 4, 3) for step in (5, 6, 7, 8)] == [1.0, 0.1, 0.1, 0.1]
    assert [MultiStep([0.5], 0.1, "epoch").factor(step, 4, 3) for step in (5, 6, 7, 8)] == [1.0, 1.0, 1.0, 0.1]


def test_warm_up_is_linear_to_one_and_the_shape_follows() -> None:
    ours = [Cosine(warmup_epochs=2).factor(step, 5, 12) for step in range(60)]
    assert ours[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert ours[10:] == pytest.approx([Cosine().factor(step, 5, 10) for step in range(50)])
    assert ours[10] == 1.0


def test_warm_up_in_parts_of_an_epoch() -> None:
    assert [Constant(warmup_epochs=0.5).factor(step, 4, 3) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    per_epoch = [Cosine(per="epoch", warmup_epochs=0.5).factor(step, 4, 3) for step in range(12)]
    assert per_epoch[:4] == [0.5, 1.0, 1.0, 1.0]
    for epoch in range(1, 3):
        assert len(set(per_epoch[4 * epoch : 4 * epoch + 4])) == 1
    assert all(0 < factor <= 1 for factor in per_epoch)


@pytest.mark.parametrize("per", ["step", "epoch"])
@pytest.mark.parametrize("make", [Cosine, partial(MultiStep, [0.3, 0.6], 0.2), Constant])
def test_factor_is_a_function_of_the_step(make: Callable[..., Schedule], per: str) -> None:
    schedule = make(per=per, warmup_epochs=1.0)
    straight = factors(schedule)
    order = list(range(len(straight)))
    random.Random(0).shuffle(order)
    assert [schedule.factor(step, STEPS_PER_EPOCH, EPOCHS) for step in order] == [straight[step] for step in order]
    assert all(0 < factor <= 1 for factor in straight)
    warm = straight[STEPS_PER_EPOCH:]
    assert all(a >= b for a, b in pairwise(warm))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(per="batch"), "per = batch: must be one of step, epoch"),
        (lambda: Cosine(warmup_epochs=-1), "warmup_epochs = -1"),
        (lambda: Cosine(final=1.5), "final = 1.5"),
        (lambda: MultiStep([0.5, 1.0], 0.1), r"milestones\[1\] = 1.0"),
        (lambda: MultiStep([], 0.1), r"milestones = \[\]"),
        (lambda: MultiStep([0.6, 0.3], 0.1), r"milestones = \[0.6, 0.3\]: must be rising"),
        (lambda: MultiStep([0.5, 0.5], 0.1), r"milestones = \[0.5, 0.5\]: must be rising"),
        (lambda: MultiStep([0.5], 0.0), "gamma = 0.0"),
        (lambda: MultiStep([0.5], 1.5), "gamma = 1.5"),
    ],
)
def test_out_of_range_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# The radius


def radii(schedule: rho_schedule.RhoSchedule, rates: Schedule) -> list[float]:
    return [
        schedule.radius(0.2, step, STEPS_PER_EPOCH, rates.factor(step, STEPS_PER_EPOCH, EPOCHS))
        for step in range(EPOCHS * STEPS_PER_EPOCH)
    ]


def test_the_radius_is_rho_or_goes_with_the_learning_rate() -> None:
    rates = factors(Cosine(warmup_epochs=1.0))
    assert set(radii(rho_schedule.Constant(), Cosine())) == {0.2}
    assert radii(rho_schedule.LikeLR(), Cosine(warmup_epochs=1.0)) == pytest.approx([0.2 * rate for rate in rates])
    between = radii(rho_schedule.Between(0.05), Cosine(warmup_epochs=1.0))
    assert between == pytest.approx([0.05 + 0.15 * rate for rate in rates])
    assert radii(rho_schedule.Between(0.0), Cosine()) == pytest.approx(radii(rho_schedule.LikeLR(), Cosine()))


def test_the_radius_rises_from_0() -> None:
    warm = radii(rho_schedule.Constant(1.0), Cosine())
    assert warm[:STEPS_PER_EPOCH] == pytest.approx([0.2 * (i + 1) / STEPS_PER_EPOCH for i in range(STEPS_PER_EPOCH)])
    assert set(warm[STEPS_PER_EPOCH:]) == {0.2}


@pytest.mark.parametrize("epochs", [0, 1, 1.5, EPOCHS])
def test_a_late_radius_is_0_before(epochs: float) -> None:
    first = round(epochs * STEPS_PER_EPOCH)
    assert radii(rho_schedule.Late(epochs), Cosine()) == [0.0] * first + [0.2] * (EPOCHS * STEPS_PER_EPOCH - first)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rho_schedule.Late(-1.0), "epochs = -1.0"),
        (lambda: rho_schedule.Constant(-1.0), "warmup_epochs = -1.0"),
        (lambda: rho_schedule.Between(-0.1), "low = -0.1"),
    ],
)
def test_a_radius_out_of_range_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
