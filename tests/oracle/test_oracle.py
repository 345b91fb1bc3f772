"""The oracle against dense derivatives, finite differences and plain forwards."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import Criterion, Dense, flat, smoothed, squared
from torch import Tensor, nn

from sam_repro.oracle import Buffers, Objective, Oracle
from sam_repro.oracle.products import ggn_vp, hvp, vjp
from sam_repro.vectors import Vector

pytestmark = pytest.mark.usefixtures("float64")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


def data(size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 5, generator=generator), torch.randint(3, (size,), generator=generator)


def random_like(params: list[Tensor]) -> Vector:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(p.shape, generator=generator) for p in params]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("criterion", [F.cross_entropy, smoothed, squared])
def test_products_equal_the_dense_matrices(criterion: Criterion, training: bool, decay: float) -> None:
    model = network()
    model(data(20)[0])
    model.train(training)
    params = list(model.parameters())
    v = random_like(params)
    oracle = Objective(model, criterion, weight_decay=decay)(*data())
    dense = Dense(model, criterion, *data())
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-13)
    close(flat(oracle.gradient(params).vector), dense.gradient() + decay * dense.w)
    close(flat(hvp(oracle, params, v)), dense.hessian() @ flat(v) + decay * flat(v))
    close(flat(ggn_vp(oracle, params, v)), dense.gauss_newton() @ flat(v) + decay * flat(v))
    u = torch.linspace(-1, 1, 24).view(8, 3)
    close(flat(vjp(oracle, params, u)), torch.einsum("bc,bcn->n", u, dense.jacobian()))


def test_products_over_some_parameters_are_blocks() -> None:
    model = network()
    head = list(model[3].parameters())
    v = random_like(head)
    size = sum(p.numel() for p in head)
    oracle, dense = Objective(model, F.cross_entropy)(*data()), Dense(model, F.cross_entropy, *data())
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-13)
    close(flat(hvp(oracle, head, v)), dense.hessian()[-size:, -size:] @ flat(v))
    close(flat(ggn_vp(oracle, head, v)), dense.gauss_newton()[-size:, -size:] @ flat(v))


def test_decay_by_parameter() -> None:
    model = network()
    params = list(model.parameters())
    v = random_like(params)
    decays = {params[0]: 0.5, params[4]: 0.1}
    plain = Objective(model, F.cross_entropy)(*data())
    decayed = Objective(model, F.cross_entropy, weight_decay=decays)(*data())
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
        self.body, self.unused = network(), nn.Linear(2, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.square(self.body(inputs)))


def test_gauss_newton_without_forward_mode_is_the_same() -> None:
    products = []
    for square in (torch.square, Square.apply):
        model = Squaring(square)
        params = list(model.parameters())
        torch.manual_seed(3)
        oracle = Objective(model, F.cross_entropy)(*data())
        products.append(flat(ggn_vp(oracle, params, random_like(params))))
        assert model.body[1].num_batches_tracked == 0
    torch.testing.assert_close(*products, rtol=1e-12, atol=1e-15)
    with pytest.raises(NotImplementedError):
        torch.func.jvp(Square.apply, (torch.ones(1),), (torch.ones(1),))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.unused = network(), nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs)


def test_unused_parameters_have_zero_products() -> None:
    model = Unused()
    params = list(model.parameters())
    v = random_like(params)
    oracle = Objective(model, F.cross_entropy)(*data())
    for vector in (oracle.gradient(params).vector, hvp(oracle, params, v), ggn_vp(oracle, params, v)):
        for p, tensor in zip(params[-2:], vector[-2:], strict=True):
            assert torch.equal(tensor, torch.zeros_like(p))
        assert all(tensor.abs().sum() > 0 for tensor in (vector[0], vector[5]))
    assert oracle.gradient(params).given == [True] * 6 + [False] * 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(inputs)))))


def test_products_with_tied_weights() -> None:
    model = Tied()
    params = list(model.parameters())
    v = random_like(params)
    oracle, dense = Objective(model, F.cross_entropy)(*data()), Dense(model, F.cross_entropy, *data())
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-13)
    close(flat(hvp(oracle, params, v)), dense.hessian() @ flat(v))
    close(flat(ggn_vp(oracle, params, v)), dense.gauss_newton() @ flat(v))


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
    model = network()
    model[1].momentum = momentum
    model(data(20)[0])
    params = list(model.parameters())
    for p in params:
        p.grad = torch.ones_like(p)
    before = copy.deepcopy(model.state_dict())
    result = answers(Objective(model, F.cross_entropy)(*data()), params)[answer]()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model[1].track_running_stats
    if answer != "second pass":  # a pass hands the gradients out
        assert all(torch.equal(p.grad, torch.ones_like(p)) for p in params)
    tensors = result if isinstance(result, list) else [result] if isinstance(result, Tensor) else result.vector
    assert not any(tensor.requires_grad for tensor in tensors)


class Sharing(nn.Module):
    """Autograd gives `summed` one number with stride 0, and `left` and `right` the same storage."""

    def __init__(self) -> None:
        super().__init__()
        self.summed, self.left, self.right = (nn.Parameter(torch.arange(5.0)) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ (self.left + self.right) + self.summed.sum()


def test_products_are_in_storage_of_their_own() -> None:
    model = Sharing()
    params = list(model.parameters())
    oracle, v = Objective(model, lambda z, _: z.square().mean())(*data()), random_like(params)
    for product in (hvp(oracle, params, v), ggn_vp(oracle, params, v)):
        assert all(tensor.stride() == p.stride() for tensor, p in zip(product, params, strict=True))
        assert len({tensor.untyped_storage().data_ptr() for tensor in product}) == len(params)


def noisy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 3))


class Attention(nn.Module):
    """Self-attention over the five numbers of an input, in either of torch's forms."""

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
    "make", [noisy, lambda: Attention("module"), lambda: Attention("function")], ids=["dropout", "module", "function"]
)
def test_hvp_differentiates_the_gradient_of_the_same_noise(make: Callable[[], nn.Module]) -> None:
    model = make()
    params = list(model.parameters())
    v = random_like(params)
    oracle = Objective(model, F.cross_entropy)(*data(), noise=5)
    numeric = finite_difference(oracle, params, v)
    torch.testing.assert_close(flat(hvp(oracle, params, v)), numeric, rtol=1e-6, atol=1e-8)


def test_gauss_newton_through_attention() -> None:
    model = Attention("module")
    params = list(model.parameters())
    v = random_like(params)
    dense = Dense(model, F.cross_entropy, *data())
    product = ggn_vp(Objective(model, F.cross_entropy)(*data()), params, v)
    torch.testing.assert_close(flat(product), dense.gauss_newton() @ flat(v), rtol=1e-10, atol=1e-13)


def test_gradient_of_a_pass() -> None:
    model = network()
    params = list(model.parameters())
    inputs, targets = data()
    loss = F.cross_entropy(outputs := copy.deepcopy(model)(inputs), targets)
    term = Objective(model, F.cross_entropy)(inputs, targets).gradient(params)
    assert torch.equal(term.loss, loss)
    assert torch.equal(term.outputs, outputs)
    assert not any(tensor.requires_grad for tensor in (term.loss, term.outputs))
    assert all(p.grad is None for p in params)
    assert model[1].num_batches_tracked == 1


# Parts


@pytest.mark.parametrize(
    ("m", "sizes"), [(None, [8]), (8, [8]), (4, [4, 4]), (3, [3, 3, 2]), (7, [7, 1]), (1, [1] * 8)]
)
def test_split(m: int | None, sizes: list[int]) -> None:
    inputs, targets = data()
    parts = Objective(network(), F.cross_entropy)(inputs, targets, noise=3, rows=torch.arange(8)).split(m)
    assert [len(part.targets) for part in parts] == sizes
    assert [part.share for part in parts] == pytest.approx([size / 8 for size in sizes])
    assert torch.equal(torch.cat([part.inputs for part in parts]), inputs)
    assert torch.equal(torch.cat([part.targets for part in parts]), targets)
    assert torch.equal(torch.cat([part.rows for part in parts]), torch.arange(8))
    assert [part.noise for part in parts] == [3 + k for k in range(len(parts))]
    assert {part.shared_noise for part in parts} == {3}


@pytest.mark.parametrize("m", [0, -1, 9, 2.0, 2.5, True, "4"])
def test_m_out_of_range_is_refused(m: Any) -> None:
    with pytest.raises(ValueError, match=r"m = .*: must be an integer >= 1 and <= 8"):
        Objective(network(), F.cross_entropy)(*data()).split(m)


def test_mean_over_parts_is_the_gradient_of_the_batch_without_batch_norm() -> None:
    model = Tied()
    params = list(model.parameters())
    oracle = Objective(model, F.cross_entropy)(*data())
    terms = [(part.share, part.gradient(params).vector) for part in oracle.parts(3)]
    mean = sum(share * flat(vector) for share, vector in terms)
    torch.testing.assert_close(mean, flat(oracle.gradient(params).vector), rtol=1e-12, atol=1e-15)


# Refusals


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"autocast = float16: not supported.*bfloat16"):
        Objective(network(), F.cross_entropy, autocast=torch.float16)


@pytest.mark.parametrize("answer", ["hvp", "ggn_vp", "second pass"])
def test_float16_of_the_caller_is_refused(answer: str) -> None:
    model = network()
    ask = answers(Objective(model, F.cross_entropy)(*data()), list(model.parameters()))[answer]
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match="autocast = float16"):
        ask()
    ask()
    with torch.autocast("cpu", torch.float16, enabled=False):
        ask()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_norm_statistics": "last"}, "batch_norm_statistics = last: must be one of mean, first, both"),
        ({"weight_decay": float("nan")}, "weight_decay = nan: must be a finite number >= 0"),
        ({"weight_decay": {"a weight": -1.0}}, r"weight_decay = -1.0: must be a finite number >= 0"),
        ({"same_noise": "no"}, "same_noise = no: must be true or false"),
        ({"compile": "no"}, "compile = no: must be true or false"),
        ({"compiled_examples": 0}, "compiled_examples = 0: must be an integer >= 1"),
    ],
)
def test_bad_settings_of_an_objective_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Objective(network(), F.cross_entropy, **settings)


# Batch norm


def buffers_of(model: nn.Module) -> Buffers:
    return Objective(model, F.cross_entropy).buffers()


def test_blocks_that_hold_buffers_may_be_nested_and_restore_each_flag() -> None:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.BatchNorm1d(5), nn.BatchNorm1d(5, momentum=None))
    model[1].track_running_stats = False
    buffers = buffers_of(model)
    before = copy.deepcopy(model.state_dict())
    flags = [True, False, True]
    inputs, _ = data()
    expected = copy.deepcopy(model)(inputs)
    with buffers.held():
        with buffers.held():
            assert torch.equal(model(inputs), expected)
        assert torch.equal(model(inputs), expected)
        assert not any(layer.track_running_stats for layer in model)
    assert [layer.track_running_stats for layer in model] == flags
    with pytest.raises(MemoryError), buffers.held():
        raise MemoryError
    assert [layer.track_running_stats for layer in model] == flags
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [layer.momentum for layer in model] == [0.1, 0.1, None]


def test_held_in_evaluation_mode_normalises_by_the_running_statistics() -> None:
    model = network()
    model(data(20)[0])
    model.eval()
    inputs, _ = data()
    expected = model(inputs)
    with buffers_of(model).held():
        assert torch.equal(model(inputs), expected)


def test_statistics_are_averaged_where_they_lie() -> None:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False), nn.SyncBatchNorm(5))
    model.append(model[0])  # once more
    buffers = buffers_of(model)
    assert set(buffers.norms) == {model[0], model[2]}
    assert len(buffers.norms) == 2
    addresses = [value.data_ptr() for value in buffers.values]
    for part in buffers.averaged(Objective(model, F.cross_entropy)(*data()).split(2)):
        assert model[0].num_batches_tracked == 0
        model[0](part.inputs)
    assert model[0].num_batches_tracked == 1
    assert [value.data_ptr() for value in buffers.values] == addresses
    assert list(buffers_of(nn.Linear(2, 2)).averaged([])) == []


def test_products_over_weights_that_the_outputs_do_not_depend_on_are_zero() -> None:
    model = nn.ModuleDict({"used": network(), "unused": nn.Linear(5, 3)})
    model.forward = model["used"].forward
    params = list(model["unused"].parameters())
    oracle, v = Objective(model, F.cross_entropy)(*data()), random_like(params)
    for product in (hvp(oracle, params, v), ggn_vp(oracle, params, v), oracle.gradient(params).vector):
        assert not flat(product).any()
