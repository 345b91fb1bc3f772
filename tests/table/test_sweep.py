"""A sweep in one process: its cells, its table against scipy, and that it is safe to repeat."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from called import command

from sam_repro import train
from sam_repro.config.identity import home
from sam_repro.config.lines import compose_line
from sam_repro.run.lock import lock
from sam_repro.run.numerics import with_numerics
from sam_repro.table.sweep import table

SWEEP = [
    "-m",
    "optimizer=sgd,sam",
    "rho=0.02,0.05",
    "seed=0,1",
    "epochs=1",
    "wandb=disabled",
    "sharpness=none",
    "progress=silent",
]


class Sweep(NamedTuple):
    """How a sweep ended and what it left."""

    folder: Path
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """Words of the table's rows, split where there are two spaces or more."""
        lines = self.out.splitlines()
        (last,) = (number for number, line in enumerate(lines) if line.startswith("(mean over seeds"))
        first = last - lines[:last][::-1].index("")
        return [re.split(r"\s{2,}", line) for line in lines[first:last]]

    @property
    def results(self) -> list[Path]:
        return sorted(self.folder.glob("outputs/runs/*/*/seed=*/result.json"))


def swept(folder: Path, settings: list[str]) -> Sweep:
    return Sweep(folder, *command(train.main, folder, *settings))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return swept(tmp_path_factory.mktemp("sweep"), SWEEP)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def errors(sweep: Sweep, **wanted: Any) -> list[float]:
    """Test errors of the results whose configuration has these values."""
    results = [read(path) for path in sweep.results]
    chosen = [r for r in results if all({**r["config"], **r["config"]["choices"]}[k] == v for k, v in wanted.items())]
    return [result["metrics"]["test"]["last"]["error_pct"] for result in chosen]


def test_cells_and_their_seeds(sweep: Sweep) -> None:
    assert sweep.code == 0
    assert sweep.err == ""
    ran = [(r["config"]["choices"]["optimizer"], r["config"]["rho"], r["seed"]) for r in map(read, sweep.results)]
    cells = [("sgd", None), ("sam", 0.02), ("sam", 0.05)]
    assert sorted(ran, key=str) == sorted([(*cell, seed) for cell in cells for seed in (0, 1)], key=str)
    hashes = {
        (r["config"]["choices"]["optimizer"], r["config"]["rho"]): r["cell_hash"] for r in map(read, sweep.results)
    }
    assert len(set(hashes.values())) == 3
    homes = {path.parent.parent for path in sweep.results}
    assert len(homes) == 3, "the seeds of a cell lie in one folder"


def test_the_sweeps_rho_is_dropped_where_there_is_none_and_that_is_said(sweep: Sweep) -> None:
    assert sweep.out.startswith("sgd has no rho: the sweep's is dropped there")
    assert sweep.out.count("rule       sgd on sgd\n") == 2
    assert len(errors(sweep, optimizer="sgd")) == 2


def test_table_is_the_mean_and_of_two_seeds_no_interval(sweep: Sweep) -> None:
    header, *rows = sweep.rows
    assert header == ["optimizer", "rho", "done", "test error %", "state"]
    assert [row[:-3] for row in rows] == [["sgd"], ["sam", "0.02"], ["sam", "0.05"]]
    for row, wanted in zip(rows, [{"optimizer": "sgd"}, {"rho": 0.02}, {"rho": 0.05}], strict=True):
        values = errors(sweep, **wanted)
        assert row[-3:] == ["2/2", f"{np.mean(values):.2f}", "done"]


def files(sweep: Sweep) -> dict[Path, tuple[bytes, int]]:
    paths = [path for path in sweep.folder.glob("outputs/runs/**/*") if path.is_file() and path.suffix != ".lock"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_again_all_is_done_and_nothing_is_touched(sweep: Sweep) -> None:
    before = files(sweep)
    again = swept(sweep.folder, SWEEP)
    assert again.code == 0
    assert again.rows == sweep.rows
    assert len(re.findall(r"^done +outputs/runs/", again.out, flags=re.MULTILINE)) == 6
    assert "home  " not in again.out
    assert files(again) == before


def test_again_only_what_is_missing_runs(sweep: Sweep, tmp_path: Path) -> None:
    shutil.copytree(sweep.folder / "outputs", tmp_path / "outputs")
    copied = sweep._replace(folder=tmp_path)
    lost = copied.results[3].parent
    shutil.rmtree(lost)
    kept = files(copied)
    more = swept(tmp_path, SWEEP)
    assert more.code == 0
    assert more.rows == sweep.rows
    assert [line for line in more.out.splitlines() if line.startswith("home")] == [
        f"home       {lost.relative_to(tmp_path)}"
    ]
    after = files(copied)
    assert {path: after[path] for path in kept} == kept


def test_a_cell_that_fails_is_named_and_the_others_finish(tmp_path: Path) -> None:
    settings = [
        "-m",
        "optimizer=sgd",
        "lr=1e30,0.1",
        "seed=0,1",
        "epochs=1",
        "wandb=disabled",
        "sharpness=none",
        "progress=silent",
    ]
    failing = swept(tmp_path, settings)
    assert failing.code == 1
    header, broken, whole = failing.rows
    assert header == ["lr", "done", "test error %", "state"]
    assert broken[:3] == ["1e+30", "0/2", "—"]
    for seed in (0, 1):
        assert f"seed {seed}: failed: the loss or the gradient of step 1 is not finite" in broken[3]
    assert whole[:2] == ["0.1", "2/2"]
    assert whole[3] == "done"
    assert len(failing.results) == 2
    assert len(failing.err.splitlines()) == 2
    assert "Traceback" not in failing.err
    again = swept(tmp_path, settings)
    assert again.code == 1
    assert again.rows == failing.rows
    assert again.out.count("home  ") == 2, "the cells that failed are tried again, the others not"


def test_table_of_what_is_there(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than three seeds have no interval, a missing run is named, and so is a damaged result."""
    shutil.copytree(sweep.folder / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    common = ["epochs=1", "wandb=disabled", "sharpness=none", "optimizer=sgd"]
    cells = [compose_line([*common, f"seed={seed}"]) for seed in (0, 1, 2)]
    values = errors(sweep, optimizer="sgd")

    def row() -> tuple[list[str], int]:
        text, code = table(cells)
        assert text.splitlines()[1].split() == ["optimizer", "done", "test", "error", "%", "state"]
        return re.split(r"\s{2,}", text.splitlines()[2]), code

    assert row() == (["sgd", "2/3", f"{np.mean(values):.2f}", "seed 2: missing"], 1)
    (one,) = Path().glob("outputs/runs/*/*-sgd-*/seed=1/result.json")
    one.write_text("{")
    assert row() == (["sgd", "1/3", f"{values[0]:.2f}", f"seed 1: damaged: {one.parent}; seed 2: missing"], 1)
    one.unlink()
    (one.parent / "failed.json").write_text('{"error": "no luck", "step": 3}')
    assert row() == (["sgd", "1/3", f"{values[0]:.2f}", "seed 1: failed: no luck; seed 2: missing"], 1)
    del cells[1:]
    assert row() == (["sgd", "1/1", f"{values[0]:.2f}", "done"], 0)


def test_names_and_numerics_are_not_pooled(tmp_path: Path) -> None:
    both = swept(
        tmp_path, ["-m", "name=a,b", "channels_last=true,false", "max_steps=1", "wandb=disabled", "sharpness=none"]
    )
    assert len(both.results) == 4
    header, *rows = both.rows
    assert {"name", "channels_last", "done"} <= set(header)
    assert len(rows) == 4
    assert {row[header.index("done")] for row in rows} == {"1/1"}


def test_a_run_that_another_process_is_at_is_running_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [with_numerics(compose_line([f"seed={seed}"])) for seed in (0, 1)]
    with lock(home(cells[1])):
        text, code = table(cells)
        assert table(cells[1:])[1] == 3
    assert "0/2   —             seed 0: missing; seed 1: running elsewhere" in text
    assert code == 1


def test_what_auto_became_is_one_cell_with_it(tmp_path: Path) -> None:
    became = with_numerics(compose_line([]))["precision"]
    common = ["max_steps=1", "wandb=disabled", "sharpness=none"]
    both = swept(tmp_path, ["-m", f"precision=auto,{became}", "seed=0,1", *common])
    assert len(both.results) == 2
    (_, row) = both.rows
    assert row[1] == "2/2"


def test_equal_cells_run_once_also_anew(tmp_path: Path) -> None:
    cells = [
        "-m",
        "optimizer=sgd,sam",
        "rho=0.02,0.05",
        "max_steps=1",
        "wandb=disabled",
        "sharpness=none",
        "resume=false",
    ]
    anew = swept(tmp_path, cells)
    assert anew.code == 0
    assert len(anew.results) == 3
    assert not list(tmp_path.glob("outputs/runs/*/*/*.aside-*"))
    (sgd,) = (json.loads(file.read_text()) for file in anew.results if "-sgd-" in str(file))
    assert not any(override.startswith("rho=") for override in sgd["overrides"])
