"""A bare rule in somebody's own loop: clip, skip, mix the precision, save; what would train wrongly is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from sam_repro.optimizer import MESA, SAM, SGD, ByClosure, FriendlySAM, LookSAM, Rule
from sam_repro.oracle import Objective

Take = Callable[[Rule], object]


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 3).double()


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(20, 8, generator=generator).double(), torch.randint(3, (20,), generator=generator)


def by_update(rule: Rule) -> None:
    rule.update()


def by_base(rule: Rule) -> None:
    rule.base.step()


# Clipping


@pytest.mark.parametrize("take", [by_update, by_base])
def test_a_clipped_step_counts_once(take: Take) -> None:
    model, passes = network(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    rule, objective = LookSAM(sgd(model), rho=0.05, period=5), Objective(model, cross_entropy)
    for step in range(5):
        rule.backward(objective(*batch(step)))
        clip_grad_norm_(model.parameters(), 0.1)
        take(rule)
        assert rule.steps == step + 1
    assert len(passes) == 6
    rule.base.step()  # of no backward
    assert rule.steps == 5


@pytest.mark.parametrize("make", [FriendlySAM, LookSAM])
def test_what_is_remembered_is_not_clipped(make: Any) -> None:
    """A tight clip moves the weights less, and the memory is that of the whole gradient."""
    memories = []
    for clip in (1e-3, 1e9):
        model = network()
        rule = make(sgd(model), rho=0.05)
        rule.backward(Objective(model, cross_entropy)(*batch()))
        clip_grad_norm_(model.parameters(), clip)
        rule.update()
        memories.append(next(x for x in rule.memory.values() if isinstance(x, list)))
    assert all(map(torch.equal, *memories))
    assert any(x.any() for x in memories[0])


def test_a_rule_that_moves_more_than_its_base_is_stepped_by_update() -> None:
    model = network()
    rule, before = MESA(sgd(model)), copy.deepcopy(model.state_dict())
    rule.backward(Objective(model, cross_entropy)(*batch()))
    with pytest.raises(RuntimeError, match=r"MESA moves more than its base: write rule\.update\(\)"):
        rule.base.step()
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    rule.update()
    assert (rule.steps, bool(rule.memory["lag"][0].any())) == (1, True)


# Skipping


@pytest.mark.parametrize("make", [FriendlySAM, LookSAM])
@pytest.mark.parametrize("factor", [3.0, torch.inf])
@pytest.mark.parametrize("take", [lambda rule: None, Rule.update, lambda rule: rule.base.step()])
def test_a_batch_that_is_skipped_leaves_no_trace(make: Any, factor: float, take: Take) -> None:
    """Also where the loop goes on to its step, which then takes no gradient."""
    models = network(), network()
    for model, skips in zip(models, (True, False), strict=True):
        rule, objective = make(sgd(model, momentum=0.9), rho=0.05), Objective(model, cross_entropy)
        for step in range(3):
            rule.step(objective(*batch(step)))
            if skips:
                rule.backward(objective(batch()[0] * factor, batch()[1]))
                rule.base.zero_grad()
                take(rule)
        assert rule.steps == 3
    assert all(x.isfinite().all() for x in models[0].parameters())
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


# Mixed precision


@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_is_refused_and_moves_nothing(fused: bool) -> None:
    model = network()
    before, rule, scaler = model.weight.clone(), SAM(sgd(model, fused=fused), rho=0.05), torch.amp.GradScaler("cpu")
    scaler.scale(rule.backward(Objective(model, cross_entropy)(*batch())))
    with pytest.raises(RuntimeError, match=r"GradScaler: divides by a scale .* use bfloat16"):
        scaler.step(rule.base)
    assert torch.equal(model.weight, before)
    rule.base.zero_grad()
    twin = network()
    for other in (rule, SAM(sgd(twin, fused=fused), rho=0.05)):  # nothing of the scaler is left behind
        other.step(Objective(model if other is rule else twin, cross_entropy)(*batch()))
    assert torch.equal(model.weight, twin.weight)


def test_a_grad_scaler_that_is_off_steps() -> None:
    model = network()
    rule, scaler = SAM(sgd(model), rho=0.05), torch.amp.GradScaler("cpu", enabled=False)
    scaler.scale(rule.backward(Objective(model, cross_entropy)(*batch())))
    scaler.step(rule.base)
    assert rule.steps == 1


# Networks that the base does not train


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_an_objective_of_another_network_is_refused(decay: float) -> None:
    objective = Objective(network(), cross_entropy, weight_decay=decay)
    with pytest.raises(
        ValueError, match="no parameter of the base got a gradient: the objective is of another network"
    ):
        SAM(sgd(network()), rho=0.05).step(objective(*batch()))


def test_a_base_of_which_nothing_is_trained_is_refused() -> None:
    model = network()
    rule = SAM(sgd(model), rho=0.05)
    model.requires_grad_(False)
    for act in (lambda: SAM(sgd(model), rho=0.05), lambda: rule.step(Objective(model, cross_entropy)(*batch()))):
        with pytest.raises(ValueError, match="base: none of its parameters requires a gradient"):
            act()


# Radius and bases


def test_the_radius_is_saved_and_may_be_a_number() -> None:
    model = network()
    rule, other = SAM(sgd(model), rho=0.05), SAM(sgd(model), rho=0.05)
    tensor = rule.rho
    rule.rho = 0.2  # type: ignore[assignment]
    assert rule.rho is tensor
    other.load_state_dict(rule.state_dict())
    assert float(other.rho) == 0.2
    with pytest.raises(ValueError, match="rho = -1: must be a finite number >= 0"):
        rule.rho = -1  # type: ignore[assignment]


def test_what_a_group_cannot_have_for_itself_is_refused() -> None:
    model = network()
    for name, make in {"rho": SGD, "sigma": lambda base: FriendlySAM(base, rho=0.05)}.items():
        base = torch.optim.SGD([{"params": model.parameters(), name: 0.5}], lr=0.1)
        with pytest.raises(ValueError, match=f"base: a group has its own {name}"):
            make(base)


def test_a_base_that_needs_a_closure_is_refused() -> None:
    model = network()
    for base in (torch.optim.LBFGS(model.parameters()), ByClosure(SAM(sgd(model), rho=0.05), model)):
        with pytest.raises(TypeError, match=f"base: the step of {type(base).__name__} needs a closure"):
            SAM(base, rho=0.05)


HABITS = {
    "zero_grad": r"SAM is no optimizer, .* write rule\.base\.zero_grad",
    "first_step": r"SAM\.first_step: one step is rule\.step\(objective\(inputs, targets\)\)",
    "sigma": "SAM has no sigma",
}


@pytest.mark.parametrize(("name", "said"), HABITS.items(), ids=HABITS)
def test_habits_of_other_packages_are_told_what_to_write(name: str, said: str) -> None:
    with pytest.raises(AttributeError, match=said):
        getattr(SAM(sgd(network()), rho=0.05), name)()


def test_the_state_of_an_optimizer_is_told_from_that_of_a_rule() -> None:
    rule = SAM(sgd(network()), rho=0.05)
    with pytest.raises(ValueError, match=r"state: is that of an optimizer .* rule\.base\.load_state_dict"):
        rule.load_state_dict(rule.base.state_dict())


# Criteria and batches


def test_a_criterion_that_is_no_mean_is_refused() -> None:
    for reduction in ("sum", "none"):
        with pytest.raises(ValueError, match=f"criterion: its reduction is {reduction}"):
            Objective(network(), nn.CrossEntropyLoss(reduction=reduction))
    with pytest.raises(TypeError, match=r"Objective\(function, Linear\): needs a torch\.nn\.Module and a function"):
        Objective(cross_entropy, network())  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"weight": torch.ones(3).double()}, {"ignore_index": 0}], ids=str)
def test_a_weighted_mean_takes_whole_batches(options: Any) -> None:
    model = network()
    rule, objective = SAM(sgd(model), rho=0.05), Objective(model, nn.CrossEntropyLoss(**options))
    for pieces, m in (((batch(),), 10), ((batch(0), batch(1)), None)):
        with pytest.raises(ValueError, match="criterion: with class weights or ignored targets"):
            rule.step(*(objective(*piece) for piece in pieces), m=m)
    rule.step(objective(*batch()))


def test_a_part_of_one_example_under_batch_norm_names_m() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    rule = SAM(sgd(model), rho=0.05)
    with pytest.raises(ValueError, match="m: leaves a part of 1 example, of which batch norm has no variance"):
        rule.step(Objective(model, cross_entropy)(*batch()), m=19)


def test_two_networks_of_one_closure_move_their_statistics_once() -> None:
    nets = nn.ModuleList([nn.BatchNorm1d(8), nn.BatchNorm1d(8)]).double()
    optimizer = ByClosure(SAM(sgd(nets), rho=0.05), nets)

    def closure() -> Tensor:
        loss = sum(net(batch()[0]).square().mean() + net.weight.sum() for net in nets)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert [int(net.num_batches_tracked) for net in nets] == [1, 1]
