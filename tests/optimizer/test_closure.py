"""A rule driven by closures takes the steps that it takes on an objective."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sam_repro.optimizer import SAM, SGD, ByClosure, LookSAM, SGDHess
from sam_repro.oracle import Objective


@pytest.fixture
def batches():
    torch.manual_seed(0)
    return [(torch.randn(12, 5), torch.randint(3, (12,))) for _ in range(6)]


@pytest.fixture
def nets():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    return net, copy.deepcopy(net)


def base(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def closure_of(net, optimizer, batch):
    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("rule", [SGD, lambda b: SAM(b, rho=0.2)])
def test_closures_give_the_same_weights_and_buffers(nets, batches, rule):
    ours, theirs = nets
    objective, plain = Objective(ours, cross_entropy), rule(base(ours))
    torch.manual_seed(2)
    losses = [plain.step(objective(*batch)).item() for batch in batches]
    optimizer = ByClosure(rule(base(theirs)), theirs)
    torch.manual_seed(2)
    assert losses == [optimizer.step(closure_of(theirs, optimizer, batch)).item() for batch in batches]
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_closures_inside_an_outer_autocast_see_the_perturbation(nets, batches):
    net, twin = nets
    for model, rho in ((net, 0.0), (twin, 2.0)):
        optimizer = ByClosure(SAM(base(model), rho=rho), model)
        with torch.autocast("cpu", torch.bfloat16):
            optimizer.step(closure_of(model, optimizer, batches[0]))
    assert not torch.equal(net[0].weight, twin[0].weight)


def test_a_scheduler_moves_the_base(nets):
    optimizer = ByClosure(SAM(base(nets[0]), rho=0.1), nets[0])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step(closure_of(nets[0], optimizer, (torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))))
    scheduler.step()
    assert optimizer.rule.base.param_groups[0]["lr"] == pytest.approx(0.05)


def test_save_load_continue(nets, batches):
    net, twin = nets
    first = ByClosure(SAM(base(net), rho=0.2), net)
    torch.manual_seed(3)
    for batch in batches[:3]:
        first.step(closure_of(net, first, batch))
    twin.load_state_dict(net.state_dict())
    second = ByClosure(SAM(base(twin), rho=0.2), twin)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, model in ((first, net), (second, twin)):
        torch.manual_seed(4)
        for batch in batches[3:]:
            optimizer.step(closure_of(model, optimizer, batch))
    assert torch.equal(net[0].weight, twin[0].weight)


def test_what_a_closure_cannot_give(nets, batches):
    net, _ = nets
    optimizer = ByClosure(SAM(base(net), rho=0.2), net)
    with pytest.raises(TypeError, match="must return the loss"):
        optimizer.step(lambda: None)
    products = ByClosure(SGDHess(base(net), rho=0.1), net)
    with pytest.raises(TypeError, match="needs an Objective"):
        products.step(closure_of(net, products, batches[0]))


# An optimizer like any other


def trained(optimizer, model, batches):
    for number, batch in enumerate(batches):
        torch.manual_seed(number)
        optimizer.step(closure_of(model, optimizer, batch))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("way", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"])
@pytest.mark.parametrize("rule", [lambda b: SAM(b, rho=0.2), lambda b: LookSAM(b, rho=0.2, period=2)])
def test_a_copy_goes_on_as_the_original_does(nets, batches, way, rule):
    net, _ = nets
    optimizer = ByClosure(rule(base(net)), net)
    trained(optimizer, net, batches[:3])
    twin, copied = way((net, optimizer))
    assert [id(p) for group in copied.param_groups for p in group["params"]] == [id(p) for p in twin.parameters()]
    trained(copied, twin, batches[3:])
    assert not torch.equal(weights(net), weights(twin))
    trained(optimizer, net, batches[3:])
    assert torch.equal(weights(net), weights(twin))
    assert copied.rule.steps == optimizer.rule.steps == len(batches)


def test_a_shallow_copy_shares_all(nets, batches):
    net, _ = nets
    optimizer = ByClosure(SAM(base(net), rho=0.2), net)
    other = copy.copy(optimizer)
    trained(other, net, batches[:1])
    assert optimizer.rule.steps == 1
    assert optimizer.state is other.state


def test_a_copy_on_the_original_s_network_is_refused_and_harms_nothing(nets, batches):
    net, _ = nets
    optimizer = ByClosure(SAM(base(net), rho=0.2), net)
    copied, before = copy.deepcopy(optimizer), weights(net)
    with pytest.raises(ValueError, match="a copied optimizer has copied parameters"):
        copied.step(closure_of(net, copied, batches[0]))
    assert torch.equal(weights(net), before)
    trained(optimizer, net, batches[:1])
    trained(ByClosure(SAM(base(net), rho=0.2), net), net, batches[:1])


def test_every_hook_of_torch_is_called(nets, batches):
    net, _ = nets
    optimizer, heard = ByClosure(SAM(base(net), rho=0.2), net), []
    for kind in ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre"):
        getattr(optimizer, f"register_{kind}_hook")(lambda *_, kind=kind: heard.append(kind))
    optimizer.register_load_state_dict_post_hook(lambda *_: heard.append("load_state_dict_post"))
    trained(optimizer, net, batches[:2])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert heard == ["step_pre", "step_post"] * 2 + [
        "state_dict_pre",
        "state_dict_post",
        "load_state_dict_pre",
        "load_state_dict_post",
    ]


def test_hooks_may_put_another_state_in_its_place(nets):
    optimizer = ByClosure(SAM(base(nets[0]), rho=0.2), nets[0])
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"more": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: state | {"steps": 7})
    state = optimizer.state_dict()
    assert state["more"] == 1
    optimizer.load_state_dict(state)
    assert optimizer.rule.steps == 7


SCHEDULERS = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=10),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.filterwarnings("error")
def test_torch_s_schedulers_act_on_the_base(nets, batches, make):
    net, twin = nets
    ours, theirs = ByClosure(SAM(base(net), rho=0.1), net), base(twin)
    rates = []
    for optimizer, model in ((ours, net), (theirs, twin)):
        scheduler, seen = make(optimizer), []
        for batch in batches:
            optimizer.step(closure_of(model, optimizer, batch))
            scheduler.step(*([1.0] if scheduler.__class__.__name__ == "ReduceLROnPlateau" else []))
            seen.append(optimizer.param_groups[0]["lr"])
        rates.append(seen)
    assert rates[0] == rates[1]


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_scheduler_that_is_given_the_rule_says_what_to_give(nets, make):
    with pytest.raises((TypeError, AttributeError), match=r"no optimizer, .* give a scheduler rule\.base"):
        make(SAM(base(nets[0]), rho=0.1))


def test_dict_inputs(batches):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, batch):
            return {"logits": self.layer(batch["inputs"])}

    torch.manual_seed(0)
    model = Named()
    optimizer = ByClosure(SAM(base(model), rho=0.2), model)

    def closure():
        loss = cross_entropy(model({"inputs": batches[0][0]})["logits"], batches[0][1])
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert all(a > b for a, b in pairwise(losses))


# The gradient is that of the loss that is returned


def losses_of(net, batch):
    return [cross_entropy(net(x), y) for x, y in zip(batch[0].split(6), batch[1].split(6), strict=True)]


def test_several_backwards_are_their_sum(batches):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    twin = copy.deepcopy(net)
    ours, other = (ByClosure(SAM(base(model), rho=0.2), model) for model in (net, twin))

    def in_two():
        halves = [loss / 2 for loss in losses_of(net, batches[0])]
        for loss in halves:
            loss.backward()
        return sum(halves)

    torch.testing.assert_close(ours.step(in_two), other.step(closure_of(twin, other, batches[0])))
    torch.testing.assert_close(weights(net), weights(twin))


def scaled(net, batch):
    loss = cross_entropy(net(batch[0]), batch[1])
    torch.amp.GradScaler("cpu", init_scale=1024.0).scale(loss).backward()
    return loss


def scaled_and_returned(net, batch):
    loss = torch.amp.GradScaler("cpu", init_scale=1024.0).scale(cross_entropy(net(batch[0]), batch[1]))
    loss.backward()
    return loss


def scaled_by_hand(net, batch):
    loss = cross_entropy(net(batch[0]), batch[1])
    (8 * loss).backward()
    return loss


def scaled_by_a_gradient(net, batch):
    loss = cross_entropy(net(batch[0]), batch[1])
    loss.backward(torch.tensor(8.0))
    return loss


def only_the_last(net, batch):
    losses = losses_of(net, batch)
    for loss in losses:
        loss.backward()
    return losses[-1]


@pytest.mark.parametrize("wrong", [scaled, scaled_and_returned, scaled_by_hand, scaled_by_a_gradient, only_the_last])
def test_the_gradient_of_another_loss_is_refused(nets, batches, wrong):
    net, _ = nets
    optimizer, before = ByClosure(SAM(base(net), rho=0.2), net), weights(net)
    backward, scale = torch.autograd.backward, torch.amp.GradScaler.scale
    with pytest.raises(ValueError, match=r"use bfloat16 without one|do not scale the loss"):
        optimizer.step(lambda: wrong(net, batches[0]))
    assert torch.equal(weights(net), before)
    assert (torch.autograd.backward, torch.amp.GradScaler.scale) == (backward, scale)


def test_a_disabled_scaler_and_a_loss_that_is_not_finite_pass(nets, batches):
    net, _ = nets
    optimizer = ByClosure(SAM(base(net), rho=0.2), net)

    def disabled():
        loss = cross_entropy(net(batches[0][0]), batches[0][1])
        torch.amp.GradScaler("cpu", enabled=False).scale(loss).backward()
        return loss

    optimizer.step(disabled)

    def infinite():
        loss = cross_entropy(net(batches[0][0]), batches[0][1]) * torch.inf
        (loss / 2).backward()
        return loss

    optimizer.step(infinite)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_block_in_a_closure(batches, reentrant):
    torch.manual_seed(0)
    block, head = nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.Linear(8, 3)
    model = nn.Sequential(block, head)
    optimizer = ByClosure(SAM(base(model), rho=0.2), model)

    def closure():
        inputs = batches[0][0].clone().requires_grad_()
        hidden = torch.utils.checkpoint.checkpoint(block, inputs, use_reentrant=reentrant)
        loss = cross_entropy(head(hidden), batches[0][1])
        loss.backward()
        return loss

    assert optimizer.step(closure) > optimizer.step(closure)


def test_a_frozen_layer_stands_still_without_zero_grad(nets, batches):
    net, _ = nets
    optimizer = ByClosure(SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=0.2), net)

    def closure():
        loss = cross_entropy(net(batches[0][0]), batches[0][1])
        loss.backward()
        return loss

    optimizer.step(closure)
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    for _ in range(3):
        optimizer.step(closure)
    assert torch.equal(net[0].weight, before)
