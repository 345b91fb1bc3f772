"""What can happen to a home between two starts: damaged files, and sources that have changed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from called import home_of
from disturbed import AT, RUN, assert_goes_on, files, outcome
from door import assert_one_message

RESUME_FALSE = "add resume=false to set this home aside and run again"


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
    damage(home_of(tmp_path) / name)
    before = files(home_of(tmp_path))
    told = f"{name}: damaged (" if damage is half else "result.json without its run.json"
    assert_one_message(door.run(tmp_path, RUN), 2, told, RESUME_FALSE)
    assert files(home_of(tmp_path)) == before
    assert door.run(tmp_path, [*RUN, "resume=false"]).code == 0
    assert files(home_of(tmp_path).with_name("seed=0.aside-1")) == before
    assert outcome(home_of(tmp_path)) == outcome(undisturbed)


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
    do(home_of(folder) / name)
    before = files(home_of(folder))
    assert_one_message(door.run(folder, RUN), 2, f"{name}: damaged (", RESUME_FALSE)
    assert files(home_of(folder)) == before


def test_a_damaged_home_is_set_aside(door, undisturbed, folder):
    (home_of(folder) / "checkpoint.pt").write_bytes(b"garbage")
    before = files(home_of(folder))
    assert door.run(folder, [*RUN, "resume=false"]).code == 0
    assert files(home_of(folder).with_name("seed=0.aside-1")) == before
    assert outcome(home_of(folder)) == outcome(undisturbed)


@pytest.mark.parametrize("tail", ['{"step": 99, "ki', '{"step": 99}\n{"st'])
def test_a_broken_tail_of_the_record_is_cut(door, undisturbed, folder, tail):
    with (home_of(folder) / "metrics.jsonl").open("a") as file:
        file.write(tail)
    assert_goes_on(door, folder, undisturbed, AT)


def test_what_a_kill_left_half_written_is_cleared(door, undisturbed, folder):
    (home_of(folder) / "failed.json.tmp").write_text('{"err')
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
    before = files(home_of(tmp_path))
    answer = door.run(tmp_path, RUN)
    assert (answer.code, answer.err) == (0, "")
    told = f"changed    since that run: {changed_source}; add resume=false to set it aside and run again"
    assert told in answer.out.splitlines()
    assert files(home_of(tmp_path)) == before
    answer = door.run(tmp_path, [*RUN, "resume=false"])
    assert answer.code == 0
    aside = home_of(tmp_path).with_name("seed=0.aside-1")
    assert f"aside      {aside.relative_to(tmp_path)}" in answer.out.splitlines()
    assert files(aside) == before
    assert outcome(home_of(tmp_path)) == outcome(undisturbed)
    digests = {json.loads((path / "result.json").read_text())["sources_sha256"] for path in (home_of(tmp_path), aside)}
    assert len(digests) == 2
    assert "changed" not in door.run(tmp_path, RUN).out


def test_a_source_that_changed_before_a_run_goes_on(door, undisturbed, folder, changed_source):
    answer = door.run(folder, RUN)
    assert answer.code == 0
    assert f"changed    since step {AT}: {changed_source}; add resume=false to begin anew" in answer.out
    assert outcome(home_of(folder)) == outcome(undisturbed)
