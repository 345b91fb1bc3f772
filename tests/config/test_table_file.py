"""What a table file may say, and what is refused."""

import pytest
import yaml

from sam_repro.config.table_file import Pick, TableError, spell_words
from sam_repro.config.table_reader import parse_table

CELLS = """
title: t
cells:
  - name: "sam {rho}"
    set: {optimizer: sam}
    grid: {rho: [0.1, 0.2]}
  - name: sgd
    set: {optimizer: sgd}
"""


def table(more="", cells=CELLS):
    return parse_table("mine", yaml.safe_load(cells + more))


def test_cells_of_a_grid():
    cells = table("recipe: r\nset: {lr: 0.2, nesterov: true, m: null}\n").cells
    assert [(cell.index, cell.name, cell.series) for cell in cells] == [
        (0, "sam 0.1", "sam {rho}"),
        (1, "sam 0.2", "sam {rho}"),
        (2, "sgd", "sgd"),
    ]
    assert cells[1].overrides == {"optimizer": "sam", "rho": 0.2}


def test_a_cell_as_a_command_line():
    mine = table("recipe: r\nset: {lr: 0.2, base_optimizer.nesterov: true, m: null}\n")
    assert spell_words(mine.overrides(mine.cell(0))) == [
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


def test_the_last_key_of_a_grid_moves_fastest():
    cells = table(
        cells='title: t\ncells: [{name: "{a} {b.c}", set: {d: "x{a}"}, grid: {a: [1, 2], b.c: [3, 4]}}]\n'
    ).cells
    assert [cell.name for cell in cells] == ["1 3", "1 4", "2 3", "2 4"]
    assert cells[2].overrides == {"d": "x2", "a": 2, "b.c": 3}


def test_claims_one_by_one_and_as_a_group():
    claims = table(
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


def test_a_number_of_the_literature_is_of_no_cell_and_of_any_metric():
    (claim,) = table("claims: [{row: MentorNet, literature: true, value: 92, metric: images/s}]\n").claims
    assert (claim.readings, claim.value, claim.metric, claim.literature) == ({}, 92, "images/s", True)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("claim: []", "claim: no such field; there are title, source"),
        ("seeds: 3", "seeds: must be a list"),
        ("seeds: [0, -1]", "seeds = -1: must be an integer >= 0"),
        ("metrics: [error_pct]", "metric = error_pct: must be a path such as test/error_pct"),
        ("claims: [{row: r, cell: sma, value: 1}]", "r: no cell of the name sma"),
        ("claims: [{row: r, value: 1}]", "r: needs one of cell, best_of, candidates"),
        ("claims: [{row: r, cell: sgd, best_of: [sgd], value: 1}]", "r: needs one of"),
        ("claims: [{row: r, best_of: [sgd, sam 0.1], value: 1}]", "r: best_of needs by: test or by: validation"),
        ("claims: [{row: r, cell: sgd, vlaue: 1}]", "r: vlaue: no such field"),
        ("claims: [{row: r, cell: sgd, of: [{radius: 1}]}]", "r: radius: no such field"),
        ("claims: [{row: r, cell: sgd, value: '79,2'}]", "r: value = '79,2': must be a finite number, or null"),
        ("claims: [{row: r, cell: sgd, value: 1, spread: se}]", "r: spread = se: must be one of ci95, ci68, sd"),
        ("claims: [{row: r, cell: sgd, value: 1, bound: about}]", "r: bound = about: must be one of"),
        ("claims: {row: r}", "must be a list"),
        ("claims: [{cell: sgd}]", "row is missing"),
        ("effects: [{name: e, cell: sgd, twin: no, equal: epochs}]", "effects: e: twin = false: must be a text"),
        ("effects: [{name: e, cell: sgd, twin: nope, equal: epochs}]", "effects: e: no cell of the name nope"),
        ("effects: [{name: e, cell: sgd}]", "twin, equal is missing"),
        ("search: {over: rho, metric: test/error_pct, series: 'sam {rho}'}", "the validation split chooses"),
        ("search: {over: rho, metric: validation/error_pct, series: sgd}", "no cells of the series sgd that set rho"),
        ("plot: {x: rho}", "plot: y is missing"),
        ("plot: {surfaces: landscape, x: rho}", "plot: x: no such field; there are surfaces"),
        ("plot: {surfaces: [landscape]}", "plot: surfaces = [landscape]: must be a text"),
        ("plot: rho", "plot: must be a mapping"),
        ("metrics: [test/eror_pct]", "metric = test/eror_pct: no such number; did you mean test/error_pct?"),
        ("metrics: [sharpness/lambda_max]", "metric = sharpness/lambda_max: must name a measure and one of its values"),
        (
            "search: {over: rho, metric: validation/eror_pct, series: 'sam {rho}'}",
            "metric = validation/eror_pct: no such number; did you mean validation/error_pct?",
        ),
        ("metrics: []", "metrics: must be a list of different ones, at least one"),
        ("metrics: [test/loss, test/loss]", "metrics: must be a list of different ones"),
        ("seeds: [0, 0]", "seeds: must be a list of different ones"),
        ("title: [a]", "title = [a]: must be a text"),
        ("notes: one note", "notes: must be a list"),
        ("set: [lr]", "set: must be a mapping"),
        ("set: {seed: 5}", "set: seed: a cell has none"),
        ("claims: [{row: r, cell: sgd, metric: test/loss}]", "neither a percentage nor a sharpness, so it needs a"),
        (
            "claims: [{row: r, cell: sgd, metric: test/loss, tolerance: 0}]",
            "r: tolerance = 0: must be a finite number > 0",
        ),
        ("claims: [{row: r, cell: sgd, literature: true, value: 1}]", "r: literature: true is shown and not run"),
        ("claims: [{row: r, literature: false, value: 1}]", "r: literature: true is shown and not run"),
        ("claims: [{row: r, literature: true}]", "r: literature: needs a value"),
        ("claims: [{row: r, cell: sgd, epoch: first}]", "r: epoch = first: must be a finite number > 0, or null"),
        ("claims: [{row: r, candidates: [sgd]}]", "r: candidates: must be a mapping"),
        ("claims: [{row: r, cell: sgd, of: {a: 1}}]", "of: must be a list"),
        ("claims: [{row: r, cell: sgd, of: [1]}]", "of: must be a mapping"),
        ("claims: [{row: r, cell: sgd, derived: 2 * a}]", "r: derived: no candidate of the name a"),
        ("claims: [{row: r, candidates: {a: sgd}, derived: a **}]", "a **: is no formula"),
        ("claims: [{row: r, candidates: {a: sgd}, derived: 3}]", "3: is no formula"),
        (
            "claims: [{row: r, best_of: [sgd, sam 0.1], by: test, metric: sharpness/a/b}]",
            "best_of is of a metric of the test or the validation split",
        ),
        ("effects: [{name: e, cell: sgd, twin: sgd, equal: epochs}]", "a cell is no twin of itself"),
        ("effects: [{name: e, cell: sgd, twin: sam 0.1, equal: nothing}]", "equal = nothing: must be one of epochs"),
        (
            "search: {over: rho, metric: validation/error_pct, series: 'sam {rho}', per: lr}",
            "search.per = lr: the cells",
        ),
        ("plot: {x: rho, y: test/loss}", "plot: y = 'test/loss': must be one of 'test/error_pct'"),
        ("plot: {x: lr, y: test/error_pct}", "plot: x = lr: no cell sets it"),
        ("plot: {x: [rho], y: test/error_pct}", "plot: x = [rho]: must be a text"),
        ("recipe: 3", "recipe = 3: must be a text"),
        ("claims: [{row: r, best_of: [[sgd]], by: test}]", "r: cell = [sgd]: must be a text"),
        ("effects: [{name: e, cell: {a: 1}, twin: sgd, equal: epochs}]", "effects: e: cell = {'a': 1}: must be a text"),
        ("search: {over: [rho], metric: validation/error_pct, series: s}", "search: over = [rho]: must be a text"),
        ("search: {over: rho, metric: [a], series: s}", "search: metric = [a]: must be a text"),
    ],
)
def test_what_cannot_be_meant_is_refused(more, told):
    with pytest.raises(TableError) as error:
        table(more + "\n")
    assert told in str(error.value)


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
        ("title: t\ncells: [{name: 3}]\n", "cells: name = 3: must be a text"),
        ("title: t\ncells: [{name: a, grid: [1]}]\n", "cells: grid: must be a mapping"),
        ("title: t\ncells: [{name: a, set: [1]}]\n", "cells: set: must be a mapping"),
        ("title: t\ncells: [{name: a, set: {seed: 1}}]\n", "cells: set: seed: a cell has none"),
    ],
)
def test_what_is_no_table_is_refused(cells, told):
    with pytest.raises(TableError) as error:
        table(cells=cells)
    assert told in str(error.value)


def test_a_place_may_bear_the_name_of_a_field():
    """The field stays what it says: {epoch} in the row does not take the epoch away from the claim."""
    (claim,) = table("claims: [{row: 'at epoch {epoch}', cell: sgd, epoch: 5, value: 1}]\n").claims
    assert (claim.row, claim.epoch, claim.value) == ("at epoch 5", 5, 1)
