"""Eigenvalues against known spectra, whole Hessians, curvlinops with eigsh, and PyHessian."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import nn
from toys import dense, drawn, images, inputs_of, make_subject

from sam_repro.sharpness import Curvature, Hessian, LambdaMax, Notes, Unmeasurable, undisturbed
from sam_repro.sharpness.density import density
from sam_repro.sharpness.lanczos import quadrature, top
from sam_repro.sharpness.power import top_by_power
from sam_repro.sharpness.trace import hutchpp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from curvlinops import HessianLinearOperator
    from pyhessian import hessian as PyHessian


def operator(eigenvalues, size=60, dtype=torch.float64):
    """A matrix with these eigenvalues, the others 0."""
    eigenvalues = torch.tensor([*eigenvalues, *[0.0] * (size - len(eigenvalues))], dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))
    matrix = ((q * eigenvalues) @ q.T).to(dtype)
    return lambda v: matrix @ v


SPECTRA = {
    "separated": [50, 20, 8, 3, 1, 0.5, -2],
    "negative": list(-np.linspace(1, 9, 60)),
    "mostly negative": [-30, -20, -10, -5, 1],
    "every eigenvalue twice": [10, 10, 9, 9, 4, 4, 1, 1],
    "three times the same": [10, 10, 10, 9, 1, -12],
    "a cluster": [10, 10.0001, 9.9999, 9, 8.9999, 3, -1],
    "a band": list(np.linspace(1, 2, 60)),
    "of low rank": [3, 2],
    "zero": [],
}


@pytest.mark.parametrize("order", ["algebraic", "magnitude"])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", [0, 1])
def test_known_spectra_copies_included(name, order, seed):
    known = np.array([*SPECTRA[name], *[0.0] * (60 - len(SPECTRA[name]))], dtype=float)
    expected = known[np.argsort(-(np.abs(known) if order == "magnitude" else known), kind="stable")][:5]
    found = top(operator(SPECTRA[name]), drawn(60, seed), 5, order=order, tolerance=1e-9, max_products=1000)
    assert all(found.converged)
    assert found.searched
    np.testing.assert_allclose(found.values, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", SPECTRA)
def test_a_value_is_as_near_to_an_eigenvalue_as_its_residual_says(name):
    found = top(operator(SPECTRA[name], dtype=torch.float32), drawn(60, dtype=torch.float32), 5)
    known = np.array([*SPECTRA[name], 0.0])
    scale = np.abs(known).max()
    for value, residual, converged in zip(found.values, found.residuals, found.converged, strict=True):
        assert np.abs(known - value).min() <= residual + 1e-5 * scale
        assert converged == (residual <= max(1e-3 * abs(value), 100 * 2**-23 * scale))


def test_a_budget_that_is_too_small_is_told():
    found = top(operator(SPECTRA["a band"]), drawn(60), 5, max_products=9)
    assert found.products == 9
    assert not any(found.converged)
    assert not found.searched
    ended = top(operator(SPECTRA["separated"]), drawn(60), 5, max_products=9)
    assert all(ended.converged)
    assert not ended.searched  # nothing was left to look for more
    measured = LambdaMax(max_products=2)(make_subject(trained()), Notes())
    assert measured.values.keys() == {"lambda_max_unconverged"}
    assert measured.protocol["outcome"]["converged"] == [False]


def test_the_same_seed_gives_the_same_bits():
    first, second = (top(operator(SPECTRA["a band"]), drawn(60, 3), 5) for _ in range(2))
    assert first == second
    assert first != top(operator(SPECTRA["a band"]), drawn(60, 4), 5)


def test_more_than_there_is_and_nonsense_are_refused():
    for words in ({"count": 61}, {"count": 0}, {"order": "best"}, {"tolerance": 0}, {"max_products": 0}):
        with pytest.raises(ValueError, match="must be"):
            top(operator([1]), drawn(60), **{"count": 5} | words)
    assert top(operator([2, 1], 2), drawn(2), 2).values == pytest.approx([2, 1])


@pytest.mark.parametrize("solve", [top, top_by_power])
def test_a_product_that_is_not_finite_is_refused(solve):
    with pytest.raises(Unmeasurable, match="a Hessian product is not finite"):
        solve(lambda v: v * math.nan, drawn(60), 2)


class Small(nn.Module):
    """A convolutional network in float64, fitted to made-up labels: 227 weights and a spectrum with a tail."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3, 2)
        ).double()

    def forward(self, x):
        return self.body(x)


def trained():
    model = Small()
    pixels = images(40)
    labels = (pixels.float().mean((1, 2, 3)) > 128).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs_of(pixels).double()), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def fitted():
    """(model, batches, whole Hessian)."""
    model = trained()
    pixels = images(40)
    labels = (pixels.float().mean((1, 2, 3)) > 128).long()
    batches = [(x.double(), y) for x, y in zip(inputs_of(pixels).split(15), labels.split(15), strict=True)]
    return model, batches, dense(model, batches)


@pytest.mark.parametrize("order", ["algebraic", "magnitude"])
def test_against_the_whole_hessian(fitted, order):
    model, batches, whole = fitted
    known = torch.linalg.eigvalsh(whole)
    known = known[torch.argsort(known.abs() if order == "magnitude" else known, descending=True)][:5]
    with undisturbed(model):
        curvature = Curvature(model, F.cross_entropy, batches)
        found = top(curvature.hvp, drawn(curvature.size), 5, order=order, tolerance=1e-7)
    np.testing.assert_allclose(found.values, known, rtol=1e-6)
    assert found.products < 60


def test_against_curvlinops_and_eigsh(fitted):
    model, batches, _ = fitted
    theirs = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), batches).to_scipy()
    expected = np.sort(eigsh(theirs, k=5, which="LA", tol=1e-10, return_eigenvectors=False))[::-1]
    with undisturbed(model):
        curvature = Curvature(model, F.cross_entropy, batches)
        found = top(curvature.hvp, drawn(curvature.size), 5, tolerance=1e-8)
    np.testing.assert_allclose(found.values, expected, rtol=1e-8)


def test_against_pyhessian_which_returns_the_largest_by_absolute_value(fitted):
    model, batches, _ = fitted
    theirs, _ = PyHessian(model, nn.CrossEntropyLoss(), dataloader=batches, cuda=False).eigenvalues(
        maxIter=2000, tol=1e-9, top_n=2
    )
    model.zero_grad()
    with undisturbed(model):
        curvature = Curvature(model, F.cross_entropy, batches)
        found = top(curvature.hvp, drawn(curvature.size), 2, order="magnitude", tolerance=1e-8)
    np.testing.assert_allclose(found.values, theirs, rtol=1e-5)


def test_the_power_iteration_is_pyhessians(fitted):
    """Both from start vectors of their own, so only as near as the stopping rule leaves them."""
    model, batches, whole = fitted
    theirs, _ = PyHessian(model, nn.CrossEntropyLoss(), dataloader=batches, cuda=False).eigenvalues(top_n=2)
    model.zero_grad()
    with undisturbed(model):
        curvature = Curvature(model, F.cross_entropy, batches)
        found = top_by_power(curvature.hvp, drawn(curvature.size), 2)
    np.testing.assert_allclose(found.values, theirs, rtol=1e-2)
    known = torch.linalg.eigvalsh(whole)
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert (known - value).abs().min() <= residual * (1 + 1e-9)


def test_the_power_iteration_says_where_it_was_cut():
    found = top_by_power(operator(SPECTRA["a band"]), drawn(60), 3, iterations=5)
    assert (found.products, found.converged) == (15, [False] * 3)
    exact = top_by_power(operator([-8, 4, 2]), drawn(60), 3, tolerance=1e-14)
    np.testing.assert_allclose(exact.values, [-8, 4, 2], rtol=1e-9)
    assert all(exact.converged)
    nothing = top_by_power(operator([]), drawn(60), 2)
    assert (nothing.values, nothing.converged, nothing.products) == ([0, 0], [True] * 2, 2)


def signs(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randint(2, (size,), generator=generator).double() * 2 - 1


def test_the_trace_is_within_its_standard_error(fitted):
    """The standard error is of 10 samples: Student's distribution with 9 degrees of freedom."""
    _, _, whole = fitted
    true = float(whole.trace())
    told = [hutchpp(lambda v: whole @ v, signs(len(whole), seed), 30) for seed in range(300)]
    off = np.array([(estimate - true) / error for estimate, error in told])
    assert abs(np.mean([estimate for estimate, _ in told]) - true) < 4 * np.std([e for e, _ in told]) / math.sqrt(300)
    assert 0.91 < (np.abs(off) < 2.262).mean() < 0.98
    assert max(error for _, error in told) < 0.2 * true


def test_the_trace_of_few_weights_is_exact():
    assert hutchpp(operator([3, 2, -4], 5), signs(5, 0), 30) == pytest.approx((1.0, 0.0))
    with pytest.raises(ValueError, match="products = 5"):
        hutchpp(operator([1]), signs(60, 0), 5)


def test_the_density_is_within_its_standard_error(fitted):
    _, _, whole = fitted
    known, width = torch.linalg.eigvalsh(whole).numpy(), 0.05
    random = drawn(len(whole), 1)
    probes = [quadrature(lambda v: whole @ v, random(), 60) for _ in range(100)]
    x, p, error = density(probes, 300, width)
    nodes = np.concatenate([nodes for nodes, _ in probes])
    sigma = width * (nodes.max() - nodes.min())
    true = np.exp(-0.5 * ((x[:, None] - known) / sigma) ** 2).mean(axis=1) / (sigma * math.sqrt(2 * math.pi))
    assert (np.abs(p - true) <= 2 * error + 1e-9).mean() > 0.9
    assert (np.abs(p - true) <= 4 * error + 1e-9).all()
    assert np.trapezoid(p, x) == pytest.approx(1, abs=1e-3)
    assert error.max() < 0.2 * p.max()


def test_a_quadrature_is_exact_where_the_space_is_exhausted():
    matrix = torch.diag(torch.tensor([3.0, 3.0, 1.0, -2.0], dtype=torch.float64))
    v = torch.tensor([1.0, 1.0, 2.0, 0.5], dtype=torch.float64)
    nodes, weights = quadrature(lambda u: matrix @ u, v, 50)
    np.testing.assert_allclose(nodes, [-2, 1, 3], atol=1e-12)
    np.testing.assert_allclose(weights, np.array([0.25, 4, 2]) / 6.25, atol=1e-12)


def test_the_measure_of_the_hessian(fitted):
    model, _, _ = fitted
    subject = make_subject(model)
    whole = dense(model, [(x.double(), y) for x, y in subject.sample(40, 40, 0)])
    known = torch.linalg.eigvalsh(whole).flip(0)[:5].tolist()
    measured = Hessian(tolerance=1e-7, probes=2, steps=20)(subject, Notes())
    values = measured.values
    assert [values[f"lambda_{i}"] for i in range(1, 6)] == pytest.approx(known, rel=1e-6)
    assert values["lambda_max_over_lambda_5"] == pytest.approx(known[0] / known[4], rel=1e-6)
    assert abs(values["trace"] - float(whole.trace())) < 5 * values["trace_se"] + 1e-9
    assert {len(column) for column in measured.arrays.values()} == {400}
    layer = LambdaMax(parameters=r"body\.5", tolerance=1e-7)(subject, Notes())
    names = ["body.5.weight", "body.5.bias"]
    block = torch.linalg.eigvalsh(dense(model, [(x.double(), y) for x, y in subject.sample(40, 40, 0)], names))
    assert layer.values["lambda_max"] == pytest.approx(float(block[-1]), rel=1e-6)
    assert layer.protocol["weights"] == 8
