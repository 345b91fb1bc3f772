"""What "auto" becomes on a machine."""

import pytest
import torch

from sam_repro.config.lines import compose_line
from sam_repro.run.numerics import with_numerics


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, "fp32"),
        ({"neon": True}, "fp32"),
        (None, "fp32"),  # a torch that does not know
    ],
)
def test_auto_is_bfloat16_where_a_cpu_multiplies_it_itself(monkeypatch, capabilities, precision):
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert with_numerics(compose_line(["device=cpu"]))["precision"] == precision
    for said in ("fp32", "bf16"):
        assert with_numerics(compose_line(["device=cpu", f"precision={said}"]))["precision"] == said


@pytest.mark.parametrize(("emulated", "precision"), [(False, "bf16"), (True, "fp32")])
def test_auto_is_bfloat16_where_a_gpu_does_not_emulate_it(monkeypatch, emulated, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or not emulated
    )
    assert with_numerics(compose_line(["device=cuda"]))["precision"] == precision
