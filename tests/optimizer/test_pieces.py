"""Several batches in one step are one batch; a gradient that a step did not compute or use is never lost or taken."""

import copy
from typing import Any

import pytest
import torch
from numbered import Objective
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sam_repro.optimizer import SAM, SGD, Rule

pytestmark = pytest.mark.usefixtures("float64")
SIZES = (5, 3, 4)


def network(batch_norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), norm, nn.Tanh(), nn.Linear(5, 3))


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(sum(SIZES), 6, generator=generator), torch.randint(3, (sum(SIZES),), generator=generator)


def pieces(step: int) -> Any:
    return zip(*(t.split(SIZES) for t in batch(step)), strict=True)


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9} | options))


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


# One batch in pieces


def test_pieces_are_the_whole_batch(make_rule: Any) -> None:
    whole, other = network(), network()
    ours, theirs = make_rule(sgd(other)), make_rule(sgd(whole))
    for step in range(6):
        objective = Objective(other, cross_entropy, weight_decay=0.1 * ours.allows_decay_in_loss)
        rows = torch.arange(sum(SIZES)).split(SIZES)
        numbered = zip(pieces(step), rows, strict=True)
        loss = ours.step(*(objective(*piece, noise=step, rows=own) for piece, own in numbered))
        objective = Objective(whole, cross_entropy, weight_decay=0.1 * theirs.allows_decay_in_loss)
        torch.testing.assert_close(loss, theirs.step(objective(*batch(step), noise=step)), rtol=1e-12, atol=0)
    torch.testing.assert_close(flat(other.parameters()), flat(whole.parameters()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("curvature", ["hessian", "hutchinson_abs"])
def test_pieces_of_a_product_are_the_whole_batch(rules: Any, curvature: str) -> None:
    models = network(), network()
    ours, theirs = (rules["sgdhess"](sgd(model), curvature=curvature) for model in models)
    objective = Objective(models[0], cross_entropy)
    ours.step(*(objective(*piece, noise=0) for piece in pieces(0)))
    theirs.step(Objective(models[1], cross_entropy)(*batch(0), noise=0))
    torch.testing.assert_close(flat(models[0].parameters()), flat(models[1].parameters()), rtol=1e-10, atol=1e-12)


def test_pieces_share_one_perturbation_and_parts_do_not() -> None:
    moves: list[list[Tensor]] = []
    for together in (True, False):
        model, seen = network(), []
        start = flat(model.parameters())
        model.register_forward_pre_hook(lambda *_, m=model, s=start, seen=seen: seen.append(flat(m.parameters()) - s))
        rule, objective = SAM(sgd(model), rho=0.1), Objective(model, cross_entropy)
        if together:
            rule.step(*(objective(*piece) for piece in pieces(0)))
        else:
            rule.step(objective(*batch(0)), m=4)
        moves.append([move for move in seen if move.norm() > 0])
    assert all(torch.equal(move, moves[0][0]) for move in moves[0])
    assert len(moves[0]) == len(moves[1]) == 3
    assert not torch.equal(moves[1][0], moves[1][1])


@pytest.mark.parametrize("policy", ["mean", "first", "both"])
def test_running_statistics_move_as_over_parts(policy: str) -> None:
    model, twin = network(batch_norm=True), network(batch_norm=True)
    objective = Objective(model, cross_entropy, batch_norm_statistics=policy)
    rule, parts = SGD(sgd(model)), SGD(sgd(twin))
    for step in range(3):
        halves = zip(*(t.split(6) for t in batch(step)), strict=True)
        rule.step(*(objective(*half) for half in halves))
        parts.step(Objective(twin, cross_entropy, batch_norm_statistics=policy)(*batch(step)), m=6)
    torch.testing.assert_close(flat(model.buffers()), flat(twin.buffers()), rtol=1e-12, atol=0)
    assert model[2].num_batches_tracked == 3
    torch.testing.assert_close(flat(model.parameters()), flat(twin.parameters()), rtol=1e-12, atol=1e-14)


def test_running_statistics_stand_still_in_the_second_pass() -> None:
    model, twin = network(batch_norm=True), network(batch_norm=True)
    for net, rule in ((model, SAM(sgd(model), rho=0.1)), (twin, SGD(sgd(twin)))):
        rule.backward(*both_pieces(net))
    assert torch.equal(flat(model.buffers()), flat(twin.buffers()))


def both_pieces(model: nn.Module) -> Any:
    objective = Objective(model, cross_entropy)
    return [objective(*piece) for piece in pieces(0)]


def test_pieces_of_two_objectives_and_several_perturbations_are_refused() -> None:
    model = network()
    rule = SAM(sgd(model), rho=0.1)
    with pytest.raises(ValueError, match="oracles: of several objectives"):
        rule.step(*(Objective(model, cross_entropy)(*piece) for piece in pieces(0)))
    with pytest.raises(ValueError, match="m = 2: several batches are one here"):
        rule.step(*both_pieces(model), m=2)


# A gradient that no step has taken


def test_a_second_backward_is_refused_and_says_what_to_write(make_rule: Any) -> None:
    model = network()
    rule, objective = make_rule(sgd(model)), Objective(model, cross_entropy)
    rule.backward(objective(*batch(0)))
    with pytest.raises(RuntimeError, match=r"rule\.step\(objective\(a\), objective\(b\)\)"):
        rule.backward(objective(*batch(1)))
    rule.update()
    rule.backward(objective(*batch(1)))
    rule.base.zero_grad()
    rule.backward(objective(*batch(1)))
    rule.update()
    rule.step(objective(*batch(2)))


def test_a_copied_rule_and_one_that_is_loaded_start_afresh() -> None:
    model = network()
    rule, objective = SAM(sgd(model), rho=0.1), Objective(model, cross_entropy)
    rule.backward(objective(*batch(0)))
    copied_model, copied = copy.deepcopy((model, rule))
    copied.backward(Objective(copied_model, cross_entropy)(*batch(0)))
    with pytest.raises(RuntimeError, match="would lose the gradient"):
        copied.backward(Objective(copied_model, cross_entropy)(*batch(0)))
    copied.base.step()
    copied.backward(Objective(copied_model, cross_entropy)(*batch(0)))


class Hand(SAM):
    """Moves the weights itself."""

    def move(self) -> None:
        with torch.no_grad():
            for p in self.params:
                p -= 0.1 * p.grad


def test_a_rule_that_moves_the_weights_itself_may_go_on() -> None:
    model = network()
    rule, objective = Hand(sgd(model), rho=0.1), Objective(model, cross_entropy)
    for step in range(3):
        rule.step(objective(*batch(step)))


# A gradient that this step did not compute


def test_a_layer_that_is_frozen_stands_still(make_rule: Any) -> None:
    model = network()
    rule: Rule = make_rule(sgd(model))
    objective = Objective(model, cross_entropy)
    rule.step(objective(*batch(0)))
    model[1].requires_grad_(False)
    before = flat(model[1].parameters())
    for step in range(1, 6):
        rule.step(objective(*batch(step)))
    assert torch.equal(flat(model[1].parameters()), before)
    model[1].requires_grad_(True)
    rule.step(objective(*batch(6)))
    assert not torch.equal(flat(model[1].parameters()), before)
