"""What a step of a rule costs beside its passes, counted: the same for every network."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from sam_repro.architecture import resnet8, resnet20
from sam_repro.optimizer import SAM, Rule
from sam_repro.oracle import Objective


class Dispatched(TorchDispatchMode):
    """Counts the operations that reach a kernel; views are none."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        if not operation.is_view:
            self.count[str(operation)] += 1
        return operation(*arguments, **(keywords or {}))


def counted(action):
    with Dispatched() as dispatched:
        action()
    return dispatched.count


def batch():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 8), torch.randint(10, (4,))


def step_less_passes(network):
    torch.manual_seed(0)
    model = network(num_classes=10, in_channels=3, image_size=8)
    objective = Objective(model, cross_entropy)
    rule = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True), rho=0.05)
    oracle = objective(*batch())
    rule.step(oracle)  # buffers are made in the first
    step = counted(lambda: rule.step(oracle))
    passes = counted(lambda: oracle.gradient(rule.params))
    passes += counted(lambda: oracle.gradient(rule.params, update_statistics=False))
    return step - passes


def test_sam_adds_few_operations_whatever_the_network():
    small, large = step_less_passes(resnet8), step_less_passes(resnet20)
    assert small == large
    assert 0 < sum(large.values()) <= 20


def test_a_step_walks_through_no_module(make_rule, monkeypatch):
    torch.manual_seed(0)
    model = resnet8(num_classes=10, in_channels=3, image_size=8)
    rule: Rule = make_rule(torch.optim.SGD(model.parameters(), lr=0.1))
    if rule.products(0):
        pytest.skip("torch.func walks through the modules for a product")
    objective = Objective(model, cross_entropy)

    def walk(*_):
        raise AssertionError("a step walked through the modules")

    for name in ("modules", "apply", "named_modules", "parameters", "named_parameters"):
        monkeypatch.setattr(nn.Module, name, walk)
    rule.step(objective(*batch()))
