"""Cells that leave a value to who runs them: which runs count, and what is never averaged."""

import pytest

from sam_repro.config.command_line import read_command
from sam_repro.config.lines import compose_line, compose_sweep
from sam_repro.errors import UserError
from sam_repro.table.cost import prices

CELLS = """
title: Cells with a place to fill
recipe: digits/label_noise
set: {optimizer: sam}
seeds: [0, 1, 2]
cells:
  - {name: any radius, set: {rho: "???"}}
  - {name: any weights, set: {rho: 0.2, architecture.weights: "???"}}
"""


@pytest.fixture
def opened(lab):
    lab.tabled("", CELLS)
    return lab


def lines(lab, cell):
    return [
        (line.numerics, line.estimates[0].mean, line.estimates[0].n)
        for line in lab.report().cells
        if line.row == cell and line.estimates
    ]


def test_each_value_that_was_given_has_a_line(opened):
    for seed, error in enumerate((10, 12)):
        opened.run("any radius", seed, error, own=("rho=0.1",))
    opened.run("any radius", 2, 30, own=("rho=0.3",))
    opened.run("any radius", 2, 50, own=("rho=0.1", "lr=0.7"))
    assert lines(opened, "any radius") == [
        ("fp32 on cpu, threads: 1, rho 0.1", 11, 2),
        ("fp32 on cpu, threads: 1, rho 0.3", 30, 1),
    ]
    assert opened.report().missing(opened.table.cell(0)) == [2]


def test_a_file_counts_by_its_content_wherever_it_lies(opened, tmp_path):
    for name, content in {"a.pt": "one", "copy.pt": "one", "b.pt": "two"}.items():
        (tmp_path / name).write_text(content)
    for seed, name in enumerate(("a.pt", "copy.pt", "b.pt")):
        opened.run("any weights", seed, 10 * seed, own=(f"architecture.weights={tmp_path / name}",))
        assert "architecture.weights sha256:" in lines(opened, "any weights")[0][0]
    opened.run("any weights", 1, 90, own=("architecture.weights=null",))
    (one, *first), (two, *second) = lines(opened, "any weights")
    assert (first, second) == ([5, 2], [20, 1])
    assert one != two
    assert all(text.startswith("fp32 on cpu, threads: 1, architecture.weights sha256:") for text in (one, two))


def test_a_shorter_run_is_a_cut_budget_of_it(opened):
    opened.run("any radius", 0, 40, own=("rho=0.1", "epochs=7"))
    (line,) = [line for line in opened.report().cells if line.estimates]
    assert line.marks[0].startswith("shortened: 7 of 20 epochs")


def test_what_it_costs_is_known_before(opened):
    config = opened.report().configs["any radius"]
    assert (
        prices({"it": config}, [])[0]["it"].cost
        == prices({"it": compose_line(["experiment=digits/label_noise"])}, [])[0]["it"].cost
    )


def test_a_line_that_leaves_something_open_does_not_run():
    with pytest.raises(UserError) as refusal:
        compose_sweep(read_command(["experiment=foret2021/finetune"]))
    assert str(refusal.value).startswith("architecture.weights = ???: is yours to give (appendix C.2: a file of Eff")
    assert str(refusal.value).endswith("; write architecture.weights=…")
    assert (
        compose_line(["experiment=foret2021/finetune", "architecture.weights=null"])["architecture"]["weights"] is None
    )
