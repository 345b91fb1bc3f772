"""What a table says of constructed runs: verdicts, readings, budgets, effects, and what may not be pooled."""

import csv
import dataclasses
import io
import json
import random

import numpy as np
import pytest
from scipy import stats

from sam_repro.table import plot, render
from sam_repro.table.report import difference

CLAIM = "claims: [{row: r, cell: sam 0.1, value: 10.0}]\n"


@pytest.mark.parametrize(
    ("errors", "claim", "word"),
    [
        ([9.9, 10.0, 10.1], "value: 10.0", "match"),
        ([11.9, 12.0, 12.1], "value: 10.0", "differs"),
        ([8.0, 10.0, 12.0], "value: 10.0", "inconclusive (60 more seeds)"),
        ([9.9, 10.1], "value: 10.0", "provisional"),
        ([89.9, 90.0, 90.1], "metric: test/accuracy_pct, value: 10.0", "match"),
        ([9.9, 10.0, 10.1], 'value: 10.0, bound: "<"', "a bound"),
        ([9.9, 10.0, 10.1], "value: null", "ours alone"),
        ([], "value: 10.0", "—"),
    ],
)
def test_verdicts(lab, errors, claim, word):
    if "inconclusive" in word:
        sd = np.std(errors, ddof=1)
        needed = next(n for n in range(4, 999) if stats.t.ppf(0.975, n - 1) * sd / np.sqrt(n) <= 0.6)
        word = f"inconclusive ({needed - 3} more seeds)"
    assert lab.word(errors, claim) == word


def test_a_suspect_claim_is_marked_and_says_why(lab):
    lab.tabled("claims: [{row: r, cell: sam 0.1, value: 10.0, suspect: pasted from another row}]\n")
    lab.runs("sam 0.1", [9.9, 10.0, 10.1])
    text = render.markdown(lab.report())
    assert "| match   | fp32 on cpu, threads: 1 | suspect |" in text
    assert "* suspect, r: pasted from another row." in text


def test_a_number_of_the_literature_is_shown_and_not_judged(lab):
    claim = "row: theirs, literature: true, metric: images/s, value: 501, plus_minus: 2, spread: ci68"
    table = lab.tabled(f"claims: [{{{claim}}}]\nplot: {{x: rho, y: test/error_pct}}\n")
    lab.runs("sam 0.1", [9.9, 10.0, 10.1])
    (judged,) = lab.report().claims
    assert (judged.word, judged.line.estimates) == ("literature", ())
    assert "501 ± 2 ci68" in render.markdown(lab.report())
    assert "tolerance" not in render._claim_record(judged)
    assert plot._printed(lab.report(), table.plot) == {}


def test_a_claim_of_a_cost_or_a_loss_says_its_tolerance(lab):
    lab.tabled("claims: [{row: r, cell: sam 0.1, metric: cost/passes, value: 99, tolerance: 2}]\n")
    lab.runs("sam 0.1", [9.9, 10.0, 10.1])
    (judged,) = lab.report().claims
    assert (judged.word, judged.delta) == ("match", 1)


def test_runs_of_two_versions_of_the_sources_are_pooled_and_marked(lab):
    lab.tabled(CLAIM)
    lab.runs("sam 0.1", [9.9, 10.0])
    lab.run("sam 0.1", 2, 10.1, sources="other")
    (judged,) = lab.report().claims
    assert (judged.word, judged.line.marks) == ("match", ("of 2 versions of the sources",))


def test_numerics_are_never_pooled(lab):
    lab.tabled(CLAIM)
    lab.runs("sam 0.1", [9.9, 10.0, 10.1])
    lab.runs("sam 0.1", [12.0, 12.1, 12.2], numerics={"precision": "bf16"})
    rows = [(judged.line.numerics, judged.word, judged.line.estimates[0].n) for judged in lab.report().claims]
    assert sorted(rows) == [("bf16 on cpu, threads: 1", "differs", 3), ("fp32 on cpu, threads: 1", "match", 3)]
    assert len({line.numerics for line in lab.report().cells if line.row == "sam 0.1"}) == 2


def test_a_cut_budget_is_a_row_of_its_own_and_counts_for_no_claim(lab):
    lab.tabled(CLAIM)
    lab.runs("sam 0.1", [30.0, 30.1, 30.2], own=("epochs=3",))
    lab.run("sam 0.1", 0, 60.0, own=("max_steps=40",), done_epochs=2.5)
    lab.run("sam 0.1", 0, 90.0, own=("max_steps=3",), done_epochs=0.2)  # to time a pass
    lab.run("sam 0.1", 0, 50.0, own=("epochs=3", "lr=0.05"))  # another cell
    report = lab.report()
    (judged,) = report.claims
    assert judged.word == "—"
    lines = {line.marks: line.estimates[0] for line in report.cells if line.row == "sam 0.1" and line.marks}
    assert {marks: ours.mean for marks, ours in lines.items()} == {
        ("cut budget: 3 of 20 epochs, 50 steps",): pytest.approx(30.1),
        ("cut budget: 50 steps of 20 epochs",): 60.0,
    }
    assert report.missing(lab.table.cell("sam 0.1")) == [0, 1, 2]


def test_a_longer_run_and_a_run_of_another_cell_are_no_cut_budget(lab):
    """ "sgd twice" is "sgd" with twice the epochs."""
    lab.runs("sgd", [10.0, 11.0])
    lab.runs("sgd twice", [9.0, 10.0])
    lab.run("sgd twice", 0, 8.0, own=("epochs=80",))
    lab.run("sgd", 1, 8.0, own=("epochs=80", "max_steps=100"))  # of a longer schedule
    assert not any("cut budget" in mark for line in lab.report().cells for mark in line.marks)


def test_a_mean_of_a_part_of_the_seeds_says_so(lab):
    """A seed whose value is not finite, or was not measured, may not disappear."""
    lab.runs("sam 0.1", [10.0, 11.0])
    folder = lab.run("sam 0.1", 2)
    result = json.loads((folder / "result.json").read_text())
    result["metrics"]["test"]["last"]["loss"] = None
    (folder / "result.json").write_text(json.dumps(result))
    lab.table = dataclasses.replace(lab.table, metrics=("test/error_pct", "test/loss"))
    line = next(line for line in lab.report().cells if line.row == "sam 0.1")
    assert line.marks == ("test/loss: in no run",)


def test_only_the_cells_own_runs_count(lab):
    """Another learning rate, another seed of the label noise: other cells. Bookkeeping: the same cell."""
    lab.run("sam 0.1", 0, own=("lr=0.05",))
    lab.run("sam 0.1", 0, own=("label_noise.seed=1",))
    assert lab.report().missing(lab.table.cell("sam 0.1")) == [0, 1, 2]
    lab.run("sam 0.1", 1, own=("name=elsewhere", "record_every=7"))
    assert lab.report().missing(lab.table.cell("sam 0.1")) == [0, 2]


BEST = "claims: [{row: r, best_of: [sgd, sgd twice], by: %s, value: 10.0, runs: 5}]\n"


@pytest.mark.parametrize(("by", "mean"), [("test", 10.0), ("validation", 12.0)])
def test_best_of_several_cells_by_what_is_said(lab, by, mean):
    lab.tabled(BEST % by)
    for seed in range(3):
        lab.run("sgd", seed, 10.0 + seed / 10 - 0.1, validation=21.0)
        lab.run("sgd twice", seed, 12.0 + seed / 10 - 0.1, validation=20.0)
    (judged,) = lab.report().claims
    assert judged.line.estimates[0].mean == pytest.approx(mean)
    name = "sgd" if by == "test" else "sgd twice"
    assert judged.line.marks == (f"{name}: best of 2 of 2 cells by {by}",)


def test_best_of_accuracies_is_the_largest(lab):
    lab.tabled("claims: [{row: r, best_of: [sgd, sgd twice], by: test, metric: test/accuracy_pct, value: 90.0}]\n")
    lab.run("sgd", 0, 12.0)
    lab.run("sgd twice", 0, 10.0)
    (judged,) = lab.report().claims
    assert judged.line.estimates[0].mean == 90.0


def test_best_of_says_how_many_are_there(lab):
    lab.tabled(BEST % "test")
    lab.runs("sgd", [10.0, 10.1, 10.2])
    (judged,) = lab.report().claims
    assert judged.line.marks == ("sgd: best of 1 of 2 cells by test",)
    assert judged.word == "incomplete", "the best of a part may not be the best"


def test_each_reading_is_shown(lab):
    lab.tabled("claims: [{row: r, candidates: {text: sam 0.1, code: sam 0.2, later: not yet}, value: 10.0}]\n")
    lab.runs("sam 0.1", [9.9, 10.0, 10.1])
    lab.runs("sam 0.2", [12.9, 13.0, 13.1])
    words = {judged.reading: judged.word for judged in lab.report().claims}
    assert words == {"text": "match", "code": "differs", "later": "waiting: something"}


def test_a_claim_of_an_epoch_is_read_from_its_row(lab):
    lab.tabled("claims: [{row: r, cell: sam 0.1, metric: test/error_pct, epoch: 5, value: 40.0}]\n")
    for seed in range(3):
        rows = {5: {"test/error_pct": 40.0 + seed / 10}, 20: {"test/error_pct": 10.0}}
        lab.run("sam 0.1", seed, epochs=rows)
    (judged,) = lab.report().claims
    assert judged.line.estimates[0].mean == pytest.approx(40.1)


def test_means_over_an_epoch_of_the_training(lab):
    lab.tabled("claims: [{row: r, cell: sam 0.1, metric: epoch/elements_larger_pct, value: 85, bound: '~'}]\n")
    lab.run("sam 0.1", epochs={1: {"epoch/elements_larger_pct": 50.0}, 20: {"epoch/elements_larger_pct": 80.0}})
    (judged,) = lab.report().claims
    assert (judged.word, judged.delta) == ("a bound", -5.0)


def test_a_formula_is_evaluated_for_each_seed_that_all_have(lab):
    lab.tabled(
        "claims: [{row: r, derived: 100 * (sgd - sam) / sgd, candidates: {sam: sam 0.1, sgd: sgd}, value: 20.0}]\n"
    )
    lab.runs("sam 0.1", [8.0, 9.0, 7.0])
    lab.runs("sgd", [10.0, 12.0])
    (judged,) = lab.report().claims
    assert judged.line.estimates[0].mean == pytest.approx((20.0 + 25.0) / 2)
    assert judged.line.estimates[0].n == 2


EFFECT = "effects: [{name: e, cell: sam 0.1, twin: sgd, equal: epochs}]\n"


def test_an_effect_is_paired_by_seed(lab):
    lab.tabled(EFFECT)
    ours, twin = [10.0, 30.0, 20.0], [12.0, 31.0, 23.0]
    lab.runs("sam 0.1", ours)
    lab.runs("sgd", [*twin, 99.0])
    ((_, _, effect, printed),) = lab.report().effects
    interval = stats.ttest_rel(ours, twin).confidence_interval(0.95)
    assert (effect.mean - effect.half, effect.mean + effect.half) == pytest.approx((interval.low, interval.high))
    assert (effect.n, printed) == (3, None)


def test_an_effect_pairs_no_two_numerics_and_knows_what_was_printed(lab):
    lab.tabled(EFFECT + "claims: [{row: a, cell: sam 0.1, value: 10.0}, {row: b, cell: sgd, value: 12.5}]\n")
    lab.runs("sam 0.1", [10.0, 30.0])
    lab.runs("sgd", [12.0, 31.0], numerics={"precision": "bf16"})
    ((_, _, effect, printed),) = lab.report().effects
    assert (effect, printed) == (None, -2.5)


def test_what_was_printed_of_a_cell_that_is_one_reading_of_its_claim(lab):
    effect = "effects: [{name: e, cell: sam 0.1, twin: sgd, equal: epochs}]\n"
    sam = "{row: sam, cell: sam 0.1, value: 7.5}"
    readings = "{row: sgd, candidates: {one: sgd, other: sam 0.2}, value: 10}"
    again = "{row: another, candidates: {one: sgd, other: sam 0.2}, value: 11}"
    lab.tabled(f"claims: [{sam}, {readings}]\n" + effect)
    assert lab.report().effects[0][3] == -2.5
    lab.tabled(f"claims: [{sam}, {readings}, {again}]\n" + effect)
    assert lab.report().effects[0][3] is None


SEARCH = "search: {over: rho, metric: validation/error_pct, series: 'sam {rho}', printed: {'': 0.1}}\n"


def test_the_search_takes_the_validation_splits_choice_whatever_the_test_set_says(lab):
    """rho 0.1 is planted luck: the best test error by far, and a worse validation error."""
    lab.tabled(SEARCH)
    for seed in range(3):
        lab.run("sam 0.1", seed, error=1.0, validation=20.0)
        lab.run("sam 0.2", seed, error=30.0, validation=19.0)
    (choice,) = lab.report().choices
    assert choice.chosen.name == "sam 0.2"
    assert [(value, line.estimates[0].mean) for value, line in choice.curve] == [(0.1, 20.0), (0.2, 19.0)]
    assert "| chosen |" in render.markdown(lab.report())


def test_the_search_takes_the_largest_accuracy(lab):
    lab.tabled(SEARCH.replace("error_pct", "accuracy_pct"))
    for seed in range(3):
        for cell, accuracy in (("sam 0.1", 80.0), ("sam 0.2", 90.0)):
            held = {"error_pct": 100 - accuracy, "accuracy_pct": accuracy}
            folder = lab.run(cell, seed)
            result = json.loads((folder / "result.json").read_text())
            result["metrics"]["validation"] = {"last": held, "best": held}
            (folder / "result.json").write_text(json.dumps(result))
    (choice,) = lab.report().choices
    assert choice.chosen.name == "sam 0.2"


def test_the_search_counts_the_seeds_of_one_numerics(lab):
    """Seed 0 in one, seeds 1 and 2 in the other: neither has the whole grid."""
    lab.tabled(SEARCH)
    for cell in ("sam 0.1", "sam 0.2"):
        lab.run(cell, 0, validation=10.0)
        for seed in (1, 2):
            lab.run(cell, seed, validation=20.0, numerics={"deterministic": True})
    report = lab.report()
    (choice,) = report.choices
    assert (choice.chosen, choice.missing) == (None, 2)
    assert report.missing(lab.table.cell("sam 0.1")) == [0]
    for cell in ("sam 0.1", "sam 0.2"):
        lab.run(cell, 0, validation=30.0, numerics={"deterministic": True})
    (choice,) = lab.report().choices
    assert choice.chosen.name == "sam 0.1"
    assert {line.estimates[0].n for _, line in choice.curve} == {3}


def test_the_search_takes_the_mean_over_seeds(lab):
    lab.tabled(SEARCH)
    for seed, (first, second) in enumerate([(10.0, 19.0), (30.0, 20.0), (20.0, 20.0)]):
        lab.run("sam 0.1", seed, validation=first)
        lab.run("sam 0.2", seed, validation=second)
    (choice,) = lab.report().choices
    assert choice.chosen.name == "sam 0.2"


def test_the_search_chooses_nothing_from_a_part_of_the_grid(lab):
    lab.tabled(SEARCH)
    for seed in range(3):
        lab.run("sam 0.1", seed, validation=20.0)
    lab.run("sam 0.2", 0, validation=10.0)
    (choice,) = lab.report().choices
    assert (choice.chosen, choice.missing) == (None, 2)


def test_the_search_chooses_nothing_across_numerics(lab):
    lab.tabled(SEARCH)
    for seed in range(3):
        lab.run("sam 0.1", seed, validation=20.0)
        lab.run("sam 0.2", seed, validation=10.0, numerics={"precision": "bf16"})
    (choice,) = lab.report().choices
    assert choice.chosen is None


def test_the_rendered_table_does_not_depend_on_the_order_of_the_runs(lab, tmp_path):
    lab.tabled(CLAIM + EFFECT + "plot: {x: rho, y: test/error_pct}\n")
    runs = [("sam 0.1", seed, 10 + seed / 7) for seed in range(3)] + [("sgd", seed, 12 + seed / 3) for seed in range(3)]
    texts = set()
    for attempt in range(3):
        lab.outputs = tmp_path / f"outputs{attempt}"
        random.Random(attempt).shuffle(runs)
        for cell, seed, error in runs:
            lab.run(cell, seed, error)
        report = lab.report()
        texts.add((render.markdown(report), render.comma_separated(report), plot.picture(report)))
    assert len(texts) == 1


def test_the_csv_is_one_table_of_unrounded_numbers(lab):
    lab.tabled("claims: [{row: 'a, b', cell: sam 0.1, value: 10.0, plus_minus: 0.1, runs: 5}]\n" + EFFECT)
    lab.runs("sam 0.1", [10.0, 10.1, 10.15])
    lab.runs("sgd", [11.0, 11.3])
    rows = list(csv.DictReader(io.StringIO(render.comma_separated(lab.report()))))
    assert [row["part"] for row in rows] == ["claim", "cell", "cell", "effect"]
    claim, cell, _, effect = rows
    assert claim["row"] == "a, b"
    assert float(claim["mean"]) == float(cell["mean"]) == pytest.approx(np.mean([10.0, 10.1, 10.15]), rel=1e-12)
    assert (claim["verdict"], claim["n"], claim["tolerance"]) == ("match", "3", "0.3")
    assert float(effect["mean"]) == pytest.approx(-1.1)


def test_the_picture_shows_what_there_is(lab):
    lab.tabled("claims: [{row: r, cell: sam 0.1, value: 10.0}]\nplot: {x: rho, y: test/error_pct}\n")
    printed_alone = plot.picture(lab.report())
    lab.runs("sam 0.1", [9.0, 9.5])
    both = plot.picture(lab.report())
    assert printed_alone.startswith(b"\x89PNG")
    assert both.startswith(b"\x89PNG")
    assert both != printed_alone
    lab.runs("sgd", [11.0, 11.5])  # has no rho: a level
    assert plot.picture(lab.report()) not in (both, printed_alone)
    assert plot._levels(lab.report(), lab.table.plot) == [("sgd (fp32 on cpu, threads: 1)", 11.25)]
    lab.tabled("")
    assert plot.picture(lab.report()) is None


def test_metrics_that_a_run_does_not_have_are_no_number(lab):
    lab.tabled("claims: [{row: r, cell: sam 0.1, metric: sharpness/lambda_max/value, value: 10.0}]\n")
    found = {"lambda_max": {"values": {"lambda_max": 10.0}, "protocol": {}}}
    lab.runs("sam 0.1", [9.9, 10.0, 10.1], sharpness=found)
    (judged,) = lab.report().claims
    assert (judged.word, judged.line.estimates) == ("—", (None,))
    assert judged.line.marks == (
        "sharpness/lambda_max/value: in no run; did you mean sharpness/lambda_max/lambda_max?",
    )


def test_difference_names_keys_and_both_values():
    ours = {"lr": 0.1, "optimizer": {"rho": 0.1}, "choices": {"optimizer": "sam"}}
    other = {"lr": 0.1, "optimizer": {}, "m": 32, "choices": {"optimizer": "sgd"}}
    assert difference(ours, other) == [("m", None, 32), ("optimizer.rho", 0.1, None)]
