"""Products with the Hessian and the Gauss–Newton matrix against dense derivatives and finite differences."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import Criterion, Dense, batch, flat, normed, smoothed, squared
from torch import Tensor, nn

from sam_repro.oracle import Objective, Oracle
from sam_repro.oracle.products import ggn_vp, hvp
from sam_repro.vectors import Vector

pytestmark = pytest.mark.usefixtures("float64")


def random_like(params: list[Tensor]) -> Vector:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(p.shape, generator=generator) for p in params]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("criterion", [F.cross_entropy, smoothed, squared])
def test_products_equal_the_dense_matrices(criterion: Criterion, training: bool, decay: float) -> None:
    model = normed()
    model(batch(size=20)[0])
    model.train(training)
    params = list(model.parameters())
    v = random_like(params)
    oracle = Objective(model, criterion, weight_decay=decay)(*batch(size=8))
    dense = Dense(model, criterion, *batch(size=8))
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-13)
    close(flat(oracle.gradient(params).vector), dense.gradient() + decay * dense.w)
    close(flat(hvp(oracle, params, v)), dense.hessian() @ flat(v) + decay * flat(v))
    close(flat(ggn_vp(oracle, params, v)), dense.gauss_newton() @ flat(v) + decay * flat(v))


def test_products_over_some_parameters_are_blocks() -> None:
    model = normed()
    head = list(model[4].parameters())
    v = random_like(head)
    size = sum(p.numel() for p in head)
    oracle, dense = Objective(model, F.cross_entropy)(*batch(size=8)), Dense(model, F.cross_entropy, *batch(size=8))
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-13)
    close(flat(hvp(oracle, head, v)), dense.hessian()[-size:, -size:] @ flat(v))
    close(flat(ggn_vp(oracle, head, v)), dense.gauss_newton()[-size:, -size:] @ flat(v))


def test_decay_by_parameter() -> None:
    model = normed()
    params = list(model.parameters())
    v = random_like(params)
    decays = {params[0]: 0.5, params[4]: 0.1}
    plain = Objective(model, F.cross_entropy)(*batch(size=8))
    decayed = Objective(model, F.cross_entropy, weight_decay=decays)(*batch(size=8))
    for with_decay, without, direction in (
        (decayed.gradient(params).vector, plain.gradient(params).vector, params),
        (hvp(decayed, params, v), hvp(plain, params, v), v),
        (ggn_vp(decayed, params, v), ggn_vp(plain, params, v), v),
    ):
        for a, b, p, d in zip(with_decay, without, params, direction, strict=True):
            torch.testing.assert_close(a, b + decays.get(p, 0.0) * d, rtol=1e-14, atol=1e-16)


class Square(torch.autograd.Function):
    """x² without a forward-mode derivative."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * slope


class Squaring(nn.Module):
    """A network that squares, with dropout, batch norm and an unused layer; `square` is one of two ways to do it."""

    def __init__(self, square: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.square = square
        self.body, self.unused = normed(), nn.Linear(2, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.square(self.body(inputs)))


def test_gauss_newton_without_forward_mode_is_the_same() -> None:
    products = []
    for square in (torch.square, Square.apply):
        model = Squaring(square)
        params = list(model.parameters())
        torch.manual_seed(3)
        oracle = Objective(model, F.cross_entropy)(*batch(size=8))
        products.append(flat(ggn_vp(oracle, params, random_like(params))))
        assert model.body[1].num_batches_tracked == 0
    torch.testing.assert_close(*products, rtol=1e-12, atol=1e-15)
    with pytest.raises(NotImplementedError):
        torch.func.jvp(Square.apply, (torch.ones(1),), (torch.ones(1),))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.unused = normed(), nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs)


def test_unused_parameters_have_zero_products() -> None:
    model = Unused()
    params = list(model.parameters())
    v = random_like(params)
    oracle = Objective(model, F.cross_entropy)(*batch(size=8))
    for vector in (oracle.gradient(params).vector, hvp(oracle, params, v), ggn_vp(oracle, params, v)):
        for p, tensor in zip(params[-2:], vector[-2:], strict=True):
            assert torch.equal(tensor, torch.zeros_like(p))
        assert all(tensor.abs().sum() > 0 for tensor in (vector[0], vector[5]))
    assert oracle.gradient(params).given == [True] * 6 + [False] * 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(inputs)))))


def test_products_with_tied_weights() -> None:
    model = Tied()
    params = list(model.parameters())
    v = random_like(params)
    oracle, dense = Objective(model, F.cross_entropy)(*batch(size=8)), Dense(model, F.cross_entropy, *batch(size=8))
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-13)
    close(flat(hvp(oracle, params, v)), dense.hessian() @ flat(v))
    close(flat(ggn_vp(oracle, params, v)), dense.gauss_newton() @ flat(v))


def test_products_over_weights_that_the_outputs_do_not_depend_on_are_zero() -> None:
    model = nn.ModuleDict({"used": normed(), "unused": nn.Linear(6, 3)})
    model.forward = model["used"].forward
    params = list(model["unused"].parameters())
    oracle, v = Objective(model, F.cross_entropy)(*batch(size=8)), random_like(params)
    for product in (hvp(oracle, params, v), ggn_vp(oracle, params, v), oracle.gradient(params).vector):
        assert not flat(product).any()


def answers(oracle: Oracle, params: list[Tensor]) -> dict[str, Callable[[], Any]]:
    v = random_like(params)
    return {
        "hvp": lambda: hvp(oracle, params, v),
        "ggn_vp": lambda: ggn_vp(oracle, params, v),
        "second pass": lambda: oracle.gradient(params, update_statistics=False),
    }


@pytest.mark.parametrize("answer", ["hvp", "ggn_vp", "second pass"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_buffers_weights_and_gradients_are_left_alone(answer: str, momentum: float | None) -> None:
    model = normed()
    model[1].momentum = momentum
    model(batch(size=20)[0])
    params = list(model.parameters())
    for p in params:
        p.grad = torch.ones_like(p)
    before = copy.deepcopy(model.state_dict())
    result = answers(Objective(model, F.cross_entropy)(*batch(size=8)), params)[answer]()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model[1].track_running_stats
    if answer != "second pass":  # a pass hands the gradients out
        assert all(torch.equal(p.grad, torch.ones_like(p)) for p in params)
    tensors = result if isinstance(result, list) else [result] if isinstance(result, Tensor) else result.vector
    assert not any(tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize("answer", ["hvp", "ggn_vp", "second pass"])
def test_float16_of_the_caller_is_refused(answer: str) -> None:
    model = normed()
    ask = answers(Objective(model, F.cross_entropy)(*batch(size=8)), list(model.parameters()))[answer]
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match="autocast = float16"):
        ask()
    ask()
    with torch.autocast("cpu", torch.float16, enabled=False):
        ask()


class Sharing(nn.Module):
    """Autograd gives `summed` one number with stride 0, and `left` and `right` the same storage."""

    def __init__(self) -> None:
        super().__init__()
        self.summed, self.left, self.right = (nn.Parameter(torch.arange(6.0)) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ (self.left + self.right) + self.summed.sum()


def test_products_are_in_storage_of_their_own() -> None:
    model = Sharing()
    params = list(model.parameters())
    oracle, v = Objective(model, lambda z, _: z.square().mean())(*batch(size=8)), random_like(params)
    for product in (hvp(oracle, params, v), ggn_vp(oracle, params, v)):
        assert all(tensor.stride() == p.stride() for tensor, p in zip(product, params, strict=True))
        assert len({tensor.untyped_storage().data_ptr() for tensor in product}) == len(params)


class Attention(nn.Module):
    """Self-attention over the six numbers of an input, in either of torch's forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.embed, self.head = nn.Linear(1, 4), nn.Linear(4, 3)
        self.layer = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.embed(inputs[..., None])
        if self.form == "module":
            x, _ = self.layer(x, x, x, need_weights=False)
        else:
            x = F.scaled_dot_product_attention(x, torch.tanh(x), x)
        return self.head(x.mean(1))


def finite_difference(oracle: Oracle, params: list[Tensor], v: Vector, h: float = 1e-5) -> Tensor:
    """(∇L(w + hv) − ∇L(w − hv))/2h."""
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            torch._foreach_add_(params, v, alpha=sign * h)
        sides.append(flat(oracle.gradient(params, update_statistics=False).vector))
        with torch.no_grad():
            torch._foreach_add_(params, v, alpha=-sign * h)
    return (sides[0] - sides[1]) / (2 * h)


@pytest.mark.parametrize(
    "make",
    [partial(normed, 0.4), lambda: Attention("module"), lambda: Attention("function")],
    ids=["dropout", "module", "function"],
)
def test_hvp_differentiates_the_gradient_of_the_same_noise(make: Callable[[], nn.Module]) -> None:
    model = make()
    params = list(model.parameters())
    v = random_like(params)
    oracle = Objective(model, F.cross_entropy)(*batch(size=8), noise=5)
    numeric = finite_difference(oracle, params, v)
    torch.testing.assert_close(flat(hvp(oracle, params, v)), numeric, rtol=1e-6, atol=1e-8)


def test_gauss_newton_through_attention() -> None:
    model = Attention("module")
    params = list(model.parameters())
    v = random_like(params)
    dense = Dense(model, F.cross_entropy, *batch(size=8))
    product = ggn_vp(Objective(model, F.cross_entropy)(*batch(size=8)), params, v)
    torch.testing.assert_close(flat(product), dense.gauss_newton() @ flat(v), rtol=1e-10, atol=1e-13)
