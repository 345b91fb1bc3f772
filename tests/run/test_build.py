"""What "auto" becomes on a machine."""

from types import SimpleNamespace

import pytest
import torch

from sam_repro.config.identity import home
from sam_repro.config.lines import compose_line
from sam_repro.errors import UserError
from sam_repro.run import announce, numerics
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


LONG = "dataset=cifar100 architecture=resnet18 batch_size=256"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has a GPU; nothing is computed on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(numerics.shutil, "which", lambda name: name)


@pytest.mark.parametrize(
    ("line", "compiled", "said"),
    [
        (f"{LONG} optimizer=sam epochs=200", True, "on: 20.1 million images pass, and 12.8 million win it back"),
        (f"{LONG} optimizer=sgd epochs=200", False, "off: 10 million images pass, and 12.8 million win it back"),
        (f"{LONG} optimizer=sgd epochs=300", True, "on: 15.1 million"),
        (f"{LONG} optimizer=sam epochs=200 max_steps=100", False, "off: 0.0512 million"),
        (f"{LONG} optimizer=looksam epochs=200", False, "off: 12 million"),
        ("optimizer=sam", False, "off: "),
        (f"{LONG} optimizer=sam epochs=200 compile=false", False, None),
        ("optimizer=sam compile=true", True, None),
    ],
)
def test_long_runs_are_compiled_on_a_gpu(gpu: None, line: str, compiled: bool, said: str | None) -> None:
    config = with_numerics(compose_line(line.split()))
    assert config["compile"] is compiled
    assert config["origin"].get("compile", "").startswith(said or "")
    assert ("compile" in config["origin"]) == (said is not None)


def test_where_the_number_of_images_is_not_told_nothing_is_compiled(gpu: None) -> None:
    config = compose_line(f"{LONG} optimizer=sam epochs=200".split())
    config = with_numerics(config | {"dataset": config["dataset"] | {"train_images": None}})
    assert config["compile"] is False
    assert "dataset.train_images is not set" in config["origin"]["compile"]


def test_on_a_cpu_nothing_is_compiled_unasked_and_the_home_stays() -> None:
    line = f"{LONG} device=cpu optimizer=sam epochs=200".split()
    auto, off = (with_numerics(compose_line([*line, *words])) for words in ([], ["compile=false", "graph=false"]))
    assert auto["compile"] is False
    assert "compile" not in auto["origin"]
    assert home(auto) == home(off)


def test_a_compiled_run_has_a_home_of_its_own_whoever_decided(gpu: None) -> None:
    line = f"{LONG} optimizer=sam epochs=200".split()
    auto, on, off = (
        home(with_numerics(compose_line([*line, *words]))) for words in ([], ["compile=true"], ["compile=false"])
    )
    assert auto == on != off


def test_compiling_on_a_gpu_needs_a_c_compiler(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C compiler, .* add compile=false"):
        with_numerics(compose_line(["compile=true"]))


@pytest.mark.parametrize(
    ("graph", "no_graph", "told"),
    [
        (None, "the steps of SGDHess cannot be captured", "graph      off, which is slower: the steps of SGDHess"),
        (None, None, None),
        (False, "the steps of SGDHess cannot be captured", None),
    ],
)
def test_on_a_gpu_a_line_says_what_was_not_done_unasked(graph: bool | None, no_graph: str | None, told: str | None):
    config = {"precision": "bf16", "device": "cuda", "batch_size": 8, "m": None, "compile": False}
    config |= {"origin": {"compile": "off: 3 million images pass, and 12.8 million win it back"}}
    trainer = SimpleNamespace(plan=SimpleNamespace(graph=graph), no_graph=no_graph)
    _, compiled, *lines = announce._numerics(config, trainer)
    assert compiled == "compile    off: 3 million images pass, and 12.8 million win it back"
    assert [line[: len(told or "")] for line in lines] == ([] if told is None else [told])


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
