"""One run from end to end on the digits: its record, its cost, what it says, and how it ends."""

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from called import command, home_of, with_other
from door import Server
from finished import SETTINGS, Run, finished
from rates import CLIMBS
from torch import Tensor, nn

from sam_repro import train
from sam_repro.run import build


def test_rows_are_complete(run: Run) -> None:
    per_epoch = 13 if run.result["label_noise"] else 16
    steps = [step for step in range(3 * per_epoch) if (step + 1) % 5 == 0 or (step + 1) % per_epoch == 0]
    assert [row["step"] for row in run.rows("train")] == steps
    assert [row["step"] for row in run.rows("epoch")] == [epoch * per_epoch - 1 for epoch in (1, 2, 3)]
    assert [row["epoch"] for row in run.rows("epoch")] == [1, 2, 3]
    assert run.result["cost"]["steps"] == 3 * per_epoch
    for row in run.rows("epoch"):
        assert {"test/error_pct", "test/loss", "epoch/loss", "epoch/error_pct", "seconds"} <= row.keys()
        assert ("validation/error_pct" in row) == (per_epoch == 13)
    for row in run.rows("train"):
        assert {"train/loss", "train/error_pct", "lr"} <= row.keys()
        assert ("rho" in row) == ("train/perturbed_loss" in row) == (per_epoch == 13)


def test_metrics_are_those_of_the_rows(run: Run) -> None:
    metrics, epochs = run.result["metrics"], run.rows("epoch")

    def of_row(row: dict[str, Any], part: str) -> dict[str, float]:
        scores = {key.partition("/")[2]: value for key, value in row.items() if key.startswith(f"{part}/")}
        return scores | {"epoch": row["epoch"]}

    assert metrics["test"]["last"] == of_row(epochs[-1], "test")
    peak = min(epochs, key=lambda row: row["test/error_pct"])
    assert metrics["test"]["peak"] == of_row(peak, "test")
    for key, value in metrics["train"].items():
        assert value == epochs[-1].get(f"epoch/{key}")
    if metrics["validation"]["best"]:
        chosen = min(epochs, key=lambda row: row["validation/error_pct"])
        assert metrics["validation"] == {
            "last": of_row(epochs[-1], "validation"),
            "best": of_row(chosen, "validation"),
        }
        assert metrics["test"]["best_validation"] == of_row(chosen, "test")


def test_peak_is_the_lowest_test_error_also_where_it_is_not_the_last(tmp_path: Path) -> None:
    run = finished(tmp_path, "optimizer=sgd", *CLIMBS)
    errors = [row["test/error_pct"] for row in run.rows("epoch")]
    assert min(errors) < errors[-1]
    assert run.result["metrics"]["test"]["peak"]["error_pct"] == min(errors)
    assert run.result["metrics"]["test"]["peak"]["epoch"] == errors.index(min(errors)) + 1


def test_cost_is_what_a_hook_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for optimizer, size in (("sgd", 64), ("sam", 64), ("looksam", 50)):  # whose steps differ, in equal batches
        counts = {"examples": 0}
        make_model = build.make_model

        def counted(*arguments: Any, counts: dict[str, int] = counts, make_model: Any = make_model) -> nn.Module:
            def count(module: nn.Module, inputs: tuple[Tensor]) -> None:
                tried = inputs[0].is_meta  # whether it can take the sizes, without a number
                counts["examples"] += len(inputs[0]) if module.training and not tried else 0

            model = make_model(*arguments)
            model.register_forward_pre_hook(count)
            return model

        with monkeypatch.context() as patch:
            patch.setattr(build, "make_model", counted)
            settings = [f"optimizer={optimizer}", f"name={optimizer}", f"batch_size={size}", "epochs=2", "m=16"]
            run = finished(tmp_path, *settings)
        cost = run.result["cost"]
        assert cost["steps"] == 2 * -(-1000 // size)
        assert cost["passes"] == cost["steps"] * counts["examples"] / 2000
        assert cost["products"] == 0
        assert cost["examples_per_second"] == pytest.approx(2000 / cost["seconds"])
        os.rename(tmp_path / "outputs", tmp_path / optimizer)


@pytest.mark.parametrize(("limit", "epoch", "cut"), [("max_steps=20", 20 / 16, True), ("max_steps=1000", 3, False)])
def test_a_run_that_max_steps_cuts_says_so(tmp_path: Path, limit: str, epoch: float, cut: bool) -> None:
    result = finished(tmp_path, limit, "optimizer=sgd").result
    assert result["cut_budget"] is cut
    assert result["metrics"]["test"]["last"]["epoch"] == epoch


def test_a_run_that_another_process_finishes_meanwhile_is_done(
    door: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, make_data = [*SETTINGS, "optimizer=sgd", "max_steps=1"], build.make_data

    def late(*arguments: Any) -> Any:
        assert door.run(tmp_path, settings).code == 0
        return make_data(*arguments)

    monkeypatch.setattr(build, "make_data", late)
    said = command(train.main, tmp_path, *settings)
    assert said.code == 0
    assert said.out.startswith("done ")
    assert len(json.loads((home_of(tmp_path) / "run.json").read_text())["starts"]) == 1


def test_a_network_that_overflows_after_the_last_step(tmp_path: Path) -> None:
    settings = with_other(with_other(SETTINGS, "lr=1e38"), "epochs=1")
    said = command(train.main, tmp_path, *settings, "optimizer=sgd", "batch_size=1000")
    assert said.code == 1
    assert len(said.err.splitlines()) == 1
    assert "the evaluation of step 0 is not finite" in said.err
    assert not (home_of(tmp_path) / "model.safetensors").exists()


# what it says


def test_the_same_command_again_touches_nothing(run: Run) -> None:
    def files() -> dict[str, tuple[bytes, int]]:
        return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in run.home.iterdir()}

    before = files()
    said = command(train.main, run.folder, *run.settings)
    assert said.code == 0
    assert said.out.startswith(f"done       {run.home.relative_to(run.folder)}\n")
    error = run.result["metrics"]["test"]["last"]["error_pct"]
    assert f"test error {error:.2f} %" in said.out
    assert files() == before


def test_one_line_an_epoch_without_a_terminal(run: Run) -> None:
    lines = [line for line in run.said.out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    for number, (line, row) in enumerate(zip(lines, run.rows("epoch"), strict=True), start=1):
        assert line.startswith(f"epoch {number}/3 ")
        assert f"train loss {row['epoch/loss']:.4f}" in line
        assert f"test error {row['test/error_pct']:.2f} %" in line
        assert ("validation error" in line) == ("validation/error_pct" in row)
    assert run.said.out.count("estimated") == 1


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "sam_repro.train", *SETTINGS, "epochs=2"],
        cwd=tmp_path,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    os.close(follower)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while piece := os.read(leader, 4096):
            said += piece
    os.close(leader)
    assert process.wait() == 0
    text = said.decode()
    assert "32/32" in text
    assert "step" in text
    assert "test error" in text
    assert "epoch 1/2 " not in text
    assert "Traceback" not in text
    assert "result     outputs/runs/main/" in text


# wandb


def test_two_cells_of_one_process_are_two_wandb_runs(door: Server, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    settings = ["-m", "seed=0,1", "wandb=offline", "epochs=2", "max_steps=24", "optimizer=sgd"]
    done = door.run(tmp_path, settings, environment=environment | {"HOME": str(tmp_path)})
    assert done.code == 0, done
    assert done.out.count("wandb: offline; upload with wandb sync") == 2
    files = sorted(tmp_path.glob("outputs/runs/main/*/seed=*/wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    for seed, path in enumerate(files):
        home = path.parents[2]
        inspected = subprocess.run(
            [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        records: dict[str, list[Any]] = {}
        for line in map(json.loads, inspected.stdout.splitlines()):
            records.setdefault(line["type"], []).append(line[line["type"]])
        (run,) = records["run"]
        assert run["run_id"] == json.loads((home / "run.json").read_text())["wandb_id"]
        config = run["config"]["update"]
        result = json.loads((home / "result.json").read_text())
        assert config["seed"] == seed
        assert config["choices"] == result["config"]["choices"]
        rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
        shown = [{k: v for k, v in row["item"].items() if not k.startswith("_")} for row in records["history"]]
        assert len(shown) == len(rows)
        for ours, theirs in zip(rows, shown, strict=True):
            assert theirs == pytest.approx(ours)
        assert [row["epoch"] for row in shown if row["kind"] == "epoch"] == [1, 1.5]
        summary: dict[str, Any] = {}
        for update in records["summary"]:
            summary |= update["update"]
        assert summary["final"] == pytest.approx(result["metrics"]["test"]["last"])
        (end,) = records["exit"]
        assert end["exit_code"] == 0


def test_what_is_taken_for_the_same_run_is_the_same_run(tmp_path: Path) -> None:
    """Keys that are left out of the home, because the values of others leave them without effect."""
    plain = ["wandb=disabled", "batch_size=300", "rho=0", "weight_decay=0", "max_steps=3", "sharpness=none"]
    idle = ["m=300", "micro_batch=400", "rho_schedule=like_lr", "weight_decay_in=loss"]
    results = []
    for folder, words in ((tmp_path / "plain", plain), (tmp_path / "idle", [*plain, *idle])):
        folder.mkdir()
        assert command(train.main, folder, *words).code == 0
        results += [(path.relative_to(folder), json.loads(path.read_text())) for path in folder.glob("**/result.json")]
    (home, result), (same_home, same) = results
    assert (home, result["weights_sha256"]) == (same_home, same["weights_sha256"])
