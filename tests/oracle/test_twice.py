"""The layers of Hessian products: torch's values, in fewer operations."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.profiler import profile
from torch.utils.checkpoint import checkpoint

from sam_repro.oracle import Objective
from sam_repro.oracle.products import hessian, hvp
from sam_repro.oracle.twice import TwiceDifferentiable

LAYERS = {
    "padded": (F.conv2d, (2, 4, 5, 6), (3, 4, 3, 3), {"padding": 1}),
    "strided, uneven": (F.conv2d, (2, 4, 7, 6), (3, 4, 3, 2), {"stride": (2, 1), "padding": (0, 1)}),
    "dilated": (F.conv2d, (2, 2, 7, 7), (2, 2, 3, 3), {"dilation": 2, "padding": 2}),
    "in groups": (F.conv2d, (2, 4, 4, 4), (6, 2, 3, 3), {"groups": 2}),
    "depthwise": (F.conv2d, (2, 3, 5, 5), (3, 1, 3, 3), {"groups": 3, "padding": 1}),
    "pointwise": (F.conv2d, (2, 3, 4, 4), (5, 3, 1, 1), {}),
    "1-d": (F.conv1d, (2, 3, 9), (4, 3, 3), {"stride": 2}),
    "3-d": (F.conv3d, (2, 2, 3, 4, 3), (2, 2, 2, 3, 2), {"padding": 1}),
    "one example, torch's": (F.conv2d, (2, 5, 5), (3, 2, 3, 3), {}),
    "same, torch's": (F.conv2d, (2, 2, 4, 4), (3, 2, 3, 3), {"padding": "same"}),
}


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def twice(function: Any, **options: Any) -> Any:
    def call(*arguments: Tensor) -> Tensor:
        with TwiceDifferentiable():
            outputs: Tensor = function(*arguments, **options)
        return outputs

    return call


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("bias", [False, True])
def test_both_derivatives_against_differences(layer: str, bias: bool) -> None:
    torch.manual_seed(0)
    function, inputs, weight, options = LAYERS[layer]
    arguments = [drawn(*inputs), drawn(*weight), *([drawn(weight[0])] if bias else [])]
    ours = twice(function, **options)
    assert torch.equal(ours(*arguments), function(*arguments, **options))
    assert gradcheck(ours, arguments, fast_mode=True)
    assert gradgradcheck(ours, arguments, fast_mode=True)


NORMS = {"a batch norm": (4, 3, 2, 3), "of rows": (5, 3), "1-d": (3, 2, 4), "3-d": (2, 2, 2, 1, 3)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("weights", [0, 1, 2])
def test_both_derivatives_of_batch_norm_against_differences(
    shape: tuple[int, ...], training: bool, weights: int
) -> None:
    torch.manual_seed(0)
    channels = shape[1]
    statistics = None if training else [drawn(channels).detach(), drawn(channels).detach().exp()]

    def norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return F.batch_norm(x, *(statistics or (None, None)), weight, bias, training, eps=0.1)

    ours, arguments = twice(norm), [drawn(*shape), *(drawn(channels) for _ in range(weights))]
    torch.testing.assert_close(ours(*arguments), norm(*arguments), rtol=1e-12, atol=1e-14)
    assert gradcheck(ours, arguments, fast_mode=True)
    assert gradgradcheck(ours, arguments, fast_mode=True)


@pytest.mark.parametrize("spoiled", ["constant channel", "zero weight", "bfloat16", "bfloat16 weights"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_where_it_is_hard(spoiled: str, training: bool) -> None:
    """The Hessian product of a channel without variance, of γ = 0, and in other dtypes is torch's."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).train(training)
    inputs = torch.randn(4, 3, 2, 3)
    if spoiled == "constant channel":
        inputs[:, 1] = 0.5
    if spoiled == "zero weight":
        nn.init.zeros_(norm.weight)
    if spoiled == "bfloat16":
        inputs = inputs.bfloat16()
    if spoiled == "bfloat16 weights":
        inputs, norm = inputs.bfloat16(), norm.bfloat16()
    inputs.requires_grad_()
    leaves, found = [inputs, *norm.parameters()], []
    v = [torch.randn_like(leaf) for leaf in leaves]
    for layer in (norm, twice(norm)):
        loss = layer(inputs).float().sin().sum()
        g = torch.autograd.grad(loss, leaves, create_graph=True)
        found.append([x.detach() for x in g] + list(torch.autograd.grad(g, leaves, v)))
    near = 0.05 if inputs.dtype == torch.bfloat16 else 2e-4
    largest = max(float(x.abs().max()) for x in found[0])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=near * largest)


def test_running_statistics_and_refusals_are_torchs() -> None:
    one, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    inputs = torch.randn(4, 3)
    one(inputs)
    twice(other)(inputs)
    assert all(torch.equal(x, y) for x, y in zip(one.buffers(), other.buffers(), strict=True))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        twice(other)(inputs[:1])


def network(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    last = nn.Conv2d(4, 4, 3, groups=2)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), last, nn.Flatten()).to(**options)


def test_no_kernel_of_a_product_is_larger_than_the_layers() -> None:
    model = network()
    oracle = Objective(model, F.cross_entropy)(torch.randn(3, 2, 9, 9), torch.randint(196, (3,)), noise=0)
    params = list(model.parameters())
    with profile(record_shapes=True) as seen:
        hvp(oracle, params, [torch.randn_like(p) for p in params])
    kernels = [event.input_shapes[1] for event in seen.events() or [] if event.name == "aten::convolution"]
    assert max(extent for kernel in kernels for extent in kernel[2:]) == 3


@pytest.mark.parametrize("frozen", [(), ("0.weight",), ("0.bias", "3.weight"), ("3.bias",)])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_products_are_those_of_torchs_convolutions(frozen: tuple[str, ...], mode: str) -> None:
    model = network(dtype=torch.float64).train(mode == "train")
    params = []
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
        params += [p] if p.requires_grad else []
    inputs, targets = torch.randn(3, 2, 5, 5, dtype=torch.float64), torch.randint(36, (3,))
    v = [torch.randn_like(p) for p in params]
    loss = F.cross_entropy(model(inputs), targets)
    reference = torch.autograd.grad(torch.autograd.grad(loss, params, create_graph=True), params, v)
    oracle = Objective(model, F.cross_entropy)(inputs, targets, noise=0)
    for product in (partial(hvp, oracle, params), hessian(oracle, params)):
        torch.testing.assert_close(product(v), list(reference), rtol=1e-11, atol=1e-13)


class Force(nn.Module):
    """The derivative of a network by its inputs."""

    def __init__(self, *norm: nn.Module) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Conv2d(2, 3, 3), *norm, nn.Tanh(), nn.Flatten(), nn.Linear(27, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (force,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return force


def test_a_network_that_differentiates_itself() -> None:
    """Its product is a third derivative: that of convolutions is right, that of batch norm is refused as by torch."""
    torch.manual_seed(0)
    model, inputs = Force().double(), torch.randn(4, 2, 5, 5, dtype=torch.float64)
    params, targets = list(model.parameters()), torch.randn_like(inputs)
    v = [torch.randn_like(p) for p in params]
    g = torch.autograd.grad(F.mse_loss(model(inputs), targets), params, create_graph=True, materialize_grads=True)
    reference = torch.autograd.grad(g, params, v, materialize_grads=True)
    found = hvp(Objective(model, F.mse_loss)(inputs, targets, noise=0), params, v)
    torch.testing.assert_close(found, list(reference), rtol=1e-11, atol=1e-13)
    normed = Force(nn.BatchNorm2d(3)).double()
    params = list(normed.parameters())
    with pytest.raises(RuntimeError, match="does not support 3rd"):
        hvp(Objective(normed, F.mse_loss)(inputs, targets, noise=0), params, params)


def test_layers_that_ours_are_not_for_are_torchs() -> None:
    """Inside of torch.func, and complex."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 2, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            each = torch.vmap(self.conv)(x)
            whole = F.conv1d(x.to(torch.complex128), self.conv.weight.to(torch.complex128))
            return (each + whole.abs()).mean(dim=(1, 2), keepdim=True)

    torch.manual_seed(0)
    model, inputs = Odd(), torch.randn(4, 1, 6, dtype=torch.float64)
    params, targets = list(model.parameters()), torch.randn(4, 1, 1, dtype=torch.float64)
    g = torch.autograd.grad(F.mse_loss(model(inputs), targets), params, create_graph=True)
    reference = torch.autograd.grad(g, params, params)
    found = hvp(Objective(model, F.mse_loss)(inputs, targets, noise=0), params, params)
    torch.testing.assert_close(found, list(reference), rtol=1e-11, atol=1e-13)


def test_under_autocast() -> None:
    """Values as torch's, and gradients in the dtypes of the weights."""
    model = network()
    inputs = torch.randn(3, 2, 5, 5)
    gradients = []
    for ours in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            outputs = twice(model)(inputs) if ours else model(inputs)
        gradients.append([outputs.detach(), *torch.autograd.grad(outputs.float().square().mean(), model.parameters())])
    for theirs, found in zip(*gradients, strict=True):
        assert found.dtype == theirs.dtype
        torch.testing.assert_close(found, theirs, rtol=0.02, atol=0.001)


@pytest.mark.parametrize("last", [1, 2, 5])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_products_of_a_checkpointed_block(last: int, mode: str) -> None:
    """Autograd repeats its forward with torch's own layers, also where the block ends with a batch norm."""

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner[last:](checkpoint(self.inner[:last], x, use_reentrant=False))

    model, batch = Checkpointed().train(mode == "train"), (drawn(3, 2, 5, 5).detach(), torch.randint(36, (3,)))
    v = [torch.randn_like(p) for p in model.parameters()]
    plain = Objective(model.inner, F.cross_entropy)(*batch, noise=0)
    oracle = Objective(model, F.cross_entropy)(*batch, noise=0)
    product = hessian(oracle, list(model.parameters()))
    for _ in range(2):
        torch.testing.assert_close(product(v), hvp(plain, list(model.inner.parameters()), v), rtol=1e-12, atol=1e-14)
