"""λ_max, trace and landscape of a vision transformer and of Shake-Shake, in evaluation, against curvlinops."""

import copy
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector
from toys import images, inputs_of, make_subject

from sam_repro.architecture import timm_network
from sam_repro.architecture.shake_shake import ShakeShakeNet
from sam_repro.sharpness import Hessian, LambdaMax, Landscape, Notes, Subject, Unmeasurable
from sam_repro.sharpness.landscape import _filter_normalised
from sam_repro.sharpness.measure import chosen

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from curvlinops import GGNLinearOperator, HessianLinearOperator

BLOCKS = {"depth": 2, "embed_dim": 4, "num_heads": 2, "mlp_ratio": 1.0, "patch_size": 1, "drop_path_rate": 0.2}


class PlainNorm(nn.Module):
    """Layer norm, written out: of torch 2.14 the batched passes of curvlinops get wrong derivatives of the gain."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


def vit() -> nn.Module:
    """Two blocks of attention over nine patches; its norms and its head are not those of the start."""
    model = timm_network(num_classes=2, in_channels=1, image_size=3, name="vit_tiny_patch16_224", arguments=BLOCKS)
    for weight in model.parameters():
        nn.init.normal_(weight, 0.0, 0.5)
    return model.double().eval()


def shake_shake() -> nn.Module:
    """A block a stage; its batch norms have seen data, through gates."""
    model = ShakeShakeNet(1, 2, "drawn", in_channels=1, num_classes=2).double()
    with torch.no_grad():
        for seed in range(20):
            model(inputs_of(images(30, seed)).double())
    return model.eval()


class Case(NamedTuple):
    """A network, what a measure is told of it, and the whole Hessian of curvlinops."""

    subject: Subject
    settings: dict[str, Any]
    hessian: Tensor


@pytest.fixture(scope="module", params=[(vit, None), (shake_shake, "stem|classifier")], ids=["vit", "shake_shake"])
def case(request: pytest.FixtureRequest) -> Case:
    make, pattern = request.param
    torch.manual_seed(0)
    subject = make_subject(make())
    whole = theirs(HessianLinearOperator, subject, pattern, torch.eye(len(weights_of(subject.model, pattern))))
    return Case(subject, {"examples": 40, "batch_size": 25, "parameters": pattern}, whole)


def weights_of(model: nn.Module, pattern: str | None) -> Tensor:
    return parameters_to_vector(chosen(model, pattern)).detach()


def theirs(operator: type, subject: Subject, pattern: str | None, vectors: Tensor) -> Tensor:
    """The products of curvlinops."""
    model = copy.deepcopy(subject.model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm):
            model.set_submodule(name, PlainNorm(module))
    data = [(x.double(), y) for x, y in subject.sample(40, 25, 0)]
    with sdpa_kernel(SDPBackend.MATH):
        return operator(model, nn.CrossEntropyLoss(), chosen(model, pattern), data) @ vectors.double()


def test_the_largest_eigenvalue(case: Case) -> None:
    values = LambdaMax(**case.settings, tolerance=1e-8)(case.subject, Notes()).values
    assert values == {"lambda_max": pytest.approx(float(torch.linalg.eigvalsh(case.hessian)[-1]), rel=1e-8)}


def test_the_trace(case: Case) -> None:
    values = Hessian(**case.settings, probes=2, steps=3, trace_products=45)(case.subject, Notes()).values
    expected = float(case.hessian.trace())
    assert abs(values["trace"] - expected) < 4 * values["trace_se"]
    assert values["trace_se"] < 0.4 * expected


def test_the_landscape_bends_as_the_hessian_says(case: Case) -> None:
    """Near the weights its second differences are d₁ᵀHd₁ and d₂ᵀHd₂, and those of its corners 4·d₁ᵀHd₂."""
    measure = Landscape(**case.settings, points=3, extent=3e-6)
    loss = np.array(measure(case.subject, Notes()).arrays["loss"]) / measure.extent**2
    with measure.curvature(case.subject) as curvature:
        draw = measure.gaussian(curvature)
        d1, d2 = (_filter_normalised(curvature, curvature.params, draw()).detach() for _ in range(2))
    bends = [
        loss[1, 0] - 2 * loss[1, 1] + loss[1, 2],
        loss[0, 1] - 2 * loss[1, 1] + loss[2, 1],
        loss[2, 2] - loss[2, 0] - loss[0, 2] + loss[0, 0],
    ]
    expected = [float(a @ case.hessian @ b) for a, b in ((d1, d1), (d2, d2), (4 * d1, d2))]
    assert bends == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("name", "operator"), [("hvp", HessianLinearOperator), ("ggn_vp", GGNLinearOperator)])
def test_products(case: Case, name: str, operator: type) -> None:
    with LambdaMax(**case.settings).curvature(case.subject) as curvature:
        v = torch.randn(curvature.size, dtype=torch.float64)
        expected = theirs(operator, case.subject, case.settings["parameters"], v)
        torch.testing.assert_close(getattr(curvature, name)(v), expected, rtol=1e-10, atol=1e-12)


def test_in_train_mode_they_are_refused_because_their_passes_are_random(case: Case) -> None:
    with pytest.raises(Unmeasurable, match=r"two passes over the data do not agree .* choose sharpness.mode=eval"):
        LambdaMax(**case.settings, mode="train")(case.subject, Notes())
