"""The numbers of a step against plain recomputation, and what they may not do."""

import math

import numpy as np
import pytest
import torch

from sam_repro.optimizer import Term
from sam_repro.training.diagnostics import Diagnostics, element_shares


@pytest.fixture
def pair():
    torch.manual_seed(0)
    shapes = [(3, 4), (5,), (2, 2, 2)]
    return [torch.randn(s) for s in shapes], [torch.randn(s) for s in shapes]


def flat(vector):
    return np.concatenate([x.double().numpy().ravel() for x in vector])


def seen(g, g_s=None, losses=(1.0, 1.5)):
    terms = {"g": Term(g, loss=torch.tensor(losses[0]), outputs=torch.eye(4))}
    return terms if g_s is None else terms | {"g_s": Term(g_s, loss=torch.tensor(losses[1]), at="w+ε")}


def test_every_number_of_a_pair(pair):
    g, g_s = pair
    w = [x + 1 for x in g]
    numbers = Diagnostics(every=None)(0, seen(g, g_s), torch.tensor([0, 1, 2, 0]), w)
    a, b = flat(g), flat(g_s)
    expected = {
        "loss": 1.0,
        "error_pct": 25.0,
        "perturbed_loss": 1.5,
        "weight_norm": np.linalg.norm(flat(w)),
        "gradient_norm": np.linalg.norm(a),
        "perturbed_gradient_norm": np.linalg.norm(b),
        "gradient_cosine": a @ b / np.linalg.norm(a) / np.linalg.norm(b),
        "loss_rise": 0.5,
        "perturbed_gradient_longer_pct": 100.0 * (np.linalg.norm(b) > np.linalg.norm(a)),
    }
    assert {name: float(value) for name, value in numbers.items()} == pytest.approx(expected, rel=1e-12)


def test_one_pass_has_no_pair(pair):
    numbers = Diagnostics()(0, seen(pair[0]), torch.tensor([0, 1, 2, 3]), pair[0])
    assert set(numbers) == {"loss", "error_pct", "weight_norm", "gradient_norm"}


def test_loss_level_computes_no_norm(pair):
    numbers = Diagnostics("loss")(0, seen(*pair), torch.tensor([0, 1, 2, 3]), pair[0])
    assert set(numbers) == {"loss", "error_pct", "perturbed_loss"}


def test_element_shares_one_by_one(pair):
    g, g_s = pair
    g[1][0] = 0.0
    a, b = flat(g), flat(g_s)
    r = b[a != 0] / a[a != 0]
    expected = {
        "elements_larger_pct": np.mean(np.abs(r) > 1),
        "elements_same_sign_pct": np.mean(r > 0),
        "elements_class_1_pct": np.mean(r > 1),
        "elements_class_2_pct": np.mean((r > 0) & (r < 1)),
        "elements_class_3_pct": np.mean(r < -1),
        "elements_class_4_pct": np.mean((r > -1) & (r < 0)),
    }
    shares = {name: float(value) for name, value in element_shares(g, g_s).items()}
    assert shares == pytest.approx({name: 100 * value for name, value in expected.items()}, rel=1e-12)


def test_element_shares_of_numbers_whose_product_underflows():
    shares = element_shares([torch.tensor([1e-30, -1e-30])], [torch.tensor([2e-30, 5e-31])])
    assert float(shares["elements_class_1_pct"]) == 50
    assert float(shares["elements_class_4_pct"]) == 50


def test_zero_gradients_are_no_nan():
    zero = [torch.zeros(3)]
    numbers = Diagnostics()(0, seen(zero, zero), torch.tensor([0, 1, 2, 3]), zero)
    assert all(math.isfinite(float(value)) for value in numbers.values())


def test_elements_are_looked_at_every_so_often(pair):
    diagnose = Diagnostics(every=3)
    looked = ["elements_larger_pct" in diagnose(t, seen(*pair), torch.tensor([0, 1, 2, 3]), pair[0]) for t in range(7)]
    assert looked == [True, False, False, True, False, False, True]


def test_drift_against_snapshots(pair):
    torch.manual_seed(1)
    history = [([torch.randn(6)], [torch.randn(6)]) for _ in range(7)]
    diagnose = Diagnostics("drift", period=3)
    rows = []
    for t, (g, g_s) in enumerate(history):
        if t == 4:  # a resumed run goes on with what was saved
            state, diagnose = diagnose.state_dict(), Diagnostics("drift", period=3)
            diagnose.load_state_dict(state)
        given = [x.clone() for x in g], [x.clone() for x in g_s]
        rows.append(diagnose(t, seen(*given), torch.tensor([0, 1, 2, 3]), g))
        for x in (*given[0], *given[1]):
            x.zero_()  # as clipping writes into the gradient
    assert [any(name.startswith("drift") for name in row) for row in rows] == [False] * 3 + [True] + [False] * 2 + [
        True
    ]

    def parts(t):
        a, b = flat(history[t][0]), flat(history[t][1])
        along = a * (a @ b) / (a @ a)
        return {"g": a, "g_s": b, "g_h": along, "g_v": b - along}

    for t in (3, 6):
        for name, value in parts(t).items():
            distance = np.linalg.norm(value - parts(t - 3)[name])
            assert float(rows[t][f"drift_{name}"]) == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"level": "all"}, "diagnostics = all"), ({"every": 0}, "diagnose_every = 0"), ({"period": 0}, "period = 0")],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Diagnostics(**arguments)
