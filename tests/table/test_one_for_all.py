"""What is wrong with one cell takes nothing from the others."""

import shlex

import pytest
from called import command

from sam_repro import train
from sam_repro.table import __main__ as door

QUIET = ["wandb=disabled", "sharpness=none", "progress=silent", "record_every=null", "max_steps=1"]
CELLS = """
title: "cells of | several\\nkinds"
seeds: [0]
cells:
  - {name: "plain\\ncell", set: {epochs: 1, data_dir: "my, data=1"}}
  - {name: elsewhere, set: {device: cuda}}
  - {name: odd, set: {base_optimizer: adamw, base_optimizer.betas: [0.9]}}
  - {name: unknown, set: {lrr: 0.1}}
notes: ["a\\nnote"]
"""


@pytest.fixture
def said(tmp_path):
    (tmp_path / "my configs/table").mkdir(parents=True)
    (tmp_path / "my configs/table/mine.yaml").write_text(CELLS)
    return command(door.main, tmp_path, "mine", "--config-dir", "my configs")


def test_a_table_with_cells_that_cannot_run_here(said):
    assert said.code == 0, said.err
    assert "1  0/1    elsewhere: missing  device = cuda: this machine has no CUDA device" in said.out
    assert "2  0/1    odd: missing  base_optimizer.betas = [0.9]: must be a list of 2 numbers" in said.out
    assert (
        "3         unknown: waiting: a correction of its file: cell = 3 (unknown) of mine: lrr: no such key" in said.out
    )


def test_the_printed_command_can_be_pasted(said, tmp_path):
    (line,) = [line for line in said.out.splitlines() if line.startswith("to run")]
    python, dash_m, module, *words = shlex.split(line.removeprefix("to run"))
    assert (python, dash_m, module) == ("python", "-m", "sam_repro.train")
    ended = command(train.main, tmp_path, *words, *QUIET)
    assert ended.code == 0, ended.err
    assert (tmp_path / "outputs/runs").is_dir()


def test_every_row_of_the_table_is_a_line(said, tmp_path):
    lines = (tmp_path / "outputs/tables/mine/table.md").read_text().splitlines()
    assert lines[0] == "# cells of | several kinds"
    assert "* a note" in lines
    rows = [line for line in lines if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["plain cell", "elsewhere", "odd", "unknown"]


def test_a_sweep_with_a_line_that_cannot_run_here(tmp_path):
    ended = command(train.main, tmp_path, "-m", "device=cpu,cuda", *QUIET)
    assert ended.code == 1
    assert "device = cuda: this machine has no CUDA device" in ended.out
    assert ended.err.count("no CUDA device") == 1
    assert "shortened: 1 step" in ended.out
