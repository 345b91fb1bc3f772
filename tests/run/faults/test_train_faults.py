"""What can go wrong in a run: the message, what is kept, and that the run goes on to the end of an undisturbed one.

Every start is a process of its own, forked from a server (`door.py`).
"""

import json
import time

import pytest
import torch
from called import home_of, with_other
from disturbed import AT, EVERY_STEP, RUN, SELDOM, assert_goes_on, files, outcome
from door import assert_one_message

from sam_repro.config.identity import home
from sam_repro.config.lines import compose_line
from sam_repro.run.numerics import with_numerics
from sam_repro.run.run import _less_memory
from sam_repro.table.sweep import table
from sam_repro.training.plan import Plan


@pytest.mark.parametrize(("fault", "line"), [("nan gradient", SELDOM), ("infinite loss", EVERY_STEP)])
def test_a_number_that_is_not_finite(door, undisturbed, tmp_path, fault, line):
    (tmp_path / "fault").write_text(fault)
    kept = f"The checkpoint after {AT} steps is kept: " if line is EVERY_STEP else "No checkpoint had been written"
    for _ in range(2):
        words = (f"the loss or the gradient of step {AT} is not finite; try a smaller lr or rho", kept)
        assert_one_message(door.run(tmp_path, line), 1, *words)
        failed = json.loads((home_of(tmp_path) / "failed.json").read_text())
        assert failed == {"error": f"the loss or the gradient of step {AT} is not finite", "step": AT}
        assert not (home_of(tmp_path) / "result.json").exists()
    (tmp_path / "fault").unlink()
    assert_goes_on(door, tmp_path, undisturbed, AT if line is EVERY_STEP else 0)


def test_a_learning_rate_that_is_far_too_large(door, tmp_path):
    answer = door.run(tmp_path, ["lr=1e30", "epochs=1", "device=cpu", "checkpoint_every=0"])
    assert_one_message(answer, 1, "of step ", "is not finite; try a smaller lr")
    if (checkpoint := home_of(tmp_path) / "checkpoint.pt").exists():
        weights = torch.load(checkpoint)["model"].values()
        assert all(tensor.isfinite().all() for tensor in weights)


def test_a_crash_shows_where_and_the_run_goes_on(door, undisturbed, tmp_path):
    (tmp_path / "fault").write_text("crash")
    answer = door.run(tmp_path, EVERY_STEP)
    assert answer.code == 1
    assert answer.err.startswith("Traceback")
    assert "faulty.py" in answer.err
    failed = json.loads((home_of(tmp_path) / "failed.json").read_text())
    assert failed == {"error": "RuntimeError('a fault\\nof two lines')", "step": AT}
    (tmp_path / "fault").unlink()
    assert_goes_on(door, tmp_path, undisturbed, AT)


def test_a_machine_without_memory_for_a_step(door, undisturbed, tmp_path):
    (tmp_path / "fault").write_text("memory")
    answer = door.run(tmp_path, EVERY_STEP)
    assert_one_message(answer, 1, f"out of memory in step {AT}; try micro_batch=10, which", f"after {AT} steps is kept")
    (tmp_path / "fault").unlink()
    assert_goes_on(door, tmp_path, undisturbed, AT)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({}, "micro_batch=10"),
        ({"m": 4}, "a smaller m"),
        ({"m": 4, "micro_batch": 4}, "a smaller m"),  # which parts do not heed
        ({"m": 4, "parts": "branches"}, "parts=sequence"),
    ],
)
def test_what_takes_less_memory_is_something_else_than_now(numbers, said):
    assert _less_memory(Plan(seed=0, epochs=1, batch_size=20, lr=0.1, **numbers)).startswith(f"try {said}")


@pytest.mark.parametrize("file", ["run.json", "checkpoint.pt", "model.safetensors"])
def test_a_disk_that_is_full_when_a_file_is_written(door, undisturbed, folder, file):
    checkpoint, run = home_of(folder) / "checkpoint.pt", home_of(folder) / "run.json"
    before = {path: path.read_bytes() for path in (checkpoint, run)}
    size = {
        "run.json": run.stat().st_size,  # one more start does not fit in
        "checkpoint.pt": checkpoint.stat().st_size - 1,
        "model.safetensors": (undisturbed / "model.safetensors").stat().st_size - 1,
    }[file]
    answer = door.run(folder, EVERY_STEP if file == "checkpoint.pt" else RUN, size=size)
    where = home_of(folder).relative_to(folder)
    if file == "run.json":
        assert_one_message(answer, 2, f"{where}: cannot be written ([Errno 27]")
        assert run.read_bytes() == before[run]
    else:
        words = (
            f"{where}: writing failed ([Errno 27]",
            f"The checkpoint after {AT} steps is kept: {where}/checkpoint.pt",
        )
        assert_one_message(answer, 1, *words)
        assert "[Errno 27]" in json.loads((home_of(folder) / "failed.json").read_text())["error"]
    assert checkpoint.read_bytes() == before[checkpoint]
    assert not list(home_of(folder).glob("*.tmp"))
    assert not (home_of(folder) / "result.json").exists()
    assert_goes_on(door, folder, undisturbed, AT)


def test_a_disk_that_is_full_when_a_row_is_recorded(door, tmp_path):
    """A long run: its record is longer than `run.json`, so that only the record does not fit."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    line, every_step = (with_other(words, "epochs=10") for words in (RUN, EVERY_STEP))
    for folder in (broken, whole):
        folder.mkdir()
        (folder / "fault").write_text("nan gradient")
        assert door.run(folder, every_step).code == 1
        (folder / "fault").unlink()
    assert door.run(whole, line).code == 0
    size = (home_of(whole) / "run.json").stat().st_size + 1000
    assert (home_of(whole) / "metrics.jsonl").stat().st_size > size
    answer = door.run(broken, line, size=size)
    assert_one_message(answer, 1, ": writing failed ([Errno 27]", f"The checkpoint after {AT} steps is kept: ")
    assert door.run(broken, line).code == 0
    assert outcome(home_of(broken)) == outcome(home_of(whole))


@pytest.mark.parametrize("blocked", ["outputs", "outputs/runs/main"])
def test_a_path_that_cannot_be_written(door, undisturbed, tmp_path, blocked):
    file = tmp_path / blocked
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert_one_message(
        door.run(tmp_path, RUN), 2, "outputs/runs/main/", ": cannot be written (", "start in a folder that"
    )
    assert file.read_bytes() == b""
    file.unlink()
    assert_goes_on(door, tmp_path, undisturbed, 0)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("cifar-10-batches-py/data_batch_1", "data_batch_1 is damaged, it has 7 bytes"),
        ("cifar-10-python.tar.gz", "cifar-10-python.tar.gz is damaged, it has 7 bytes"),
    ],
)
def test_data_that_are_damaged(door, tmp_path, name, word):
    file = tmp_path / "data" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"garbage")
    answer = door.run(tmp_path, ["dataset=cifar10", "download=false"])
    assert_one_message(
        answer, 2, word, "170498071 bytes", "Start again with download=true, or put that archive into data"
    )
    assert file.read_bytes() == b"garbage"
    assert not (tmp_path / "outputs").exists()


def test_a_failing_cell_of_a_sweep(door, undisturbed, tmp_path):
    line = ["-m", *EVERY_STEP, f"optimizer.at=5,{AT}", "seed=0,1", "max_steps=10"]
    (tmp_path / "fault").write_text("nan gradient")
    answer = door.run(tmp_path, line)
    assert answer.code == 1
    messages = answer.err.splitlines()
    assert len(messages) == 2
    assert all(m.startswith("sam_repro: the loss or the gradient of step 5 is not finite; try") for m in messages)
    table = answer.out.splitlines()[-4:]
    assert table[0].split() == ["optimizer.at", "done", "test", "error", "%", "state"]
    failed = "failed: the loss or the gradient of step 5 is not finite"
    assert table[1].split(maxsplit=3) == ["5", "0/2", "—", f"seed 0: {failed}; seed 1: {failed}"]
    assert table[2].startswith(f"{AT} ")
    assert " 2/2 " in table[2]
    assert table[2].endswith(" shortened: 10 steps")
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/runs/main/*/*/result.json")}
    assert len(done) == 2
    (tmp_path / "fault").unlink()
    answer = door.run(tmp_path, line)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.count("resumed    after 5 of 10 steps") == 2
    assert [row.split()[1] for row in answer.out.splitlines()[-3:-1]] == ["2/2", "2/2"]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    (left, right) = (
        {
            json.loads(path.read_text())["weights_sha256"]
            for path in tmp_path.glob(f"outputs/runs/main/*/{seed}/result.json")
        }
        for seed in ("seed=0", "seed=1")
    )
    assert len(left) == len(right) == 1  # the rules differ in nothing but where they would fail
    assert left != right


def test_a_cell_that_the_data_refuse_does_not_end_the_sweep(door, tmp_path):
    line = ["-m", "batch_size=500,50", "dataset.validation.count=800", "max_steps=1"]
    answer = door.run(tmp_path, line)
    assert_one_message(answer, 1, "batch_size = 500: the training set has 200 images; choose batch_size=200 or less")
    assert [row.split()[1] for row in answer.out.splitlines()[-3:-1]] == ["0/1", "1/1"]


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"metrics": 3}'])
@pytest.mark.parametrize("name", ["result.json", "failed.json"])
def test_the_table_of_a_sweep_names_a_damaged_home(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    cell = compose_line(["device=cpu"])
    folder = home(with_numerics(cell))
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    text, code = table([cell])
    assert f"seed 0: damaged: {folder}" in text
    assert code == 1


def test_two_starts_at_once(door, undisturbed, tmp_path):
    (tmp_path / "fault").write_text("wait")
    first = door.start(tmp_path, EVERY_STEP)
    while not (tmp_path / "waiting").exists():
        assert door.process.poll() is None
        time.sleep(0.01)
    before = files(home_of(tmp_path))
    told = (
        f"{home_of(tmp_path).relative_to(tmp_path)}: another process is running this; wait for it, or change the seed"
    )
    assert_one_message(door.run(tmp_path, RUN), 3, told)
    assert files(home_of(tmp_path)) == before
    (tmp_path / "fault").unlink()
    assert first.end().code == 0
    assert outcome(home_of(tmp_path)) == outcome(undisturbed)
