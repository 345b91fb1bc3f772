"""What a table file may say, and what is refused."""

import pytest

from sam_repro.table.spec import Pick, TableError, read, written

CELLS = """
title: t
cells:
  - name: "sam {rho}"
    set: {optimizer: sam}
    grid: {rho: [0.1, 0.2]}
  - name: sgd
    set: {optimizer: sgd}
"""


def table(tmp_path, more="", cells=CELLS):
    file = tmp_path / "mine.yaml"
    file.write_text(cells + more)
    return read("mine", file)


def test_cells_of_a_grid(tmp_path):
    cells = table(tmp_path, "recipe: r\nset: {lr: 0.2, nesterov: true, m: null}\n").cells
    assert [(cell.index, cell.name, cell.series) for cell in cells] == [
        (0, "sam 0.1", "sam {rho}"),
        (1, "sam 0.2", "sam {rho}"),
        (2, "sgd", "sgd"),
    ]
    assert cells[1].overrides == {"optimizer": "sam", "rho": 0.2}


def test_a_cell_as_a_command_line(tmp_path):
    mine = table(tmp_path, "recipe: r\nset: {lr: 0.2, base_optimizer.nesterov: true, m: null}\n")
    assert written(mine.overrides(mine.cell(0))) == [
        "experiment=r",
        "lr=0.2",
        "base_optimizer.nesterov=true",
        "m=null",
        "optimizer=sam",
        "rho=0.1",
    ]
    assert mine.cell("sam 0.1") is mine.cell(0)
    for which in (3, -1, "sam", "0"):
        with pytest.raises(TableError, match="mine has the cells 0 … 2"):
            mine.cell(which)


def test_the_last_key_of_a_grid_moves_fastest(tmp_path):
    cells = table(
        tmp_path, cells='title: t\ncells: [{name: "{a} {b.c}", set: {d: "x{a}"}, grid: {a: [1, 2], b.c: [3, 4]}}]\n'
    ).cells
    assert [cell.name for cell in cells] == ["1 3", "1 4", "2 3", "2 4"]
    assert cells[2].overrides == {"d": "x2", "a": 2, "b.c": 3}


def test_claims_one_by_one_and_as_a_group(tmp_path):
    claims = table(
        tmp_path,
        """
claims:
  - row: "SAM {radius}"
    cell: "sam {radius}"
    runs: 5
    of: [{radius: 0.1, value: 2.7, plus_minus: 0.1}, {radius: 0.2, value: 2.8, suspect: odd}]
  - {row: both, best_of: [sgd, sam 0.1], by: test, metric: test/accuracy_pct, value: 97}
  - row: readings
    candidates: {one: sgd, other: [sam 0.1, sam 0.2]}
    by: validation
""",
    ).claims
    assert [(c.row, c.value, c.plus_minus, c.runs, c.suspect) for c in claims] == [
        ("SAM 0.1", 2.7, 0.1, 5, None),
        ("SAM 0.2", 2.8, None, 5, "odd"),
        ("both", 97, None, 1, None),
        ("readings", None, None, 1, None),
    ]
    assert claims[1].readings == {"": Pick(("sam 0.2",))}
    assert claims[2].readings == {"": Pick(("sgd", "sam 0.1"), "test")}
    assert claims[3].readings == {"one": Pick(("sgd",)), "other": Pick(("sam 0.1", "sam 0.2"), "validation")}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("claim: []", "claim: no such field; there are title, source"),
        ("seeds: 3", "seeds: must be a list of whole numbers"),
        ("seeds: [0, -1]", "seeds: must be a list of whole numbers"),
        ("metrics: [error_pct]", "metric = error_pct: must be a path such as test/error_pct"),
        ("claims: [{row: r, cell: sma, value: 1}]", "r: no cell of the name sma"),
        ("claims: [{row: r, value: 1}]", "r: needs one of cell, best_of, candidates"),
        ("claims: [{row: r, cell: sgd, best_of: [sgd], value: 1}]", "r: needs one of"),
        ("claims: [{row: r, best_of: [sgd, sam 0.1], value: 1}]", "r: best_of needs by: test or by: validation"),
        ("claims: [{row: r, cell: sgd, vlaue: 1}]", "r: vlaue: no such field"),
        ("claims: [{row: r, cell: sgd, of: [{radius: 1}]}]", "r: radius: no such field"),
        ("claims: [{row: r, cell: sgd, value: '79,2'}]", "r: value = '79,2': must be a finite number, or null"),
        ("claims: [{row: r, cell: sgd, value: 1, spread: se}]", "r: spread = se: must be one of ci95, sd"),
        ("claims: [{row: r, cell: sgd, value: 1, bound: about}]", "r: bound = about: must be one of"),
        ("claims: {row: r}", "must be a list"),
        ("claims: [{cell: sgd}]", "row is missing"),
        ("effects: [{name: e, cell: sgd, twin: no, equal: epochs}]", "no cell of the name"),
        ("effects: [{name: e, cell: sgd}]", "twin, equal is missing"),
        ("search: {over: rho, metric: test/error_pct, series: 'sam {rho}'}", "the validation split chooses"),
        ("search: {over: rho, metric: validation/error_pct, series: sgd}", "no cells of the series sgd that set rho"),
        ("plot: {x: rho}", "plot: y is missing"),
        ("cells: [", "no YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, more, told):
    with pytest.raises(TableError) as error:
        table(tmp_path, more + "\n")
    assert told in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ("title: t\n", "a table has at least one"),
        ("title: t\ncells: [{name: a}, {name: a}]\n", "cells: a: a name is for one cell"),
        ("title: t\ncells: [{name: a, grid: {rho: [1, 2]}}]\n", "a name is for one cell"),
        ("cells: [{name: a}]\n", "title is missing"),
        ("title: t\ncells: [{name: a, sets: {}}]\n", "sets: no such field"),
        ("- 1\n", "must be a mapping"),
        ("title: t\ncells: [a]\n", "must be a mapping"),
        ("title: t\ncells: [{name: a, grid: {rho: 0.1}}]\n", "grid: rho: must be a list"),
        ("title: t\ncells: {a: 1}\n", "cells: must be a list"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, cells, told):
    with pytest.raises(TableError) as error:
        table(tmp_path, cells=cells)
    assert told in str(error.value)
