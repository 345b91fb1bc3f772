"""What can go wrong in a run, or between two starts of it: the message, what is kept, and that the run goes on to the
same end as one that nothing disturbed.

Every start is a process of its own, forked from a server (`door.py`) that imports a copy of the package, in which a
test may change a source. The rule `faulty` (`data/faulty.py`) fails at a known step where a file says so.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from door import ROOT, Answer, Server

from sam_repro.config.identity import home as home_of
from sam_repro.config.lines import compose_line
from sam_repro.run.numerics import with_numerics
from sam_repro.run.run import _less_memory
from sam_repro.table.sweep import table
from sam_repro.training.plan import Plan

DATA = ROOT / "tests" / "data"
AT = 12  # the step of the fault
RUN = [
    *("--config-dir", str(DATA / "configs")),
    *("optimizer=faulty", "epochs=3", "batch_size=20", "dataset.validation.count=800", "record_every=1", "device=cpu"),
    *("sharpness.examples=20", "sharpness.batch_size=20"),
]
EVERY_STEP = [*RUN, "checkpoint_every=0"]
SELDOM = [*RUN, "record_every=null"]  # a fault is noticed at the end of the epoch
RESUME_FALSE = "add resume=false to set this home aside and run again"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package."""
    folder = tmp_path_factory.mktemp("package")
    for part in ("sam_repro", "configs"):
        shutil.copytree(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def door(package: Path) -> Iterator[Server]:
    """Doors of the copy."""
    ours, libraries = ("run.run", "table.sweep"), ("safetensors.torch", "sklearn.datasets", "torchvision.datasets")
    modules = [*(f"sam_repro.{name}" for name in ours), *libraries, "torch._dynamo", "torch._inductor"]
    server = Server(*modules, PYTHONPATH=os.pathsep.join([str(package), str(DATA)]))
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(door: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    answer = door.run(folder, RUN)
    assert answer.code == 0, answer.err
    return home(folder)


@pytest.fixture(scope="module")
def broken_off(door: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that broke off at step `AT` and left a checkpoint; nothing is in its way any more."""
    folder = tmp_path_factory.mktemp("broken_off")
    (folder / "fault").write_text("nan gradient")
    assert door.run(folder, EVERY_STEP).code == 1
    (folder / "fault").unlink()
    return folder


@pytest.fixture
def folder(broken_off: Path, tmp_path: Path) -> Path:
    """A copy of `broken_off`."""
    return shutil.copytree(broken_off, tmp_path / "work")


def home(folder: Path) -> Path:
    (found,) = folder.glob("outputs/runs/main/*/seed=0")
    return found


def outcome(home: Path) -> tuple[str, list[dict[str, Any]]]:
    """The weights and the record, without times."""
    rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds", None)
    return json.loads((home / "result.json").read_text())["weights_sha256"], rows


def files(home: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in home.iterdir()}


def assert_one_message(answer: Answer, code: int, *words: str) -> None:
    assert answer.code == code, answer
    assert answer.err.startswith("sam_repro: ")
    assert answer.err.count("\n") == 1
    for word in words:
        assert word in answer.err


def assert_goes_on(door: Server, folder: Path, undisturbed: Path, step: int) -> None:
    """The same command goes on after so many steps, to the same end."""
    answer = door.run(folder, EVERY_STEP)
    assert (answer.code, answer.err) == (0, "")
    assert (f"resumed    after {step} of 30 steps" in answer.out) == (step > 0)
    assert outcome(home(folder)) == outcome(undisturbed)
    left = {"run.json", "metrics.jsonl", "result.json", "model.safetensors", "best.safetensors"}
    assert {file.name for file in home(folder).iterdir()} == left


@pytest.mark.parametrize(("fault", "line"), [("nan gradient", SELDOM), ("infinite loss", EVERY_STEP)])
def test_a_number_that_is_not_finite(door, undisturbed, tmp_path, fault, line):
    (tmp_path / "fault").write_text(fault)
    kept = f"The checkpoint after {AT} steps is kept: " if line is EVERY_STEP else "No checkpoint had been written"
    for _ in range(2):
        words = (f"the loss or the gradient of step {AT} is not finite; try a smaller lr or rho", kept)
        assert_one_message(door.run(tmp_path, line), 1, *words)
        failed = json.loads((home(tmp_path) / "failed.json").read_text())
        assert failed == {"error": f"the loss or the gradient of step {AT} is not finite", "step": AT}
        assert not (home(tmp_path) / "result.json").exists()
    (tmp_path / "fault").unlink()
    assert_goes_on(door, tmp_path, undisturbed, AT if line is EVERY_STEP else 0)


def test_a_learning_rate_that_is_far_too_large(door, tmp_path):
    answer = door.run(tmp_path, ["lr=1e30", "epochs=1", "device=cpu", "checkpoint_every=0"])
    assert_one_message(answer, 1, "of step ", "is not finite; try a smaller lr")
    if (checkpoint := home(tmp_path) / "checkpoint.pt").exists():
        weights = torch.load(checkpoint)["model"].values()
        assert all(tensor.isfinite().all() for tensor in weights)


def test_a_crash_shows_where_and_the_run_goes_on(door, undisturbed, tmp_path):
    (tmp_path / "fault").write_text("crash")
    answer = door.run(tmp_path, EVERY_STEP)
    assert answer.code == 1
    assert answer.err.startswith("Traceback")
    assert "faulty.py" in answer.err
    failed = json.loads((home(tmp_path) / "failed.json").read_text())
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
    checkpoint, run = home(folder) / "checkpoint.pt", home(folder) / "run.json"
    before = {path: path.read_bytes() for path in (checkpoint, run)}
    size = {
        "run.json": run.stat().st_size,  # one more start does not fit in
        "checkpoint.pt": checkpoint.stat().st_size - 1,
        "model.safetensors": (undisturbed / "model.safetensors").stat().st_size - 1,
    }[file]
    answer = door.run(folder, EVERY_STEP if file == "checkpoint.pt" else RUN, size=size)
    where = home(folder).relative_to(folder)
    if file == "run.json":
        assert_one_message(answer, 2, f"{where}: cannot be written ([Errno 27]")
        assert run.read_bytes() == before[run]
    else:
        words = (
            f"{where}: writing failed ([Errno 27]",
            f"The checkpoint after {AT} steps is kept: {where}/checkpoint.pt",
        )
        assert_one_message(answer, 1, *words)
        assert "[Errno 27]" in json.loads((home(folder) / "failed.json").read_text())["error"]
    assert checkpoint.read_bytes() == before[checkpoint]
    assert not list(home(folder).glob("*.tmp"))
    assert not (home(folder) / "result.json").exists()
    assert_goes_on(door, folder, undisturbed, AT)


def test_a_disk_that_is_full_when_a_row_is_recorded(door, tmp_path):
    """A long run: its record is longer than `run.json`, so that only the record does not fit."""
    broken, whole, line = tmp_path / "broken", tmp_path / "whole", "epochs=10"
    for folder in (broken, whole):
        folder.mkdir()
        (folder / "fault").write_text("nan gradient")
        assert door.run(folder, [*EVERY_STEP, line]).code == 1
        (folder / "fault").unlink()
    assert door.run(whole, [*RUN, line]).code == 0
    size = (home(whole) / "run.json").stat().st_size + 1000
    assert (home(whole) / "metrics.jsonl").stat().st_size > size
    answer = door.run(broken, [*RUN, line], size=size)
    assert_one_message(answer, 1, ": writing failed ([Errno 27]", f"The checkpoint after {AT} steps is kept: ")
    assert door.run(broken, [*RUN, line]).code == 0
    assert outcome(home(broken)) == outcome(home(whole))


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
    assert table[2].endswith(" cut budget: 10 steps")
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
    folder = home_of(with_numerics(cell))
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
    before = files(home(tmp_path))
    told = f"{home(tmp_path).relative_to(tmp_path)}: another process is running this; wait for it, or change the seed"
    assert_one_message(door.run(tmp_path, RUN), 3, told)
    assert files(home(tmp_path)) == before
    (tmp_path / "fault").unlink()
    assert first.end().code == 0
    assert outcome(home(tmp_path)) == outcome(undisturbed)


def half(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def other_bytes(file):
    """Within a tensor: the archive as such stays whole."""
    content = bytearray(file.read_bytes())
    content[200_000:200_008] = b"\x01" * 8
    file.write_bytes(content)


@pytest.mark.parametrize(("name", "damage"), [("result.json", half), ("run.json", half), ("run.json", Path.unlink)])
def test_a_finished_run_whose_files_are_damaged(door, undisturbed, tmp_path, name, damage):
    shutil.copytree(undisturbed.parents[3], tmp_path / "outputs")
    damage(home(tmp_path) / name)
    before = files(home(tmp_path))
    told = f"{name}: damaged (" if damage is half else "result.json without its run.json"
    assert_one_message(door.run(tmp_path, RUN), 2, told, RESUME_FALSE)
    assert files(home(tmp_path)) == before
    assert door.run(tmp_path, [*RUN, "resume=false"]).code == 0
    assert files(home(tmp_path).with_name("seed=0.aside-1")) == before
    assert outcome(home(tmp_path)) == outcome(undisturbed)


DAMAGES = {
    "checkpoint.pt empty": ("checkpoint.pt", lambda file: file.write_bytes(b"")),
    "checkpoint.pt cut": ("checkpoint.pt", half),
    "checkpoint.pt garbage": ("checkpoint.pt", lambda file: file.write_bytes(b"garbage" * 1000)),
    "checkpoint.pt another": ("checkpoint.pt", lambda file: torch.save({"model": {}}, file)),
    "checkpoint.pt unsafe": ("checkpoint.pt", lambda file: torch.save(torch.load(file) | {"more": Path("x")}, file)),
    "run.json cut": ("run.json", half),
    "checkpoint.pt with other bytes": ("checkpoint.pt", other_bytes),
    "run.json another": ("run.json", lambda file: file.write_text("{}")),
    "run.json gone": ("run.json", Path.unlink),
    "metrics.jsonl broken inside": ("metrics.jsonl", lambda file: file.write_text('{"st\n' + file.read_text())),
    "result.json another": ("result.json", lambda file: file.write_text("{}")),
    "result.json a list": ("result.json", lambda file: file.write_text("[]")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_whose_files_are_damaged(door, undisturbed, folder, damage):
    name, do = DAMAGES[damage]
    do(home(folder) / name)
    before = files(home(folder))
    assert_one_message(door.run(folder, RUN), 2, f"{name}: damaged (", RESUME_FALSE)
    assert files(home(folder)) == before


def test_a_damaged_home_is_set_aside(door, undisturbed, folder):
    (home(folder) / "checkpoint.pt").write_bytes(b"garbage")
    before = files(home(folder))
    assert door.run(folder, [*RUN, "resume=false"]).code == 0
    assert files(home(folder).with_name("seed=0.aside-1")) == before
    assert outcome(home(folder)) == outcome(undisturbed)


@pytest.mark.parametrize("tail", ['{"step": 99, "ki', '{"step": 99}\n{"st'])
def test_a_broken_tail_of_the_record_is_cut(door, undisturbed, folder, tail):
    with (home(folder) / "metrics.jsonl").open("a") as file:
        file.write(tail)
    assert_goes_on(door, folder, undisturbed, AT)


def test_what_a_kill_left_half_written_is_cleared(door, undisturbed, folder):
    (home(folder) / "failed.json.tmp").write_text('{"err')
    assert_goes_on(door, folder, undisturbed, AT)


@pytest.fixture
def changed_source(package: Path) -> Iterator[str]:
    """A source that has changed since: its name in the package."""
    file = package / "sam_repro" / "optimizer" / "sam.py"
    before = file.read_text()
    file.write_text(before + "# changed\n")
    yield "optimizer/sam.py"
    file.write_text(before)


def test_a_source_that_changed_after_the_end(door, undisturbed, tmp_path, changed_source):
    shutil.copytree(undisturbed.parents[3], tmp_path / "outputs")
    before = files(home(tmp_path))
    answer = door.run(tmp_path, RUN)
    assert (answer.code, answer.err) == (0, "")
    told = f"changed    since that run: {changed_source}; add resume=false to set it aside and run again"
    assert told in answer.out.splitlines()
    assert files(home(tmp_path)) == before
    answer = door.run(tmp_path, [*RUN, "resume=false"])
    assert answer.code == 0
    aside = home(tmp_path).with_name("seed=0.aside-1")
    assert f"aside      {aside.relative_to(tmp_path)}" in answer.out.splitlines()
    assert files(aside) == before
    assert outcome(home(tmp_path)) == outcome(undisturbed)
    digests = {json.loads((path / "result.json").read_text())["sources_sha256"] for path in (home(tmp_path), aside)}
    assert len(digests) == 2
    assert "changed" not in door.run(tmp_path, RUN).out


def test_a_source_that_changed_before_a_run_goes_on(door, undisturbed, folder, changed_source):
    answer = door.run(folder, RUN)
    assert answer.code == 0
    assert f"changed    since step {AT}: {changed_source}; add resume=false to begin anew" in answer.out
    assert outcome(home(folder)) == outcome(undisturbed)
