"""The visit to a GPU: what it runs, in which order, when the time ends, and what it packs. Nothing here needs a GPU."""

import io
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from sam_repro.config.lines import compose_line

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def gpu_visit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, in a repository of its own."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import gpu_visit

    monkeypatch.setattr(gpu_visit, "ROOT", tmp_path)
    return gpu_visit


def unpacked(files: list[Path]) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(file.read_bytes() for file in files))) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}


def test_what_is_packed_comes_back_in_files_of_a_size(gpu_visit: ModuleType, tmp_path: Path) -> None:
    runs, to = tmp_path / "outputs" / "runs", tmp_path / "to"
    contents = {
        "runs/a/result.json": b"{}",
        "runs/a/metrics.jsonl": bytes(range(256)) * 40,
        "runs/a/last.safetensors": b"w" * 99,
        "runs/a/checkpoint.pt": b"c" * 99,
    }
    for name, content in contents.items():
        file = tmp_path / "outputs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    to.mkdir()
    (to / "visit.tar.gz.999").write_bytes(b"of an older visit")
    whole = gpu_visit.pack([runs, tmp_path / "outputs" / "bench"], to, largest=150, weights=True)
    assert unpacked(whole) == contents
    assert sorted(to.iterdir()) == whole
    assert len(whole) > 1
    assert all(0 < file.stat().st_size <= 150 for file in whole)
    light = {name: content for name, content in contents.items() if name.endswith(("json", "jsonl"))}
    assert unpacked(gpu_visit.pack([runs], to)) == light


def test_a_part_that_takes_too_long_is_told_to_save_and_the_rest_gets_no_time(
    gpu_visit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_visit, "RESERVE", 0)
    visit = gpu_visit.Visit(tmp_path, 1)
    assert visit.run(gpu_visit.Part("short", ["echo", "done"], 60)) == []
    assert (visit.said / "short.txt").read_text() == "done\n"
    saving = "trap 'echo saved; exit 7' INT; while :; do sleep 0.05; done"
    long = gpu_visit.Part("long", ["bash", "-c", saving], float("inf"))
    assert visit.run(long) == [long]
    assert (visit.said / "long.txt").read_text() == "saved\n"
    late = gpu_visit.Part("late", ["touch", str(tmp_path / "late")], 60)
    assert visit.run(late) == [late]
    assert not (tmp_path / "late").exists()


def test_parts_of_a_list_run_beside_each_other(gpu_visit: ModuleType, tmp_path: Path) -> None:
    there = tmp_path / "there"
    waiting = gpu_visit.Part("waiting", ["bash", "-c", f"until [ -e {there} ]; do sleep 0.02; done; exit 4"], 30)
    making = gpu_visit.Part("making", ["touch", str(there)], 30)
    assert gpu_visit.Visit(tmp_path, 60).run(waiting, making) == [waiting]


def test_what_the_compiler_is_given_early_are_cases_of_the_steps(gpu_visit: ModuleType) -> None:
    import bench_step

    assert set(gpu_visit.COMPILED) <= set(bench_step.CASES)


def test_what_was_done_is_packed_even_if_a_part_fails(
    gpu_visit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [gpu_visit.Part("bad", ["bash", "-c", "echo why; exit 3"], 9), gpu_visit.Part("good", ["echo", "fine"], 9)]
    monkeypatch.setattr(gpu_visit, "checks", lambda rehearse: iter([[part] for part in parts]))
    monkeypatch.setattr(gpu_visit, "SMALL", ())
    monkeypatch.setattr(sys, "argv", ["gpu_visit", "--rehearse", "--to", str(tmp_path / "to")])
    with pytest.raises(SystemExit) as end:
        gpu_visit.main()
    assert end.value.code == 1
    assert unpacked(sorted((tmp_path / "to").iterdir())) == {"visit/bad.txt": b"why\n", "visit/good.txt": b"fine\n"}


def test_archives_of_data_are_unpacked_where_they_lie(gpu_visit: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "numbers.txt").write_text("1 2 3")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "numbers.txt", "set/numbers.txt")
    gpu_visit.prepare(None, tmp_path)
    assert (tmp_path / "set" / "numbers.txt").read_text() == "1 2 3"


def test_the_cells_are_those_of_their_tables_in_words_that_the_door_reads(gpu_visit: ModuleType) -> None:
    seen = []
    for cell in (*gpu_visit.SMALL, *gpu_visit.CELLS):
        words = gpu_visit.trained(cell, Path("data"), ()).command[len(gpu_visit.TRAIN) :]
        config = compose_line(words)
        table, _, name = cell.partition("|")
        assert config["origin"]["table"] == table
        assert config["data_dir"] == str(Path("data").absolute())
        seen.append((name, config["choices"]["optimizer"], config["optimizer"].get("scope"), config["rho"]))
    _, *seen = seen
    assert seen[0] == ("sam 0.2", "sam", None, 0.2)
    assert {optimizer for _, optimizer, _, rho in seen if rho == 0.2} == {"sam", "sam_direction", "sam_magnitude"}
    assert len(set(seen)) == len(gpu_visit.CELLS)
