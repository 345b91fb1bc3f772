"""Constants of batch norm in any network: running statistics by hand, over several steps, also of SAM and compiled."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sam_repro.architecture.batch_norm import BatchNorm
from sam_repro.optimizer import SAM, SGD
from sam_repro.oracle import Objective
from sam_repro.oracle.products import hvp

pytestmark = pytest.mark.usefixtures("float64")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(5, 2, 4, 4), torch.randn(5, 4)) for _ in range(count)]


def by_hand(model: nn.Module, momentum: float, correction: int) -> tuple[Tensor, Tensor]:
    """Running mean and variance after the batches, the weights standing still."""
    mean, variance = torch.zeros(3), torch.ones(3)
    for inputs, _ in batches():
        x = model[0](inputs).detach().transpose(0, 1).flatten(1)
        mean = (1 - momentum) * mean + momentum * x.mean(1)
        variance = (1 - momentum) * variance + momentum * x.var(1, correction=correction)
    return mean, variance


@pytest.mark.parametrize(("variance", "correction"), [("unbiased", 1), ("biased", 0)])
@pytest.mark.parametrize("rule", [SGD, SAM])
def test_running_statistics_by_hand(variance: str, correction: int, rule: type) -> None:
    model = network()
    BatchNorm(momentum=0.3, variance=variance).set(model)
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    stepper = rule(base) if rule is SGD else rule(base, rho=0.1)
    objective = Objective(model, mse_loss)
    for inputs, targets in batches():
        stepper.step(objective(inputs, targets))
    expected = by_hand(model, 0.3, correction)
    torch.testing.assert_close((model[1].running_mean, model[1].running_var), expected, rtol=1e-12, atol=1e-12)
    assert model[1].num_batches_tracked == 3


def test_the_gradient_does_not_know_of_the_running_variance() -> None:
    (inputs, targets), *_ = batches()
    gradients = []
    for variance in ("unbiased", "biased"):
        model = network()
        BatchNorm(variance=variance).set(model)
        oracle, params = Objective(model, mse_loss)(inputs, targets), list(model.parameters())
        gradients.append([*oracle.gradient(params).vector, *hvp(oracle, params, [torch.ones_like(p) for p in params])])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_compiled_moves_the_same_statistics() -> None:
    (inputs, _), *_ = batches()
    found = []
    for backend in (None, "aot_eager"):
        model = network()
        BatchNorm(variance="biased").set(model)
        forward = model if backend is None else torch.compile(model, backend=backend)
        forward(inputs).sum().backward()
        found.append(model[1].running_var)
    torch.testing.assert_close(found[1], found[0])


def test_of_another_librarys_layers_too() -> None:
    model = timm.create_model("test_efficientnet", num_classes=3)
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    BatchNorm(momentum=1.0, eps=0.5, variance="biased").set(model)
    assert layers
    assert {(layer.momentum, layer.eps) for layer in layers} == {(1.0, 0.5)}
    seen: list[Tensor] = []
    layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.train()(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(layers[0].running_var, seen[0].var((0, 2, 3), correction=0))


@pytest.mark.parametrize("rule", [SGD, SAM])
def test_frozen_statistics_are_used_and_stand_still(rule: type) -> None:
    model = network()
    model[1].running_mean.copy_(torch.tensor([0.1, -0.2, 0.3]))
    model[1].running_var.copy_(torch.tensor([0.5, 2.0, 1.5]))
    before = [buffer.clone() for buffer in model.buffers()]
    BatchNorm(frozen=True).set(model)
    (inputs, targets), *_ = batches()
    assert torch.equal(model.train()(inputs), model.eval()(inputs))
    model.train()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    stepper = rule(base) if rule is SGD else rule(base, rho=0.1)
    scale = model[1].weight.detach().clone()
    stepper.step(Objective(model, mse_loss)(inputs, targets), m=2)  # a mean over parts would round
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))
    assert not torch.equal(model[1].weight, scale)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"momentum": 0}, r"^batch_norm.momentum = 0: must be a finite number > 0 and <= 1, or null$"),
        ({"eps": 0}, r"^batch_norm.eps = 0: must be a finite number > 0, or null$"),
        ({"variance": "jax"}, r"^batch_norm.variance = jax: must be one of unbiased, biased$"),
        ({"frozen": 1}, r"^batch_norm.frozen = 1: must be true or false$"),
    ],
)
def test_limits(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchNorm(**given)
