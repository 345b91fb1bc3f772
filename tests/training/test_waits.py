"""A step never waits for the device and walks through no module."""

from pathlib import Path
from typing import Any

import pytest
import torch
from loops import BATCH, EXAMPLES, random_parts, sam, trainer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_repro.dataset import Raw
from sam_repro.optimizer import SGD
from sam_repro.training.diagnostics import Diagnostics


class HostSync(TorchDispatchMode):
    """Refuses the operations through which the host reads a tensor, or hands a new one to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "lift_fresh"):
            raise AssertionError(f"{func} makes host and device wait for each other")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("diagnostics", [Diagnostics("loss"), Diagnostics(every=2), Diagnostics("drift", period=2)])
@pytest.mark.parametrize(("m", "clip_norm"), [(None, None), (2, 0.1)])
@pytest.mark.parametrize("rule", [SGD, sam])
def test_c3_c6_train_step_never_waits_for_the_device_and_walks_through_no_module(
    tmp_path: Path,
    rule: Any,
    m: int | None,
    clip_norm: float | None,
    diagnostics: Diagnostics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = random_parts(rule=rule, diagnostics=diagnostics)
    trained = trainer(tmp_path, **parts, fused=True, m=m, clip_norm=clip_norm)
    batches = torch.arange(EXAMPLES).split(BATCH)
    trained._train_step(0, Raw(batches[0]))  # constants of the augmentation are brought to the device in the first

    def walk(*_: Any) -> None:
        raise AssertionError("a step walked through the modules")

    for name in ("modules", "apply", "named_modules", "parameters", "named_parameters"):
        monkeypatch.setattr(nn.Module, name, walk)
    with HostSync():
        for step, rows in enumerate(batches[1:], start=1):
            trained._train_step(step, Raw(rows))
    assert trained.step == 5
