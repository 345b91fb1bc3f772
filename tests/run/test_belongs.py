"""No file of a run is believed by its place: inputs, weights, checkpoints, rows and results say what they are of."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from called import Said, command, rewrite

import sam_repro
from sam_repro import measure, train
from sam_repro.config.identity import cell_hash
from sam_repro.errors import UserError
from sam_repro.run.progress import Progress
from sam_repro.run.trust import is_trusted
from sam_repro.table import __main__ as table_door
from sam_repro.table import runs

OUTSIDE = Path(__file__).parents[1] / "outside"
QUIET = ["wandb=disabled", "progress=silent", "sharpness=none"]
DIGITS = [*QUIET, "optimizer=sgd", "epochs=2", "record_every=1"]
DOTS = ["--config-dir", "configs", "dataset=dots", "architecture=linear", "augmentation=none", *QUIET]


def trained(folder: Path, *words: str) -> Said:
    return command(train.main, folder, *words)


def homes(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob("outputs/runs/*/*/seed=*/run.json"))


def only_home(folder: Path) -> Path:
    (home,) = homes(folder)
    return home


def refused(said: Said, *parts: str) -> None:
    """One line, bad input, and it says all this."""
    assert said.code == 2, said
    assert len(said.err.splitlines()) == 1, said.err
    for part in parts:
        assert part in said.err


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with options of one's own and two data sets that differ in a single label."""
    shutil.copytree(OUTSIDE, tmp_path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (40, 1, 4, 4), np.uint8), np.arange(40) % 2
    for name, last in (("one", 1), ("two", 0)):
        (tmp_path / name).mkdir()
        labels[-1] = last
        np.savez(tmp_path / name / "dots.npz", images=images, labels=labels)
    return tmp_path


# Data


def test_other_data_are_not_the_run_that_was_done(outside: Path) -> None:
    assert trained(outside, *DOTS, "data_dir=one").code == 0
    first = json.loads((only_home(outside) / "result.json").read_text())
    again = trained(outside, *DOTS, "data_dir=one")
    assert again.code == 0
    assert "done" in again.out
    os.rename(outside / "one", outside / "moved")
    assert trained(outside, *DOTS, "data_dir=moved").code == 0
    other = trained(outside, *DOTS, "data_dir=two")
    refused(other, f"{only_home(outside).relative_to(outside)}/run.json", first["inputs"][:16], "name=other-data")
    assert json.loads((only_home(outside) / "result.json").read_text()) == first
    named = trained(outside, *DOTS, "data_dir=two", "name=other-data")
    assert named.code == 0
    inputs = {json.loads((home / "result.json").read_text())["inputs"] for home in homes(outside)}
    assert len(inputs) == 2
    assert trained(outside, *DOTS, "data_dir=two", "resume=false").code == 0


def test_a_run_does_not_go_on_with_other_data(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "step", lambda self, done: signal.raise_signal(signal.SIGINT))
        assert trained(outside, *DOTS, "data_dir=one").code == 130
    refused(trained(outside, *DOTS, "data_dir=two"), "run.json: is of other data")
    (only_home(outside) / "checkpoint.pt").unlink()
    assert trained(outside, *DOTS, "data_dir=two").code == 0  # nothing is left of the other data


def test_a_finished_run_is_not_measured_on_other_data(outside: Path) -> None:
    assert trained(outside, *DOTS, "data_dir=one").code == 0
    run = f"run={only_home(outside)}"
    asks = ["--trust", run, "sharpness=lambda_max", "sharpness.examples=16"]
    refused(command(measure.main, outside, *asks, "data_dir=two"), "is of other data", "data_dir=…")
    assert command(measure.main, outside, *asks).code == 0


def test_two_folders_of_data_are_two_runs_and_have_two_names(outside: Path) -> None:
    refused(trained(outside, "-m", *DOTS, "data_dir=one,two"), "data_dir = one, two", "name=")
    assert homes(outside) == []
    assert trained(outside, "-m", *DOTS, "data_dir=one", "seed=0,1").code == 0


def test_a_table_never_pools_two_data_sets(outside: Path) -> None:
    for name in ("one", "two"):
        assert trained(outside, *DOTS, f"data_dir={name}", f"name={name}").code == 0
    found = runs.find([outside / "outputs"])
    assert len(found.runs) == 2
    assert len({run.inputs for run in found.runs}) == 2
    assert len({run.cell_hash for run in found.runs}) == 1


def test_the_same_images_have_the_same_inputs_wherever_they_are_read(outside: Path) -> None:
    said = trained(outside, *DOTS, "data_dir=one")
    assert (said.code, said.out.splitlines()[-1].endswith(" sharpness=lambda_max --trust")) == (0, True), said
    result = json.loads((only_home(outside) / "result.json").read_text())
    assert result["inputs"] == json.loads((only_home(outside) / "run.json").read_text())["inputs"]
    trained(outside, *DIGITS)
    digits = next(home for home in homes(outside) if home.parent.name.startswith("digits-"))
    from sam_repro.dataset.digits import SHA256

    assert json.loads((digits / "result.json").read_text())["inputs"] == SHA256


def test_a_data_set_of_which_only_the_source_is_told_is_trained_and_its_constants_are_recorded(outside: Path) -> None:
    option = outside / "configs" / "dataset" / "dots.yaml"
    source = option.read_text().partition("  mean:")[0]
    option.write_text(source)
    basic = [*(word for word in DOTS if word != "augmentation=none"), "augmentation=basic", "augmentation.crop.pad=1"]
    assert trained(outside, *basic, "data_dir=one").code == 0
    result = json.loads((only_home(outside) / "result.json").read_text())
    with np.load(outside / "one" / "dots.npz") as file:
        pixels = file["images"] / 255
    assert result["normalisation"]["mean"] == [pytest.approx(pixels.mean(), rel=1e-12)]
    assert result["normalisation"]["std"] == [pytest.approx(pixels.std(), rel=1e-12)]
    (only_home(outside) / "result.json").unlink()  # the run begins anew, and what it had computed is of the other data
    with np.load(outside / "one" / "dots.npz") as file:
        np.savez(outside / "two" / "dots.npz", images=file["images"] // 2, labels=file["labels"])
        other = (file["images"] // 2 / 255).mean()
    assert trained(outside, *basic, "data_dir=two").code == 0
    result = json.loads((only_home(outside) / "result.json").read_text())
    assert result["normalisation"]["mean"] == [pytest.approx(other, rel=1e-12)]
    option.write_text(f"{source}  mean: [0.5]\n")
    refused(trained(outside, *DOTS, "data_dir=one"), "dataset.mean, dataset.std: one is null; give both, or neither")


def test_a_source_may_be_given_what_its_file_does_not_name(outside: Path) -> None:
    option = outside / "configs" / "dataset" / "dots.yaml"
    assert trained(outside, *DOTS, "data_dir=one", "dataset.source.classes=3").code == 0
    assert json.loads((only_home(outside) / "result.json").read_text())["shape"]["num_classes"] == 3
    refused(trained(outside, *DOTS, "data_dir=one", "dataset.source.clases=3"), "dataset.source: got an unexpected")
    refused(
        trained(outside, *DOTS, "data_dir=nowhere"),
        "dataset.source: nowhere/dots.npz: No such file or directory; name another",
    )
    option.write_text(option.read_text().replace("mine_data.dots", "mine_data.dotz"))
    refused(trained(outside, *DOTS, "data_dir=one"), "dataset.source._target_ = mine_data.dotz: ", "; correct the name")


def test_a_shape_that_the_data_do_not_have_is_refused(outside: Path) -> None:
    option = outside / "configs" / "dataset" / "dots.yaml"
    option.write_text(f"{option.read_text()}  shape: [2, 1, 5]\n")
    refused(trained(outside, *DOTS, "data_dir=one"), "dataset.shape = [2, 1, 5]: the data are [2, 1, 4] [classes,")


# Files that a key names


def test_a_file_counts_by_its_contents(outside: Path) -> None:
    torch.manual_seed(0)
    for file in ("a.pt", "b.pt"):
        torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).state_dict(), outside / file)
    shutil.copy(outside / "a.pt", outside / "copy.pt")
    line = [*DOTS, "data_dir=one"]
    assert trained(outside, *line, "architecture.weights=a.pt").code == 0
    for same in ("copy.pt", outside / "a.pt"):
        assert "done" in trained(outside, *line, f"architecture.weights={same}").out
    assert len(homes(outside)) == 1
    shutil.copy(outside / "b.pt", outside / "a.pt")
    assert trained(outside, *line, "architecture.weights=a.pt").code == 0
    assert len(homes(outside)) == 2
    assert trained(outside, *line).code == 0
    assert len({json.loads((home / "result.json").read_text())["weights_sha256"] for home in homes(outside)}) == 3


def test_a_run_is_read_back_without_the_file_of_its_initial_weights(outside: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).state_dict(), outside / "a.pt")
    assert trained(outside, *DOTS, "data_dir=one", "architecture.weights=a.pt").code == 0
    (outside / "a.pt").unlink()
    loaded = sam_repro.load(only_home(outside), trust=True)
    assert loaded.model(torch.zeros(1, 1, 4, 4)).shape == (1, 2)
    asks = ["--trust", f"run={only_home(outside)}", "sharpness=lambda_max", "sharpness.examples=16"]
    assert command(measure.main, outside, *asks).code == 0


# A file of another run


SEEDS = ["-m", *DIGITS, "seed=0,1", "checkpoint_every=0"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("ended")
    assert trained(folder, *SEEDS).code == 0
    return folder


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same runs where their last checkpoint was: they have no result yet."""
    folder = tmp_path_factory.mktemp("broken_off")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sam_repro.run.run.finish", lambda *arguments: (_ for _ in ()).throw(RuntimeError("broken off")))
        assert trained(folder, *SEEDS).code == 1
    assert all((home / "checkpoint.pt").exists() for home in homes(folder))
    return folder


@pytest.fixture
def two_seeds(ended: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The homes of the two runs, in a copy of their folder."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    zero, one = homes(tmp_path)
    return zero, one


def test_another_runs_checkpoint_is_refused(broken_off: Path, tmp_path: Path) -> None:
    shutil.copytree(broken_off, tmp_path, dirs_exist_ok=True)
    zero, one = homes(tmp_path)
    shutil.copy(one / "checkpoint.pt", zero / "checkpoint.pt")
    said = trained(tmp_path, *DIGITS, "seed=0", "checkpoint_every=0")
    refused(said, "checkpoint.pt: is of another run: seed 1 and not 0", "resume=false")
    shutil.rmtree(zero)
    assert trained(tmp_path, *DIGITS, "seed=1", "checkpoint_every=0").code == 0


@pytest.mark.parametrize("name", ["result.json", "run.json"])
def test_another_runs_record_is_refused(two_seeds: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    zero, one = two_seeds
    shutil.copy(one / name, zero / name)
    refused(trained(tmp_path, *DIGITS, "seed=0"), f"{name}: is of another run: seed 1 and not 0", "resume=false")
    found = runs.find([tmp_path / "outputs"])
    assert [run.seed for run in found.runs] == [1]
    (problem,) = found.problems
    assert str(zero) in problem
    assert "seed" in problem


def test_a_result_of_another_cell_or_other_numerics_is_refused(two_seeds: tuple[Path, Path], tmp_path: Path) -> None:
    zero, _ = two_seeds
    whole = (zero / "result.json").read_text()
    for key, value, told in (("lr", 0.7, "lr 0.7 and not 0.1"), ("deterministic", True, "deterministic true and not")):
        rewrite(zero / "result.json", lambda result, key=key, value=value: result["config"].update({key: value}))
        refused(trained(tmp_path, *DIGITS, "seed=0"), "result.json: is of another run", told)
        (zero / "result.json").write_text(whole)
    assert trained(tmp_path, *DIGITS, "seed=0").code == 0


@pytest.mark.parametrize("fault", ["gone", "doubled", "cut in the middle", "of another run", "shorter"])
def test_a_record_with_a_gap_is_refused_when_a_run_goes_on(
    broken_off: Path, two_seeds: tuple[Path, Path], tmp_path: Path, fault: str
) -> None:
    zero, one = two_seeds
    shutil.rmtree(zero)
    shutil.copytree(broken_off / zero.relative_to(tmp_path), zero)
    rows = zero / "metrics.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    content = {
        "doubled": [*lines[:3], *lines[2:]],
        "cut in the middle": [*lines[:3], *lines[4:]],
        "of another run": [(one / "metrics.jsonl").read_bytes()],
        "shorter": lines[:-2],
    }
    rows.unlink()
    if fault in content:
        rows.write_bytes(b"".join(content[fault]))
    refused(trained(tmp_path, *DIGITS, "seed=0", "checkpoint_every=0"), "metrics.jsonl", "rows", "resume=false")


def test_a_table_names_a_record_that_is_not_the_one_that_was_written(
    two_seeds: tuple[Path, Path], tmp_path: Path
) -> None:
    zero, one = two_seeds
    lines = (zero / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (zero / "metrics.jsonl").write_bytes(b"".join([*lines[:3], *lines[2:]]))
    shutil.copy(zero / "metrics.jsonl", one / "metrics.jsonl")
    problems = runs.find([tmp_path / "outputs"]).problems
    assert len(problems) == 2
    assert all("metrics.jsonl" in problem and "rows" in problem for problem in problems)


# Code


@pytest.mark.parametrize(
    ("target", "trusted"),
    [
        ("sam_repro.architecture.resnet.resnet18", True),
        ("sam_repro.architecture.wide_resnet.wrn28_10", True),
        ("sam_repro.architecture.resnet.partial", False),
        ("sam_repro.optimizer.SAM", True),
        ("torch.optim.SGD", True),
        ("torch.nn.Linear", True),
        ("timm.create_model", True),
        ("torch.load", False),
        ("torch.hub.load", False),
        ("numpy.load", False),
        ("mine.linear", False),
        ("os.system", False),
        ("torch.nn.functional.torch.load", False),
        ("torch.nnx.Linear", False),
        ("sam_repro.architecture.resnet.torch.load", False),
        ("sam_repro.run.provenance.subprocess.run", False),
        ("sam_repro.files.write_json", False),
        ("sam_repro.dataset.downloads.os.replace", False),
        ("sam_repro.dataset.downloads.Path", False),
        ("sam_repro", False),
        ("", False),
    ],
)
def test_whose_code_is_trusted(target: str, trusted: bool) -> None:
    assert is_trusted(target) == trusted


PROOF = {"_target_": "os.mkdir", "path": "proof"}
EVIL: list[Any] = [
    PROOF,
    {"_target_": "torch.nn.Sequential", "_args_": [PROOF]},
    [{"deep": [PROOF]}],
    "${oc.env:HOME}",
    {"_target_": "sam_repro.architecture.resnet.Path"},
]


@pytest.mark.parametrize("evil", EVIL)
def test_what_a_record_names_is_not_run(two_seeds: tuple[Path, Path], tmp_path: Path, evil: Any) -> None:
    zero, _ = two_seeds
    for name in ("result.json", "run.json"):
        rewrite(zero / name, lambda content: content["config"]["architecture"].update(x=evil))
    with pytest.raises(UserError, match=r"result\.json: architecture.* trust=True"):
        sam_repro.load(zero)
    refused(
        command(measure.main, tmp_path, f"run={zero}", "sharpness=lambda_max"), "result.json: architecture", "--trust"
    )
    refused(trained(tmp_path, *DIGITS, "seed=0"), "is of another run", "architecture.x")
    assert command(table_door.main, tmp_path, "digits/label_noise").code == 0
    assert not (tmp_path / "proof").exists()


def test_ones_own_network_is_built_for_who_says_so(outside: Path) -> None:
    assert trained(outside, *DOTS, "data_dir=one").code == 0
    home = only_home(outside)
    with pytest.raises(UserError, match=r"mine_data\.linear: is no part of sam_repro.* trust=True"):
        sam_repro.load(home)
    assert sam_repro.load(home, trust=True).model is not None
    asks = [f"run={home}", "sharpness=lambda_max", "sharpness.examples=16"]
    refused(command(measure.main, outside, *asks), "mine_data.dots", "--trust")
    assert command(measure.main, outside, "--trust", *asks).code == 0


def test_every_file_says_what_it_is_of(two_seeds: tuple[Path, Path]) -> None:
    zero, _ = two_seeds
    result, begun = (json.loads((zero / name).read_text()) for name in ("result.json", "run.json"))
    for content in (result, begun):
        assert content["cell_hash"] == cell_hash(content["config"])
        assert content["seed"] == 0
        assert content["numerics"]["device"] == "cpu"
        assert len(content["inputs"]) == 64
    assert result["rows"]["rows"] == len((zero / "metrics.jsonl").read_bytes().splitlines())
