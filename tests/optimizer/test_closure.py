"""A rule driven by closures takes the steps that it takes on an objective."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sam_repro.optimizer import SAM, SGD, SGDHess
from sam_repro.optimizer.closure import ByClosure
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
