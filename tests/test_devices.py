"""What holds on every device. The half on a GPU waits for one: `pytest -m gpu`."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from called import command
from torch import Tensor, nn

from sam_repro import train
from sam_repro.architecture import resnet8
from sam_repro.optimizer import ASAM, SAM, SGD, LookSAM, Rule, SAMDirection, SAMMasked
from sam_repro.oracle import Objective
from sam_repro.oracle.products import ggn_vp, hvp
from sam_repro.sharpness import Curvature, undisturbed
from sam_repro.sharpness.lanczos import top
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.vectors import dot, norm

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
RULES = {
    "sgd": SGD,
    "sam": partial(SAM, rho=0.05),
    "asam": partial(ASAM, rho=0.5),
    "direction": partial(SAMDirection, rho=0.05),
    "masked": partial(SAMMasked, rho=0.05, classes=[1]),
    "looksam": partial(LookSAM, rho=0.05, period=3),
}
on_every_device = pytest.mark.parametrize("device", DEVICES)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return resnet8(num_classes=5, in_channels=3, image_size=8).to(dtype)


def batch(device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(16, 3, 8, 8, generator=generator), torch.randint(5, (16,), generator=generator)
    return images.to(device, dtype), labels.to(device)


def made(device: str, rule: Callable[..., Rule], **settings: object) -> tuple[nn.Module, Objective, Rule]:
    """In the default layout, on the default base."""
    model = network().to(device, memory_format=torch.channels_last)
    base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    return model, Objective(model, F.cross_entropy, **settings), rule(base)


@on_every_device
def test_gradients_products_and_norms_are_those_of_a_cpu(device: str) -> None:
    there = {}
    for where in ("cpu", device):
        model = network(torch.float64).to(where)
        params = list(model.parameters())
        generator = torch.Generator().manual_seed(2)
        v = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(where) for p in params]
        oracle = Objective(model, F.cross_entropy)(*batch(where, torch.float64))
        g = oracle.gradient(params).vector
        answers = [*g, *hvp(oracle, params, v), *ggn_vp(oracle, params, v), dot(g, v), norm(g)]
        there[where] = [x.detach().cpu() for x in answers]
    for one, other in zip(there["cpu"], there[device], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-8, atol=1e-10)


@on_every_device
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("m", [None, 8])
def test_steps_wait_for_nothing_and_stay_finite(device: str, rule: str, m: int | None) -> None:
    model, objective, made_rule = made(device, RULES[rule], autocast=torch.bfloat16)
    given, seen = batch(device), []

    def steps() -> None:
        for _ in range(4):  # more than LookSAM's period
            look = partial(Diagnostics(every=2), made_rule.steps, labels=given[1], w=made_rule.params)
            made_rule.backward(objective(*given), m=m, observe=lambda x, look=look: seen.append(look(x)))
            made_rule.base.step()

    steps()  # kernels are chosen and buffers made, for which the host may wait
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        steps()
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert all(p.isfinite().all() for p in model.parameters())
    assert len(seen) == 8
    assert all(value.device.type == device and value.isfinite() for numbers in seen for value in numbers.values())


@on_every_device
def test_weights_come_back_and_without_a_radius_it_is_sgd(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        sam, sgd = made(device, partial(SAM, rho=0.0)), made(device, SGD)
        for _, objective, rule in (sam, sgd):
            for _ in range(3):
                rule.step(objective(*batch(device)))
        for name, value in sam[0].state_dict().items():
            assert torch.equal(value, sgd[0].state_dict()[name]), name
        model, objective, rule = made(device, partial(SAM, rho=5.0))
        before = copy.deepcopy(list(model.parameters()))
        rule.backward(objective(*batch(device)))
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


@on_every_device
def test_the_largest_eigenvalue_is_that_of_a_cpu(device: str) -> None:
    found = []
    for where in ("cpu", device):
        model = network().to(where)
        generator = torch.Generator().manual_seed(3)
        with undisturbed(model):
            curvature = Curvature(model, F.cross_entropy, [batch(where)])
            start = torch.randn(curvature.size, generator=generator).to(where)
            found += top(curvature.hvp, start.clone, 1, tolerance=1e-4).values
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@on_every_device
@pytest.mark.parametrize("optimizer", ["sam", "sgdhess"])
def test_the_command_trains_and_measures(device: str, optimizer: str, tmp_path: Path) -> None:
    words = [f"device={device}", f"optimizer={optimizer}", "wandb=disabled", "epochs=1", "sharpness.tolerance=0.1"]
    ended = command(train.main, tmp_path, *words)
    assert ended.code == 0, ended.err
    (file,) = tmp_path.rglob("result.json")
    result = json.loads(file.read_text())
    assert result["config"]["device"] == device
    assert result["metrics"]["test"]["last"]["error_pct"] < 85  # of ten classes
    assert result["sharpness"]["lambda_max"]["values"]
