"""The benchmarks: what they share, and that the cheapest of them run. No time is judged here."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench

    return bench


def made(bench: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str):
    monkeypatch.setattr(sys, "argv", ["bench", "--out", str(folder), *arguments])
    return bench.Bench("some", "Some benchmark.")


def test_rounds_alternate_and_the_first_is_measured_twice(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, order = [0.0], []
    monkeypatch.setattr(bench.time, "process_time", lambda: clock[0])

    def taking(name: str, seconds: float):
        def run() -> None:
            order.append(name)
            clock[0] += seconds

        return run

    table = made(bench, tmp_path, monkeypatch, "--rounds", "2")
    variants = [bench.Variant("a", taking("a", 1.0)), bench.Variant("b", taking("b", 6.0), units=2)]
    seconds = table.measure("a and b", variants, "unit")
    assert order == [
        "a",
        "a",
        "b",
        "b",
        "a",
        "a",
        "a",
        "b",
        "a",
        "a",
        "b",
        "a",
    ]  # twice each for the repeats; a b a, a b a
    assert seconds == {"a": [1.0, 1.0], "b": [3.0, 3.0], "a (again)": [1.0, 1.0]}
    assert bench.ratio(seconds, "b", "a") == 3.0
    table.target("S0", "b / a", 3.0, 2.0)
    table.close()
    lines = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert {"commit", "date", "torch", "threads", "device", "load"} <= set(lines[0])
    rows = {line["variant"]: line["ratio"]["median"] for line in lines if "variant" in line}
    assert rows == {"a": 1.0, "b": 3.0, "a (again)": 1.0}
    assert lines[-1]["target"] == "S0"


def test_what_takes_no_time_is_repeated(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(bench.time, "process_time", lambda: clock[0])

    def run() -> None:
        clock[0] += 0.01

    seconds = made(bench, tmp_path, monkeypatch, "--quick").measure("short", [bench.Variant("a", run)], "run")
    assert seconds["a"] == pytest.approx([0.01, 0.01])
    assert clock[0] == pytest.approx(2 * 0.02 + 4 * 0.05)


def test_quartiles(bench: ModuleType) -> None:
    assert bench.quartiles([5.0, 1.0, 2.0, 3.0, 4.0]) == (2.0, 3.0, 4.0)
    assert bench.quartiles([1.0]) == (1.0, 1.0, 1.0)


def test_what_computes_something_else_is_not_timed(bench: ModuleType) -> None:
    ones = [torch.ones(4), torch.ones(2)]
    bench.agree("close", [x * (1 + 1e-7) for x in ones], ones, 1e-6)
    with pytest.raises(SystemExit, match=r"far: 1.00e-03 from the reference"):
        bench.agree("far", [x * 1.001 for x in ones], ones, 1e-6)
    with pytest.raises(SystemExit):
        bench.agree("nan", [x * torch.nan for x in ones], ones, 1e-6)


@pytest.mark.parametrize("script", ["bench_optim", "bench_roofline"])
def test_the_cheapest_run(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{script}-quick.jsonl").exists()
    if script == "bench_optim":
        assert re.search(r"^C1 .* meets 20", done.stdout, re.MULTILINE)
        assert re.search(r"^S4 .* is not for this run\)$", done.stdout, re.MULTILINE)


def test_a_gpu_that_is_not_there_is_named(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, str(SCRIPTS / "bench_optim.py"), "--gpu", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
