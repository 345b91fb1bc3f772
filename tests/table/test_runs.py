"""What lies below the folders: finished, unfinished, damaged, of another schema, twice."""

import dataclasses
import fcntl
import json
import shutil

import pytest

from sam_repro.table import render, runs


@pytest.fixture
def two(lab):
    """Two runs of "sam 0.1", the first of which a test damages."""
    return lab.runs("sam 0.1", [10.0, 11.0])


def rewritten(folder, change):
    file = folder / "result.json"
    result = json.loads(file.read_text())
    change(result)
    file.write_text(json.dumps(result))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "result.json").write_text('{"schema": 1, "se'), "damaged"),
        (lambda folder: (folder / "result.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "result.json").write_bytes(b"\xff\xfe"), "damaged"),
        (lambda folder: rewritten(folder, lambda result: result.pop("metrics")), "metrics is missing"),
        (
            lambda folder: rewritten(folder, lambda result: result["metrics"].update(test={})),
            "metrics.test.last is missing",
        ),
        (lambda folder: rewritten(folder, lambda result: result.update(schema=3)), "schema 3, this version reads"),
        (lambda folder: rewritten(folder, lambda result: result.update(config=None)), "damaged"),
        (lambda folder: rewritten(folder, lambda result: result.update(cost=None)), "damaged"),
    ],
)
def test_a_damaged_result_is_named_and_the_others_count(lab, two, damage, told):
    damage(two[0])
    found = lab.report().found
    assert [run.seed for run in found.runs] == [1]
    (problem,) = found.problems
    assert problem.startswith(f"{two[0]}: damaged, not counted (")
    assert told in problem


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text('{"kind": "epoch", "step": 20, "epoch": 9}\n'),
        lambda file: file.write_text('{"kind": "epoch", "step": 49, "epo'),
        lambda file: file.write_text(""),
        lambda file: file.unlink(),
    ],
)
def test_a_cut_record_is_named_and_only_what_it_alone_holds_is_lost(lab, two, damage):
    damage(two[0] / "metrics.jsonl")
    found = lab.report().found
    assert [run.seed for run in found.runs] == [0, 1]
    (problem,) = found.problems
    assert str(two[0] / "metrics.jsonl") in problem
    cut = found.runs[0]
    assert cut.value("test/error_pct") == 10.0
    assert cut.value("test/error_pct", epoch=20) is None
    assert cut.value("epoch/loss") is None


def test_a_record_that_is_broken_in_the_middle_has_no_rows(lab, two):
    file = two[0] / "metrics.jsonl"
    file.write_text('{"kind": "epoch", "step"\n' + file.read_text())
    assert lab.report().found.runs[0].value("test/error_pct", epoch=20) is None


def test_links_are_followed_and_not_in_circles(lab, two, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/runs").symlink_to(lab.outputs)
    (lab.outputs / "back").symlink_to(tmp_path / "linked")
    report = lab.report(tmp_path / "linked")
    assert [(run.seed, run.copies) for run in report.found.runs] == [(0, ()), (1, ())]
    assert not report.found.problems


def test_states_of_what_is_not_finished(lab):
    folders = lab.runs("sam 0.1", [1.0, 2.0, 3.0])
    for folder in folders:
        config = json.loads((folder / "result.json").read_text())["config"]
        (folder / "run.json").write_text(json.dumps({"config": config}))
        (folder / "result.json").unlink()
    (folders[1] / "failed.json").write_text('{"error": "the loss of step 3 is not finite", "step": 3}')
    lock = folders[2].parent / ".seed=2.lock"
    lock.touch()
    (folders[0].parent / ".seed=0.lock").touch()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        report = lab.report()
        assert report.state(lab.table.cell("sam 0.1")) == (
            "seed 0: broken off; seed 1: failed: the loss of step 3 is not finite; seed 2: running"
        )
    assert report.state(lab.table.cell("sam 0.2")) == "missing"
    assert report.state(lab.table.cell("not yet")) == "waiting: something"


def test_a_cell_is_done_with_the_seeds_of_the_table(lab):
    lab.runs("sam 0.1", [1.0, 2.0, 3.0])
    assert lab.report().state(lab.table.cell("sam 0.1")) == "done"


def test_what_was_set_aside_does_not_count(lab, two):
    two[0].rename(two[0].with_name("seed=0.aside-1"))
    assert [run.seed for run in lab.report().found.runs] == [1]


def test_several_roots_are_read_together(lab, two, tmp_path):
    other = tmp_path / "other"
    shutil.move(two[1], other / "runs/main/cell/seed=1")
    assert [run.seed for run in lab.report(lab.outputs, other).found.of(lab.report().sought["sam 0.1"])] == [0, 1]
    assert not lab.report(lab.outputs, other).found.problems


def test_of_the_same_run_twice_one_counts_silently(lab, two):
    shutil.copytree(two[0], lab.outputs / "evidence/mine/runs/cell/seed=0")
    found = lab.report().found
    assert [run.folder for run in found.runs] == two
    assert not found.problems


def test_of_two_different_runs_of_one_seed_the_first_counts_and_the_other_is_named(lab, two):
    again = lab.outputs / "evidence/mine/runs/cell/seed=0"
    shutil.copytree(two[0], again)
    rewritten(again, lambda result: result.update(weights_sha256="other"))
    found = lab.report().found
    assert [run.folder for run in found.runs] == two
    assert found.problems == [f"{again}: not counted, because {two[0]} is of the same cell and seed"]


def test_a_run_of_ones_own_comes_before_kept_evidence_whose_inputs_were_not_recorded(lab):
    """Evidence of seeds 0 and 1, older than the recording of inputs, and a run of seed 0: never the older number."""
    for seed, error in ((0, 30.0), (1, 40.0)):
        folder = lab.run("sam 0.1", seed, error)
        rewritten(folder, lambda result: result.update(inputs=None))
        shutil.move(folder, lab.outputs / f"evidence/mine/runs/cell/{folder.name}")
    own = lab.run("sam 0.1", 0, 10.0)
    rewritten(own, lambda result: result.update(inputs="digest", weights_sha256="other"))
    report = lab.report()
    (line,) = [line for line in report.cells if line.row == "sam 0.1"]
    assert (line.estimates[0].mean, line.estimates[0].n) == (25.0, 2)
    assert line.marks == ("kept evidence: 1 of 2 runs", "inputs not recorded: in 1 of 2 runs")
    (problem,) = report.found.problems
    assert "seed=0: not counted, because" in problem
    assert str(own) in problem


def test_a_run_whose_inputs_were_not_recorded_hides_none_of_two_others(lab):
    """It comes first, and may be of the data of either, so that it is neither."""
    for name, inputs in (("a", None), ("b", "one"), ("c", "two")):
        folder = lab.run("sam 0.1", 0, 10.0, own=(f"name={name}",))
        rewritten(folder, lambda result, inputs=inputs: result.update(inputs=inputs, weights_sha256=inputs or "none"))
    report = lab.report()
    lines = [line for line in report.cells if line.row == "sam 0.1"]
    assert [line.numerics.rpartition("inputs ")[2] for line in lines] == ["not recorded", "one", "two"]
    assert [line.estimates[0].n for line in lines] == [1, 1, 1]
    assert report.found.problems == []


def test_of_many_runs_that_are_there_twice_one_line_tells(lab, two):
    for folder in two:
        again = lab.outputs / f"evidence/mine/runs/cell/{folder.name}"
        shutil.copytree(folder, again)
        rewritten(again, lambda result: result.update(weights_sha256="other"))
    (problem,) = lab.report().found.problems
    assert problem.endswith("is of the same cell and seed, nor are 1 others that another comes before")


def test_sharpness_of_two_protocols_is_never_pooled(lab):
    """The protocol that most runs have counts; the weights and the outcome are no part of it."""
    lab.table = dataclasses.replace(lab.table, metrics=("sharpness/m/v",))
    protocols = [{"solver": "power"}, {"solver": "lanczos", "weights_sha256": "a"}, {"solver": "lanczos", "outcome": 3}]
    for seed, protocol in enumerate(protocols):
        lab.run("sam 0.1", seed, sharpness={"m": {"values": {"v": 10.0**seed}, "protocol": protocol}})
    (line,) = [line for line in lab.report().cells if line.row == "sam 0.1"]
    assert (line.estimates[0].mean, line.estimates[0].n) == (55.0, 2)


def test_a_sharpness_of_other_settings_is_not_shown_and_these_are_said(lab):
    lab.table = dataclasses.replace(lab.table, metrics=("sharpness/m/v",))
    for seed, batches in enumerate((40, 40, 10)):
        protocol = {"settings": {"batches": batches, "mode": "eval"}}
        lab.run("sam 0.1", seed, sharpness={"m": {"values": {"v": 1.0}, "protocol": protocol}})
    (line,) = [line for line in lab.report().cells if line.row == "sam 0.1"]
    assert line.marks == ("sharpness/m/v: in 2 of 3 runs; 1 with other settings: batches 10",)


def test_sharpness_of_the_result_and_what_was_measured_later(lab):
    folder = lab.run("sam 0.1", sharpness={"lambda_max": {"values": {"lambda_max": 3.5}, "protocol": {}}})
    (folder / "sharpness").mkdir()
    later = {"schema": 1, "measure": "luong2024", "values": {"mean_positive": 7.0}, "protocol": {}}
    (folder / "sharpness/luong2024-last-0.json").write_text(json.dumps(later))
    (run,) = lab.report().found.runs
    assert run.value("sharpness/lambda_max/lambda_max") == 3.5
    assert run.value("sharpness/luong2024/mean_positive") == 7.0
    assert run.value("sharpness/hessian/trace") is None


def test_what_was_measured_of_other_weights_does_not_count(lab):
    """As where a folder of measurements was copied from another home."""
    folder = lab.run("sam 0.1")
    (folder / "sharpness").mkdir()
    protocol = {"checkpoint": "last", "weights_sha256": "other"}
    later = {"schema": 2, "measure": "m", "values": {"v": 7.0}, "protocol": protocol}
    file = folder / "sharpness/m-last-0.json"
    file.write_text(json.dumps(later))
    found = lab.report().found
    assert found.runs[0].value("sharpness/m/v") is None
    assert found.problems == [f"{file}: damaged, not counted (it is of other weights than those of result.json)"]
    file.write_text(json.dumps(later | {"protocol": protocol | {"checkpoint": "best"}}))  # their hash is nowhere
    assert lab.report().found.runs[0].value("sharpness/m/v") == 7.0


def test_sharpness_asked_for_in_two_ways_is_not_compared_across_cells(lab):
    """One cell measured on 256 examples, the other on 8: there is no difference to tell."""
    lab.tabled("effects: [{name: e, cell: sam 0.1, twin: sgd, equal: epochs, metric: sharpness/m/v}]\n")
    lab.table = dataclasses.replace(lab.table, metrics=("sharpness/m/v",))

    def measured(value, **settings):
        return {"m": {"values": {"v": value}, "protocol": {"checkpoint": "last", "settings": settings}}}

    lab.run("sam 0.1", 0, sharpness=measured(3.0, examples=256))
    lab.run("sam 0.1", 1, sharpness=measured(4.0, examples=256))
    lab.run("sgd", 0, sharpness=measured(1.0, examples=8))
    report = lab.report()
    ((_, _, difference, _),) = report.effects
    assert difference is None
    (line,) = [line for line in report.cells if line.row == "sgd"]
    assert line.estimates == (None,)
    assert line.marks == ("sharpness/m/v: in no run; 1 with other settings: examples 8",)
    assert "sharpness/m/v with checkpoint last, examples 256." in render.markdown(report)
    lab.run("sgd", 0, sharpness=measured(1.0, examples=256))
    ((_, _, difference, _),) = lab.report().effects
    assert difference.mean == 2.0


def test_sharpness_counts_as_the_cells_ask_for_it(lab):
    """Two shortened measurements are more, and one as the table has it counts."""
    lab.table = dataclasses.replace(lab.table, metrics=("sharpness/lambda_max/lambda_max",))
    asked = {key: value for key, value in lab.config("sgd")["sharpness"].items() if key != "every"}
    checkpoint = asked.pop("checkpoint")

    def measured(value, **shortened):
        protocol = {"checkpoint": checkpoint, "settings": asked | shortened}
        return {"lambda_max": {"values": {"lambda_max": value}, "protocol": protocol}}

    lab.run("sgd", 0, sharpness=measured(1.0, examples=8))
    lab.run("sgd", 1, sharpness=measured(2.0, examples=8))
    lab.run("sam 0.1", 0, sharpness=measured(3.0))
    estimates = {line.row: line.estimates[0] for line in lab.report().cells if line.estimates}
    assert (estimates["sam 0.1"].mean, estimates["sgd"]) == (3.0, None)


def test_measurements_that_are_incomplete_or_damaged_hide_no_run(lab, two):
    (two[0] / "sharpness").mkdir()
    (two[0] / "sharpness/.m-last.partial.json").write_text("{}")
    (two[0] / "sharpness/m-last-1.json").write_text('{"measure": "m"}')
    (two[0] / "sharpness/m-last-2.json").write_text("{")
    found = lab.report().found
    assert [run.seed for run in found.runs] == [0, 1]
    told = [problem.partition(" (")[0] for problem in found.problems]
    assert told == [f"{two[0]}/sharpness/m-last-{i}.json: damaged, not counted" for i in (1, 2)]


def test_a_copy_of_a_run_brings_its_measurements(lab, two):
    copy = lab.outputs / "evidence/mine/runs/cell/seed=0"
    shutil.copytree(two[0], copy)
    (copy / "sharpness").mkdir()
    content = {"measure": "own/m", "values": {"v": 7.0}, "protocol": {}}
    (copy / "sharpness/own.m-last-0.json").write_text(json.dumps(content))
    assert lab.report().found.runs[0].value("sharpness/own/m/v") == 7.0


def test_the_weights_that_report_names(lab):
    tested = {
        "last": {"error_pct": 3.0, "epoch": 20},
        "best_validation": {"error_pct": 2.0},
        "peak": {"error_pct": 1.0},
    }
    held = {"last": {"error_pct": 6.0}, "best": {"error_pct": 5.0}}
    own = ("report=best_validation", "dataset.validation.count=100")
    lab.run("sam 0.1", own=own, metrics={"test": tested, "validation": held, "train": {}})
    lab.run("sam 0.1", metrics={"test": tested, "validation": held, "train": {}})
    values = {run.config["report"]: run for run in lab.report().found.runs}
    assert values["best_validation"].value("test/error_pct") == 2.0
    assert values["best_validation"].value("validation/error_pct") == 5.0
    assert values["last"].value("test/error_pct") == 3.0
    assert values["last"].value("validation/error_pct") == 6.0


def test_reading_one_run_says_what_is_wrong(lab, two, tmp_path):
    assert runs.read(two[0]).seed == 0
    with pytest.raises(ValueError, match=r"no finished run; result\.json is missing"):
        runs.read(tmp_path)
    (two[0] / "result.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        runs.read(two[0])


def test_words_for_numerics():
    plain = (("base_optimizer.fused", True), ("channels_last", True), ("deterministic", False), ("device", "cpu"))
    assert runs.label((*plain, ("precision", "fp32"), ("threads", 2))) == "fp32 on cpu, threads: 2"
    assert runs.label((*plain, ("precision", "fp32"))) == "fp32 on cpu"
    odd = (("base_optimizer.fused", False), ("channels_last", False), ("deterministic", True), ("device", "cuda"))
    assert runs.label((*odd, ("precision", "bf16"))) == "bf16 on cuda, contiguous, deterministic, not fused"
    assert runs.label((*plain, ("micro_batch", 8), ("precision", "bf16"))) == "bf16 on cpu, micro_batch 8"
    assert runs.label((*plain, ("compile", True), ("precision", "bf16"))) == "bf16 on cpu, compile"
