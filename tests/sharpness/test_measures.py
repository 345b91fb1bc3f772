"""Each measure against a plain computation of its own definition; protocols, pieces, and what is refused."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from toys import FACTS, Net, Quadratic, dense, drawn, inputs_of, make_subject, value

from sam_repro.optimizer import SAM
from sam_repro.sharpness import (
    AverageCase,
    Curvature,
    Hessian,
    LambdaMax,
    Landscape,
    Luong2024,
    Measurement,
    MSharpness,
    Notes,
    Unmeasurable,
    WorstCase,
    undisturbed,
)
from sam_repro.sharpness.landscape import _filter_normalised
from sam_repro.sharpness.measure import generator
from sam_repro.sharpness.power import top_by_power

EVERY = [
    LambdaMax(examples=30, batch_size=20),
    Hessian(examples=30, batch_size=20, probes=2, steps=6, trace_products=12),
    Luong2024(batch_size=15, batches=2),
    Luong2024(batch_size=15, batches=2, solver="power"),
    WorstCase(examples=30, batch_size=20, steps=3),
    MSharpness(examples=30, m=20),
    AverageCase(examples=30, batch_size=20, pairs=3),
    Landscape(examples=30, batch_size=20, points=3),
]
every_measure = pytest.mark.parametrize("measure", EVERY, ids=lambda m: type(m).__name__)
RHO = 0.3


# what a measurement is


def test_a_value_without_its_protocol_is_no_measurement():
    facts = FACTS | {"examples": 1, "batch_size": 1, "mode": "eval", "dtype": "float64", "weights": 3, "seed": 0}
    Measurement("mine", {"sharpness": 1.0}, facts)
    for key in facts:
        with pytest.raises(ValueError, match=f"the protocol does not say {key}"):
            Measurement("mine", {"sharpness": 1.0}, {k: v for k, v in facts.items() if k != key})
    with pytest.raises(ValueError, match="no value"):
        Measurement("mine", {}, facts)
    for bad in (math.nan, math.inf, None, True, "3", np.float64("nan")):
        with pytest.raises(ValueError, match="must be a finite number"):
            Measurement("mine", {"sharpness": bad}, facts)


@every_measure
def test_every_measure_is_json_with_its_protocol_and_can_be_repeated(subject, measure):
    before = {name: p.clone() for name, p in subject.model.state_dict().items()}
    first, second = (measure(subject, Notes()) for _ in range(2))
    assert json.loads(json.dumps(first.record(), allow_nan=False)) == second.record()
    assert (first.digest, first.stem) == (second.digest, f"{first.measure}-last-{first.digest}")
    assert first.protocol["examples"] == 30
    assert first.protocol["augmentation"] == ("noise" if isinstance(measure, Luong2024) else "none")
    assert all(torch.equal(p, before[name]) for name, p in subject.model.state_dict().items())
    assert not subject.model.training


def test_the_digest_is_of_what_was_asked(subject):
    measured = LambdaMax()(subject, Notes())
    assert LambdaMax(seed=1)(subject, Notes()).digest != measured.digest
    other = Measurement(measured.measure, measured.values, measured.protocol | {"outcome": {}})
    assert other.digest == measured.digest


class Ended(Exception):
    pass


def notes(kept, limit=math.inf, told=None):
    """Notes in JSON that end after some pieces."""

    def keep(pieces):
        kept.append(json.dumps(pieces))
        if len(kept) >= limit:
            raise Ended

    return Notes(
        json.loads(kept[-1]) if kept else {}, keep, lambda done, of, at_most=False: (told or []).append((done, of))
    )


def test_a_measurement_that_was_stopped_goes_on_where_it_was(subject):
    for measure, pieces in ((EVERY[1], 4), (EVERY[2], 2), (EVERY[3], 2), (EVERY[5], 2), (EVERY[7], 3)):
        whole = measure(subject, Notes())
        kept = []
        for done in range(1, pieces):
            with pytest.raises(Ended):
                measure(subject, notes(kept, done))
            assert len(json.loads(kept[-1])) == done
        resumed = measure(subject, notes(kept))
        assert resumed.record() == whole.record()
        assert len(kept) == pieces


# the definitions


def test_the_sample_is_fixed_and_of_the_seed(subject):
    first, again = subject.sample(30, 20, 0), subject.sample(30, 20, 0)
    assert [len(y) for _, y in first] == [20, 10]
    assert all(torch.equal(a, b) for a, b in zip(itertools.chain(*first), itertools.chain(*again), strict=True))
    assert not torch.equal(first[0][0], subject.sample(30, 20, 1)[0][0])
    assert sum(len(y) for _, y in subject.sample(1000, 20, 0)) == 40


def test_lambda_max_is_that_of_the_sample(subject):
    measured = LambdaMax(examples=30, tolerance=1e-8)(subject, Notes())
    known = torch.linalg.eigvalsh(dense(subject.model, subject.sample(30, 30, 0)))
    assert measured.values == {"lambda_max": pytest.approx(float(known[-1]), rel=1e-8)}
    assert measured.protocol["outcome"]["products"] < 40
    in_train = LambdaMax(examples=30, batch_size=10, mode="train", tolerance=1e-8)(subject, Notes())
    subject.model.train()
    known = torch.linalg.eigvalsh(dense(subject.model, subject.sample(30, 10, 0)))
    assert in_train.values == {"lambda_max": pytest.approx(float(known[-1]), rel=1e-8)}


def powers(whole, starts, count=5):
    """The study's power iteration on a whole matrix, in NumPy."""
    found, vectors = [], []
    for _ in range(count):
        v, theta = next(starts), None
        for _ in range(100):
            for known in vectors:
                v = v - (known @ v) * known
            v = v / np.linalg.norm(v)
            last, theta, direction = theta, v @ whole @ v, whole @ v
            if last is not None and abs(theta - last) < 1e-3 * abs(last):
                break
            v, used = direction, v
        vectors.append(v if v is not direction else used)
        found.append(theta)
    return found


@pytest.mark.parametrize("solver", ["lanczos", "power"])
def test_luong2024_is_a_plain_loop(subject, solver):
    """Whole Hessians of each batch; the order, the augmentation and the starts are drawn as the measure says."""
    measured = Luong2024(batch_size=15, batches=9, solver=solver, tolerance=1e-8, seed=3)(subject, Notes())
    order = torch.randperm(40, generator=generator(3, "cpu"))
    pooled = []
    for index, rows in enumerate((order[:15], order[15:30], order[30:])):
        noise = torch.randn((len(rows), 1, 3, 3), generator=generator(3, "cpu", index))
        inputs = inputs_of(subject.split.images[rows]) + noise
        whole = dense(subject.model, [(inputs, subject.split.labels[rows])]).numpy()
        draws = generator(3, "cpu", index)
        starts = (torch.randn(len(whole), generator=draws).double().numpy() for _ in itertools.count())
        known = np.linalg.eigvalsh(whole)
        pooled += list(known[np.argsort(-np.abs(known))][:5]) if solver == "lanczos" else powers(whole, starts)
    pooled, values = np.array(pooled), measured.values
    np.testing.assert_allclose(np.ravel(measured.arrays["eigenvalues"]), pooled, rtol=1e-6)
    assert values["mean_positive"] == pytest.approx(pooled[pooled > 0].mean(), rel=1e-7)
    assert values["maximum"] == pytest.approx(pooled.max(), rel=1e-7)
    assert values["negative_share"] == pytest.approx((pooled < 0).mean(), abs=1e-12)
    assert (values["unconverged_share"] == 0) == (solver == "lanczos")
    protocol = measured.protocol
    assert (protocol["batches"], protocol["examples"], protocol["batch_size"]) == (3, 40, 15)


def test_luong2024_marks_what_has_not_converged(subject):
    measured = Luong2024(batch_size=20, max_products=4)(subject, Notes())
    assert measured.values["unconverged_share"] > 0
    assert {"mean_positive_unconverged", "maximum_unconverged"} <= measured.values.keys()
    assert "mean_positive" not in measured.values


def test_luong2024_without_positive_eigenvalues():
    bowl = Quadratic(-torch.eye(6).double(), torch.zeros(6).double(), torch.zeros(6).double())
    measured = Luong2024(batch_size=20)(make_subject(bowl, value), Notes())
    assert measured.values == {"maximum": pytest.approx(-1), "negative_share": 1, "unconverged_share": 0}


def matrix(seed=0, size=8):
    half = drawn(size * size, seed)().view(size, size)
    return half + half.T


def quadratic(a=None, b=None, at=None, size=8):
    zero = torch.zeros(size, dtype=torch.float64)
    a, b, at = (zero.diag() if a is None else a), (zero if b is None else b), (zero if at is None else at)
    return make_subject(Quadratic(a, b, at), value)


def test_the_worst_case_of_a_saddle_with_zero_gradient_is_found():
    a = matrix()
    rise = WorstCase(rho=RHO, steps=200)(quadratic(a), Notes()).values["loss_rise"]
    assert rise == pytest.approx(RHO**2 / 2 * float(torch.linalg.eigvalsh(a)[-1]), rel=1e-4)


def test_the_worst_case_of_a_maximum_is_no_rise():
    assert WorstCase(rho=RHO)(quadratic(-torch.eye(8, dtype=torch.float64)), Notes()).values["loss_rise"] == 0


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(("p", "dual"), [(2, 2), ("inf", 1)])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_worst_case_of_a_slope_is_the_dual_norm(steps, p, dual, adaptive):
    slope, at = drawn(8)(), drawn(8, 1)()
    measured = WorstCase(rho=RHO, p=p, adaptive=adaptive, steps=steps)(quadratic(b=slope, at=at), Notes())
    unit = at.abs() if adaptive else 1.0
    expected = RHO * float(torch.linalg.vector_norm(unit * slope, dual))
    assert measured.values["loss_rise"] == pytest.approx(expected, rel=1e-12)
    assert (measured.protocol["p"], measured.protocol["adaptive"]) == (p, adaptive)


def test_one_step_is_the_perturbation_of_sam(subject):
    """m-sharpness by SAM's own ascent, part for part."""
    model = subject.model
    params = list(model.parameters())
    rule = SAM(torch.optim.SGD(params, lr=0.1), rho=RHO)
    rises = []
    for inputs, labels in subject.sample(40, 15, 0):
        before = F.cross_entropy(model(inputs.double()), labels)
        g = torch.autograd.grad(before, params, materialize_grads=True)
        epsilon = rule.ascent(list(g), params)
        weights = {n: p + e for (n, p), e in zip(model.named_parameters(), epsilon, strict=True)}
        after = F.cross_entropy(torch.func.functional_call(model, weights, (inputs.double(),)), labels)
        rises.append(((after - before).item(), len(labels)))
    measured = MSharpness(m=15, rho=RHO)(subject, Notes())
    expected = sum(rise * count for rise, count in rises) / 40
    assert measured.values["loss_rise"] == pytest.approx(expected, rel=1e-10)
    spread = np.std([rise for rise, _ in rises], ddof=1) / math.sqrt(3)
    assert measured.values["loss_rise_se"] == pytest.approx(spread, rel=1e-8)
    assert measured.protocol["m"] == 15


def test_more_steps_and_fewer_examples_rise_higher(subject):
    one, many = (WorstCase(rho=RHO, steps=n, starts=1)(subject, Notes()).values["loss_rise"] for n in (1, 30))
    assert many >= one
    rises = [MSharpness(m=m, rho=0.05)(subject, Notes()).values["loss_rise"] for m in (40, 10, 1)]
    assert rises == sorted(rises)


def test_the_average_case_is_half_the_trace():
    a, at = matrix(), drawn(8, 1)()
    for adaptive, unit in ((False, torch.ones(8)), (True, at.abs())):
        subject = quadratic(a, drawn(8, 2)(), at)
        measured = AverageCase(rho=RHO, pairs=2000, adaptive=adaptive)(subject, Notes())
        expected = RHO**2 / 2 * float((unit**2 * a.diag()).sum()) / 8
        assert abs(measured.values["loss_rise"] - expected) < 4 * measured.values["loss_rise_se"]
        assert measured.values["loss_rise_se"] < 0.05


def test_the_landscape_is_the_loss_at_its_points(subject):
    measured = Landscape(points=3, extent=0.5)(subject, Notes())
    model = subject.model
    (batch,) = subject.sample(256, 256, 0)
    losses = np.array(measured.arrays["loss"])
    assert losses.shape == (3, 3)
    assert losses[1, 1] == pytest.approx(measured.values["loss"], rel=1e-12)
    assert measured.values["loss"] == pytest.approx(float(F.cross_entropy(model(batch[0].double()), batch[1])))
    assert measured.values["highest_rise"] == losses.max() - losses[1, 1]
    line = Landscape(points=3, extent=0.5, dimensions=1)(subject, Notes())
    assert line.arrays["loss"] == [measured.arrays["loss"][1]]


def test_directions_are_filter_normalised(net):
    with undisturbed(net):
        curvature = Curvature(net, F.cross_entropy, make_subject(net).sample(40, 40, 0))
        direction = curvature.unflat(_filter_normalised(curvature, curvature.params, drawn(curvature.size)()))
    for w, d in zip(curvature.params, direction, strict=True):
        if w.dim() == 1:
            assert not d.any()
        else:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), w.detach().flatten(1).norm(dim=1))


def test_a_landscape_that_overflows_has_holes():
    measured = Landscape(points=3, extent=8e307)(make_subject(Net()), Notes())
    losses = measured.arrays["loss"]
    assert None in list(itertools.chain(*losses))
    assert losses[1][1] == measured.values["loss"]
    assert 0 < measured.values["finite_share"] < 1


@pytest.mark.parametrize("measure", [WorstCase(), MSharpness(), AverageCase()], ids=lambda m: type(m).__name__)
def test_a_radius_that_nobody_gave(measure, net):
    subject = make_subject(net)
    assert measure(subject, Notes()).protocol["rho"] == 0.05
    object.__setattr__(subject, "rho", None)
    with pytest.raises(Unmeasurable, match="the run has no rho; give a radius"):
        measure(subject, Notes())


def test_a_perturbation_that_overflows_is_refused():
    steep = quadratic(1e300 * torch.eye(8, dtype=torch.float64))
    for measure in (WorstCase(rho=1e10), AverageCase(rho=1e10)):
        with pytest.raises(Unmeasurable, match="not finite; choose a smaller"):
            measure(steep, Notes())


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (LambdaMax, {"examples": 0}),
        (LambdaMax, {"batch_size": 1.5}),
        (LambdaMax, {"mode": "test"}),
        (LambdaMax, {"parameters": "["}),
        (LambdaMax, {"seed": -1}),
        (LambdaMax, {"tolerance": 0}),
        (LambdaMax, {"max_products": 0}),
        (Hessian, {"trace_products": 5}),
        (Hessian, {"probes": 1}),
        (Hessian, {"steps": 1}),
        (Hessian, {"width": 0}),
        (Luong2024, {"solver": "qr"}),
        (Luong2024, {"batches": 0}),
        (WorstCase, {"rho": 0}),
        (WorstCase, {"p": 1}),
        (WorstCase, {"adaptive": 1}),
        (WorstCase, {"steps": 0}),
        (WorstCase, {"starts": 0}),
        (MSharpness, {"m": 0}),
        (AverageCase, {"pairs": 1}),
        (Landscape, {"dimensions": 3}),
        (Landscape, {"points": 4}),
        (Landscape, {"extent": math.inf}),
    ],
)
def test_settings_are_refused_where_they_are_made(measure, words):
    (name,) = words
    with pytest.raises(ValueError, match=f"^{name} = "):
        measure(**words)


def test_the_power_solver_counts_its_products():
    a = torch.diag(torch.tensor([5.0, -4.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64))
    calls = []
    found = top_by_power(lambda v: calls.append(1) or a @ v, drawn(6), 3)
    assert found.products == len(calls)


def test_images_are_drawn(subject):
    for measure in (EVERY[1], EVERY[7], Landscape(points=3, dimensions=1)):
        figure = Figure()
        measured = measure(subject, Notes())
        measured.draw(figure)
        assert figure.axes
