"""SGDHESS against dense Hessians and Gauss–Newton matrices, signs enumerated or recorded, and finite differences."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from dense import Criterion, Dense, convolutional, flat, images, smoothed, squared
from torch import Tensor, nn

from sam_repro.optimizer import SGD, SGDHess
from sam_repro.oracle import Objective
from sam_repro.oracle.products import ggn_diagonal
from sam_repro.vectors import Vector, rademacher

pytestmark = pytest.mark.usefixtures("float64")
BATCH, RHO = 8, 0.7
PRODUCTS, DIAGONALS = ("gauss_newton", "hessian"), ("gauss_newton_diagonal", "hutchinson_abs")
every_curvature = pytest.mark.parametrize("curvature", PRODUCTS + DIAGONALS)
every_diagonal = pytest.mark.parametrize("curvature", DIAGONALS)
weighted = partial(F.cross_entropy, weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=1e-2)


# Against dense matrices


class Softmax(Dense):
    """Where the loss is a cross-entropy."""

    def softmax_curvature(self) -> Tensor:
        """diag(p) − ppᵀ of each example: the Hessian of a cross-entropy, whatever its targets."""
        p = self.outputs(self.w).softmax(1)
        return torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)

    def rooted_diagonal(self, u: Tensor) -> Tensor:
        """(Σ_i J_iᵀ L_i^½ u_i / √B)², the root taken where L has full rank: across (1, 1, 1)."""
        across = torch.linalg.svd(torch.ones(1, 3))[2][1:].T
        values, vectors = torch.linalg.eigh(across.T @ self.softmax_curvature() @ across)
        inner = vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT
        pulled = torch.einsum("bcp,bcd,bd->p", self.jacobian(), across @ inner @ across.T, u)
        return (pulled / len(u) ** 0.5).square()


def spatial_means(model: nn.Module, row: Tensor) -> Tensor:
    """Kernels of four dimensions averaged over space, number by number."""
    out = []
    for piece, p in zip(row.split([p.numel() for p in model.parameters()]), model.parameters(), strict=True):
        tensor = piece.view_as(p).clone()
        if p.ndim == 4:
            height, width = p.shape[2:]
            for i, j in itertools.product(range(p.shape[0]), range(p.shape[1])):
                total = sum(piece.view_as(p)[i, j, y, x] for y in range(height) for x in range(width))
                tensor[i, j] = total / (height * width)
        out.append(tensor)
    return flat(out)


@every_curvature
@pytest.mark.parametrize("m", [None, BATCH // 2, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("criterion", [F.cross_entropy, smoothed])
def test_gradient_equals_the_dense_one(
    curvature: str, m: int | None, training: bool, criterion: Criterion, drawn: list[Vector]
) -> None:
    model = convolutional()
    model(images(20)[0])
    model.train(training)
    parts = [Softmax(model, criterion, x, y) for x, y in zip(*(t.split(m or BATCH) for t in images()), strict=True)]
    rule = SGDHess(sgd(model), rho=RHO, curvature=curvature)
    rule.backward(Objective(model, criterion)(*images()), m=m)

    def curved(k: int, part: Dense) -> Tensor:
        if curvature == "gauss_newton":
            weighted = part.softmax_curvature() / len(part.targets)
            return torch.einsum("bcp,bcd,bdq,q->p", part.jacobian(), weighted, part.jacobian(), part.gradient())
        if curvature == "hessian":
            return part.hessian() @ part.gradient()
        if curvature == "gauss_newton_diagonal":
            return part.rooted_diagonal(drawn[k][0])
        return spatial_means(model, (part.hessian() @ flat(drawn[k])).abs())

    shares = [len(part.targets) / BATCH for part in parts]
    g = sum(share * part.gradient() for share, part in zip(shares, parts, strict=True))
    c = sum(share * curved(k, part) for k, (share, part) in enumerate(zip(shares, parts, strict=True)))
    expected = g + RHO * c if curvature in PRODUCTS else g * (1 + RHO * c)
    torch.testing.assert_close(flat(p.grad for p in model.parameters()), expected, rtol=1e-10, atol=1e-12)
    assert len(drawn) == (len(parts) if curvature in DIAGONALS else 0)


def all_signs(count: int) -> list[Tensor]:
    return [torch.tensor(signs) for signs in itertools.product((-1.0, 1.0), repeat=count)]


def mean_over_all_signs(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, criterion: Criterion, inputs: Tensor, targets: Tensor, count: int
) -> Tensor:
    """The expectation of the estimate of diag G, exactly."""
    oracle = Objective(model, criterion)(inputs, targets)
    params = list(model.parameters())
    total = torch.zeros(sum(p.numel() for p in params))
    for signs in all_signs(count):
        monkeypatch.setattr("sam_repro.oracle.products.rademacher", lambda like, u=signs: [u.view_as(like[0])])
        total += flat(ggn_diagonal(oracle, params))
    return total / 2**count


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("criterion", [F.cross_entropy, smoothed, weighted, squared])
def test_gauss_newton_diagonal_is_unbiased(
    criterion: Criterion, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = convolutional()
    model(images(20)[0])
    model.train(training)
    mean = mean_over_all_signs(monkeypatch, model, criterion, *images(2), count=6)
    diagonal = Dense(model, criterion, *images(2)).gauss_newton().diagonal()
    torch.testing.assert_close(mean, diagonal, rtol=1e-10, atol=1e-14)
    assert diagonal.max() > 1e-3


def sequence_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, torch.stack([targets % 2, targets // 2], 1))


def scalar_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, (targets > 0).double())


@pytest.mark.parametrize(
    ("criterion", "shape", "count"), [(sequence_loss, (2, 2), 8), (scalar_loss, (), 2)], ids=["sequence", "scalar"]
)
def test_gauss_newton_diagonal_of_outputs_of_any_shape(
    criterion: Criterion, shape: tuple[int, ...], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, count // 2), nn.Tanh(), nn.Unflatten(1, shape or (1,)))
    if not shape:
        model.append(nn.Flatten(0))
    mean = mean_over_all_signs(monkeypatch, model, criterion, *images(2), count=count)
    diagonal = Dense(model, criterion, *images(2)).gauss_newton().diagonal()
    torch.testing.assert_close(mean, diagonal, rtol=1e-10, atol=1e-14)


def test_gauss_newton_diagonal_leaves_the_negative_part_of_a_criterion_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """−½z₀² + ½z₁² + 0·z₂, with J the identity: diag G would be (−1, 1, 0), the estimate is (0, 1, 0)."""
    weight = nn.Parameter(torch.ones(1, 3))

    class Itself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, inputs: Tensor) -> Tensor:
            return self.weight * torch.ones(len(inputs), 1)

    def saddle(outputs: Tensor, _: Tensor) -> Tensor:
        return (outputs.square() * torch.tensor([-0.5, 0.5, 0.0])).sum(1).mean()

    mean = mean_over_all_signs(monkeypatch, Itself(), saddle, *images(1), count=3)
    torch.testing.assert_close(mean, torch.tensor([0.0, 1.0, 0.0]), rtol=1e-14, atol=0)


def test_gauss_newton_diagonal_is_unbiased_over_its_own_draws() -> None:
    model = convolutional()
    params = list(model.parameters())
    objective, (inputs, targets) = Objective(model, F.cross_entropy), images(4)
    draws = []
    for seed in range(600):
        torch.manual_seed(seed)
        draws.append(flat(ggn_diagonal(objective(inputs, targets), params)))
    sample = torch.stack(draws)
    assert sample.min() >= 0
    truth = Dense(model, F.cross_entropy, inputs, targets).gauss_newton().diagonal()
    trace = sample.sum(1)
    assert abs(trace.mean() - truth.sum()) < 3 * trace.std() / len(trace) ** 0.5
    error = (sample.mean(0) - truth).abs()
    deviations = error / (sample.std(0) / len(sample) ** 0.5).clamp(min=1e-14)
    assert deviations.max() < 4.5  # of 81 elements
    assert (deviations > 3).sum() <= 3


def test_decay_is_part_of_the_diagonal_of_the_oracle() -> None:
    model = convolutional()
    params = list(model.parameters())
    decays = {params[0]: 0.5, params[5]: 0.1}
    diagonals = []
    for decay in (0.0, decays):
        torch.manual_seed(0)
        diagonals.append(ggn_diagonal(Objective(model, F.cross_entropy, weight_decay=decay)(*images()), params))
    for b, a, p in zip(*diagonals, params, strict=True):
        torch.testing.assert_close(a, b + decays.get(p, 0.0), rtol=1e-14, atol=1e-16)


@every_diagonal
@pytest.mark.parametrize("m", [None, 3])
def test_no_factor_is_less_than_one(curvature: str, m: int | None) -> None:
    model = convolutional()
    oracle = Objective(model, F.cross_entropy)(*images())
    rule, plain = SGDHess(sgd(model), rho=RHO, curvature=curvature), SGD(sgd(model))
    plain.backward(oracle, m=m)
    g = flat(p.grad for p in rule.params)
    rule.backward(oracle, m=m)
    factors = flat(p.grad for p in rule.params) / g
    assert factors.min() >= 1
    assert factors.max() > 1.1


# Parameters of any number of dimensions


class Tokens(nn.Module):
    """A small ViT: class token and positions are parameters of three dimensions, the patches a kernel of four."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, 4, 2, stride=2)
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, 4))
        self.positions = nn.Parameter(0.1 * torch.randn(1, 5, 4))
        self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True, norm_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.patches(F.pad(inputs, (0, 1, 0, 1))).flatten(2).mT
        x = torch.cat([self.token.expand(len(inputs), -1, -1), patches], 1) + self.positions
        return self.head(self.block(x)[:, 0])


def gradient_at(model: nn.Module, move: Vector, by: float) -> Tensor:
    """∇L(w + by·move)."""
    params = list(model.parameters())
    with torch.no_grad():
        torch._foreach_add_(params, move, alpha=by)
    torch.manual_seed(0)
    g = flat(Objective(model, F.cross_entropy)(*images()).gradient(params).vector)
    with torch.no_grad():
        torch._foreach_add_(params, move, alpha=-by)
    return g


def test_transformer_against_finite_differences() -> None:
    model = Tokens()
    params = list(model.parameters())
    assert {p.ndim for p in params} == {1, 2, 3, 4}
    assert sum(p.ndim == 3 for p in params) == 2
    torch.manual_seed(0)
    oracle = Objective(model, F.cross_entropy)(*images())
    g = oracle.gradient(params).vector
    h = 1e-5
    for curvature, v in (("hessian", g), ("hutchinson_abs", rademacher(params, oracle.shared_generator()))):
        product = (gradient_at(model, v, h) - gradient_at(model, v, -h)) / (2 * h)
        SGDHess(sgd(model), rho=RHO, curvature=curvature).backward(oracle)
        ours = flat(p.grad for p in params)
        if curvature == "hessian":
            expected = flat(g) + RHO * product
        else:
            expected = flat(g) * (1 + RHO * spatial_means(model, product.abs()))
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


def test_transformer_against_a_dense_jacobian(drawn: list[Vector]) -> None:
    model = Tokens()
    model.block.dropout.p = model.block.dropout1.p = model.block.dropout2.p = model.block.self_attn.dropout = 0.0
    params = list(model.parameters())
    dense = Softmax(model, F.cross_entropy, *images())
    g = dense.gradient()
    oracle = Objective(model, F.cross_entropy)(*images())
    SGDHess(sgd(model), rho=RHO).backward(oracle)
    expected = g + RHO * dense.gauss_newton() @ g
    torch.testing.assert_close(flat(p.grad for p in params), expected, rtol=1e-10, atol=1e-13)
    SGDHess(sgd(model), rho=RHO, curvature="gauss_newton_diagonal").backward(oracle)
    expected = g * (1 + RHO * dense.rooted_diagonal(drawn[0][0]))
    torch.testing.assert_close(flat(p.grad for p in params), expected, rtol=1e-10, atol=1e-13)


@every_curvature
def test_a_layer_out_of_use_and_a_frozen_one(curvature: str) -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.unused = convolutional(), nn.Conv2d(2, 2, 2)
            self.body[0].requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.body(inputs)

    model = Partial()
    rule = SGDHess(torch.optim.SGD(model.parameters(), lr=0.1), rho=RHO, curvature=curvature)
    for m in (None, 3):
        torch.manual_seed(0)
        oracle = Objective(model, F.cross_entropy)(*images())
        rule.backward(oracle, m=m)
        assert all(p.grad is None for p in [*model.unused.parameters(), *model.body[0].parameters()])
        assert all(p.grad.abs().sum() > 0 for p in model.body[5].parameters())
        rule.base.zero_grad()
    for term in rule.terms(oracle, "refresh").values():
        assert [x.abs().sum().item() for x in term.vector[-2:]] == [0.0, 0.0]


@every_curvature
def test_channels_last_equals_contiguous(curvature: str) -> None:
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3)]
        model = nn.Sequential(*body, nn.Flatten(), nn.Linear(20, 3)).to(memory_format=layout)
        inputs = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
        rule = SGDHess(sgd(model), rho=RHO, curvature=curvature)
        torch.manual_seed(0)
        rule.backward(Objective(model, F.cross_entropy)(inputs, torch.arange(4) % 3))
        assert all(p.grad.stride() == p.stride() for p in rule.params)
        gradients.append([p.grad for p in rule.params])
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


@every_curvature
def test_reduced_precision_stays_close(curvature: str) -> None:
    gradients = []
    for autocast in (None, torch.bfloat16):
        model = convolutional(dropout=0.2).float()
        torch.manual_seed(0)
        inputs, targets = images(64)
        rule = SGDHess(sgd(model), rho=RHO, curvature=curvature)
        rule.backward(Objective(model, F.cross_entropy, autocast=autocast)(inputs.float(), targets))
        assert all(p.grad.dtype == torch.float32 for p in rule.params)
        gradients.append(flat(p.grad for p in rule.params))
    full, reduced = gradients
    assert not torch.equal(full, reduced)
    assert (full - reduced).norm() < 0.05 * full.norm()


@every_curvature
def test_diverged_weights_show_in_the_gradient(curvature: str) -> None:
    model = convolutional()
    with torch.no_grad():
        model[5].weight[0, 0] = float("inf")
    rule = SGDHess(sgd(model), rho=RHO, curvature=curvature)
    rule.backward(Objective(model, F.cross_entropy)(*images()))
    assert not flat(p.grad for p in rule.params).isfinite().all()
