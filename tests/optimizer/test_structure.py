"""What makes a step fast, counted instead of timed: C1 to C7, the same on every machine.

C1 and C2: operations of a step beside its passes. C3: nothing waits for the host. C4: nothing moves. C5: weights come
back bitwise. C6: no walk through the modules. C7: the second pass sees the perturbed weights. The contract tests hold
C3 to C6 for every rule, `test_traps.py` holds C7 in all its forms, and `training/test_waits.py` C3 and C6 for the loop.
"""

from collections import Counter
from functools import partial

import pytest
import torch
from numbered import Objective
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sam_repro.architecture import resnet8, resnet18, resnet20, resnet56
from sam_repro.optimizer import SAM, SGD, Rule, SAMMasked
from sam_repro.oracle import Oracle, Term, oracle
from sam_repro.oracle.buffers import modules_of
from sam_repro.training.diagnostics import Diagnostics

NO_KERNEL = ("aten.randn", "aten.empty", "prim.device")
"""Gradients that stand in for a pass; memory; nothing."""


class Dispatched(TorchDispatchMode):
    """Counts the operations that reach a kernel; views are none, nor is what a profiler is told."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        if not operation.is_view and operation.namespace != "profiler":
            self.count[str(operation)] += 1
        return operation(*arguments, **(keywords or {}))


def counted(action):
    with Dispatched() as dispatched:
        action()
    return dispatched.count


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 8, 8, generator=generator).to(dtype, memory_format=torch.channels_last)
    return images, torch.randint(10, (4,), generator=generator)


def made(network=resnet8, rule=SAM, **settings):
    """A model in the default layout, its objective, and a rule on the default base."""
    torch.manual_seed(0)
    model = network(num_classes=10, in_channels=3, image_size=8).to(memory_format=torch.channels_last)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    return model, Objective(model, cross_entropy), rule(base, **settings)


def step_less_passes(network):
    _, objective, rule = made(network, rho=0.05)
    oracle = objective(*batch())
    rule.step(oracle)  # buffers are made in the first
    step = counted(lambda: rule.step(oracle))
    passes = counted(lambda: oracle.gradient(rule.params))
    passes += counted(lambda: oracle.gradient(rule.params, update_statistics=False))
    return step - passes


def test_c1_sam_adds_few_operations():
    assert 0 < sum(step_less_passes(resnet18).values()) <= 14


def test_c2_the_same_few_whatever_the_network():
    assert step_less_passes(resnet20) == step_less_passes(resnet56)


@pytest.mark.parametrize("phase", [0, 1])
def test_c2_on_a_gpu_for_every_rule_with_its_diagnostics(make_rule, phase):
    """Kernels beside the passes, on a pretended GPU: as many for a deeper network. A GPU waits for each launch."""
    counts = []
    for network in (resnet8, resnet20):
        with FakeTensorMode():
            rule, oracle = given(network, make_rule)
            if isinstance(rule, SAMMasked):
                pytest.skip("chooses tensor by tensor")
            look = partial(Diagnostics(), 1, labels=oracle.targets, w=rule.params)
            rule.step(oracle)  # buffers are made in the first
            rule.steps = phase
            launched = counted(lambda rule=rule, oracle=oracle, look=look: rule.backward(oracle, observe=look))
        counts.append({name: n for name, n in launched.items() if not name.startswith(NO_KERNEL)})
    assert counts[0] == counts[1]


class OneDevice(TorchDispatchMode):
    """Refuses operations in which a tensor of the host takes part."""

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        results = operation(*arguments, **(keywords or {}))
        tensors = [leaf for leaf in tree_leaves((arguments, keywords, results)) if isinstance(leaf, Tensor)]
        assert {tensor.device.type for tensor in tensors} <= {"cuda"}, f"{operation}: from device to device"
        return results


class Given(Oracle):
    """Answers without a pass: no backward runs on a GPU that is not there."""

    def predict(self):
        return torch.randn(4, 10, device=self.inputs.device)

    def gradient(self, params, update_statistics=True, auxiliary=None):
        outputs = self.predict()
        vector = [torch.randn_like(p) for p in params]
        return Term(vector, [True] * len(vector), outputs.mean(), outputs)


def given(network, make_rule):
    """A rule on a pretended GPU, and an oracle that answers without a pass; inside of a FakeTensorMode."""
    with torch.device("cuda"):
        model = network(num_classes=10, in_channels=3, image_size=8)
        inputs, targets = torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)
    rule: Rule = make_rule(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    if rule.cost(0).products:
        pytest.skip("Hessian products run passes of their own")
    return rule, Given(**vars(Objective(model, cross_entropy)(inputs, targets, noise=0)))


def test_c3_on_a_gpu_nothing_is_copied_to_the_host_or_from_it(make_rule):
    """On a pretended GPU, whose tensors have no content, so that a read raises. Diagnostics look at the elements."""
    with FakeTensorMode():
        rule, oracle = given(resnet8, make_rule)
        look, looks = partial(Diagnostics(), 0, labels=oracle.targets, w=rule.params), []
        with OneDevice():
            for rule.steps in range(2):
                rule.backward(oracle, observe=lambda seen: looks.append(look(seen)))
    assert len(looks) == 2


def test_c3_a_read_and_a_copy_are_seen():
    with FakeTensorMode(), OneDevice():
        on_gpu = torch.ones(3, device="cuda")
        for wrong in (lambda: float(on_gpu.sum()), on_gpu.cpu, lambda: torch.ones(3).to("cuda")):
            with pytest.raises((AssertionError, RuntimeError)):
                wrong()


@pytest.mark.parametrize("m", [None, 2])
def test_c4_addresses_stay(m):
    model, objective, rule = made(rho=0.05)
    rule.step(objective(*batch()), m=m)

    def addresses():
        momentum = [state["momentum_buffer"] for state in rule.base.state.values()]
        return [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers(), *momentum, *rule.room["w"]]]

    before = addresses()
    for _ in range(3):
        rule.step(objective(*batch()), m=m)
    assert addresses() == before


def test_c5_weights_come_back_bitwise_and_without_a_radius_it_is_sgd():
    model, objective, rule = made(rho=0.5)
    before = [p.detach().clone() for p in model.parameters()]
    rule.backward(objective(*batch()))
    assert all(torch.equal(p, start) for p, start in zip(model.parameters(), before, strict=True))

    ours, plain = made(rho=0.0), made(rule=SGD)
    for _, objective, rule in (ours, plain):
        for _ in range(3):
            rule.step(objective(*batch()))
    for name, value in ours[0].state_dict().items():
        assert torch.equal(value, plain[0].state_dict()[name]), name


def test_c6_a_step_looks_at_each_module_once(make_rule, monkeypatch):
    """Layers may be replaced between steps, so a batch looks them up: by `modules_of`, and by no slow generator."""
    _, objective, rule = made(rule=make_rule)
    if rule.cost(0).products:
        pytest.skip("torch.func walks through the modules for a product")

    def walk(*_):
        raise AssertionError("a step walked through the modules")

    looks = []
    monkeypatch.setattr(oracle, "modules_of", lambda *roots: looks.append(roots) or modules_of(*roots))
    for name in ("modules", "apply", "named_modules", "parameters", "named_parameters"):
        monkeypatch.setattr(nn.Module, name, walk)
    rule.step(objective(*batch()), m=2)
    assert len(looks) == 1


def test_c7_the_second_pass_sees_the_perturbed_weights_under_autocast():
    model, objective, rule = made(rho=0.5)
    logits = []
    model.register_forward_hook(lambda _, __, outputs: logits.append(outputs.detach()))
    with torch.autocast("cpu", torch.bfloat16):
        rule.backward(objective(*batch()))
    assert logits[0].dtype == torch.bfloat16
    assert not torch.equal(*logits)
