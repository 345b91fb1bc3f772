"""What "auto" becomes on a machine."""

import pytest
import torch

from sam_repro.config.lines import compose_line
from sam_repro.errors import UserError
from sam_repro.run.numerics import set_numerics, with_numerics


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


@pytest.mark.parametrize(
    ("threads", "said"), [(2, ""), (3, "threads    threads = 3: this machine has 2 cores, so a step")]
)
def test_more_threads_than_cores_are_told_of(monkeypatch, capsys, threads, said):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before = torch.get_num_threads()
    set_numerics(with_numerics(compose_line([f"threads={threads}", "device=cpu"])))
    torch.set_num_threads(before)
    assert capsys.readouterr().out.startswith(said)


def test_threads_that_would_only_wait_for_each_other_are_refused(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(
        UserError, match=r"threads = 9: this machine has 2 cores, and more .*; choose threads=2 or less"
    ):
        set_numerics(with_numerics(compose_line(["threads=9", "device=cpu"])))
