"""A record is checked as a whole: every single change of it is named, whatever reads it."""

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from called import command

from sam_repro import load, measure, train
from sam_repro.errors import UserError, refuse_damaged
from sam_repro.run.record import read_record, read_result, read_run, write_record
from sam_repro.table import __main__ as table_door
from sam_repro.table import runs, sweep

OLD = Path(__file__).parents[1] / "data/result_schema1.json"
LINE = ["epochs=1", "max_steps=2", "sharpness=none", "wandb=disabled", "progress=silent", "record_every=null"]
OTHERS = (None, True, -1, 2.5, "text", [], {}, math.nan, math.inf, 10**400)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from leaves(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    if not path:
        return to
    head, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[head] = changed(copy[head], tuple(rest), to)
    return copy


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert command(train.main, folder, *LINE).code == 0
    (file,) = folder.glob("outputs/runs/*/*/*/result.json")
    return file.parent


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(home, tmp_path / home.relative_to(home.parents[4]))


@pytest.mark.parametrize("name", ["result.json", "run.json"])
def test_a_pipe_in_the_place_of_a_record_holds_nobody(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    said = command(train.main, copy.parents[4], *LINE)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert f"{name}: damaged (it is no plain file); add resume=false" in said.err
    said = command(table_door.main, copy.parents[4], "why", str(copy), "digits/label_noise")
    assert said.code == 2
    assert "it is no plain file" in said.err


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None, -0.0], "a": {"text": "é\n"}}
    write_record(tmp_path / "x.json", content)
    assert read_record(tmp_path / "x.json") == content


def test_every_single_change_of_a_sealed_record_is_seen(home: Path, tmp_path: Path) -> None:
    content = json.loads((home / "result.json").read_text())
    for number, path in enumerate(path for path in leaves(content) if path != ("sha256",)):
        new = changed(content, path, OTHERS[number % len(OTHERS)])
        if json.dumps(new) == json.dumps(content):
            continue
        (tmp_path / "result.json").write_text(json.dumps(new))
        with pytest.raises(ValueError, match=r"\w"):
            read_result(tmp_path)


def test_a_change_of_a_record_without_a_seal_raises_one_kind_of_error(tmp_path: Path) -> None:
    """A table asks a record that was accepted for its cell, its numbers and its protocol: none of that may fail."""
    content = json.loads(OLD.read_text())
    accepted = 0
    for path in leaves({key: value for key, value in content.items() if key not in ("environment", "label_noise")}):
        for other in OTHERS[:: 1 if len(path) < 3 else 3]:
            (tmp_path / "result.json").write_text(json.dumps(changed(content, path, other)))
            try:
                run = runs.Run(tmp_path, read_result(tmp_path))
            except ValueError:
                continue
            accepted += 1
            assert math.isfinite(run.value("test/error_pct"))
            assert len(run.cell_hash) == 64
            assert dict(run.numerics)["device"] == "cpu"
            assert run.sources
            assert run.measurements == []
            assert run.leaves("cost")
    assert accepted > 100, "most keys of a record are of no shape"


@pytest.mark.parametrize("eighth", range(8))
@pytest.mark.parametrize("name", ["result.json", "run.json"])
def test_a_file_that_is_cut_or_has_a_flipped_bit(home: Path, tmp_path: Path, name: str, eighth: int) -> None:
    whole, read = (home / name).read_bytes(), {"result.json": read_result, "run.json": read_run}[name]
    at = len(whole) * eighth // 8
    flipped = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
    for content in (whole[:at], flipped):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"\w"):
            read(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"a": NaN}', '{"a": 1e999}', "[" * 100_000, "\ufeff{}"])
def test_what_is_no_record(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"\w"):
        read_record(tmp_path / "x.json")


def test_all_doors_name_a_damaged_result(copy: Path) -> None:
    folder = copy.parents[4]
    (copy / "result.json").write_text((copy / "result.json").read_text().replace('"error_pct": ', '"error_pct": 1'))
    for door, words in (
        (train.main, LINE),
        (measure.main, [f"run={copy}", "sharpness=lambda_max"]),
        (table_door.main, ["why", str(copy)]),
        (table_door.main, ["compare", str(copy), str(copy)]),
    ):
        said = command(door, folder, *words)
        assert said.code == 2
        assert said.err.count("\n") == 1
        assert "damaged (it was changed after it was written)" in said.err
    with pytest.raises(UserError, match="it was changed after it was written"):
        load(copy)
    (problem,) = runs.find([folder / "outputs"]).problems
    assert "damaged, not counted (it was changed after it was written)" in problem


def test_a_sweep_ends_with_its_table_beside_a_damaged_result(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_result(copy)["config"]
    monkeypatch.chdir(copy.parents[4])
    assert "done" in sweep.table([config])[0]
    (copy / "result.json").write_text("[]")
    text, code = sweep.table([config])
    assert "seed 0: damaged: outputs/runs/main/" in text
    assert code == 1


def test_a_result_alone_is_no_finished_run(copy: Path) -> None:
    (copy / "run.json").unlink()
    said = command(train.main, copy.parents[4], *LINE)
    assert said.code == 2
    assert "result.json without its run.json" in said.err
    assert "resume=false" in said.err


def test_a_run_is_named_by_its_folder_or_by_its_result(home: Path, tmp_path: Path) -> None:
    assert load(home / "result.json").result == load(home).result
    assert command(table_door.main, tmp_path, "compare", str(home), str(home / "result.json")).code == 0
    with pytest.raises(UserError, match="names no run; give the home of one"):
        load("")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "x.json"),
            "x.json: Permission denied; once this is mended",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "x.json: No space left on device; once this is mended"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "x.json"),
            r"x.json: damaged \(No such file\); add resume=false",
        ),
    ],
)
def test_what_a_place_refuses_is_no_damage(error: OSError, told: str) -> None:
    with pytest.raises(UserError, match=told), refuse_damaged(Path("x.json")):
        raise error
