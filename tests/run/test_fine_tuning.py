"""Fine-tuning through the door: weights from a file, a frozen body, frozen statistics, a head that learns faster."""

from pathlib import Path

import pytest
import torch
from called import command
from safetensors.torch import load_file, save_file

from sam_repro import train

QUIET = ["wandb=disabled", "progress=silent", "device=cpu", "threads=1", "sharpness=none", "max_steps=4"]
PRECISE = [*QUIET, "precision=fp32", "optimizer=sam", "dataset.validation.count=900"]


def weights_of(folder: Path, *words: str) -> dict[str, torch.Tensor]:
    """The weights of a run with these words, which has a home of its own."""
    said = command(train.main, folder, *PRECISE, *words)
    assert said.code == 0, said
    (name,) = [word.removeprefix("name=") for word in words if word.startswith("name=")]
    (file,) = (folder / "outputs" / "runs" / name).rglob("model.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network for twelve classes."""
    folder = tmp_path_factory.mktemp("start")
    state = weights_of(folder, "name=start", "lr=0.05")
    state["classifier.weight"], state["classifier.bias"] = torch.zeros(12, 64), torch.zeros(12)
    save_file(state, folder / "start.safetensors")
    return folder / "start.safetensors"


def test_only_what_is_not_frozen_moves_from_the_files_weights(start: Path, tmp_path: Path) -> None:
    words = ["architecture.freeze='^(?!classifier|stage2.1.norm)'", "architecture.batch_norm.frozen=true"]
    found = weights_of(tmp_path, "name=tuned", f"architecture.weights={start}", *words)
    theirs = load_file(start)
    moved = {name for name, value in found.items() if not torch.equal(value, theirs[name])}
    assert moved == {"classifier.weight", "classifier.bias", "stage2.1.norm.weight", "stage2.1.norm.bias"}
    assert len(found["classifier.bias"]) == 10


def test_a_new_head_is_told_once_before_the_data(start: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    said = command(train.main, tmp_path, *PRECISE, f"architecture.weights={start}")
    assert said.out.startswith(
        "warning    classifier.bias, classifier.weight: start at zero, because the file has them for 12"
    )
    assert said.out.count("start at zero") == 1
    assert [str(warning.message) for warning in recwarn if "num_batches_tracked" in str(warning.message)] == []


def test_the_cell_is_that_of_the_files_content(start: Path, tmp_path: Path) -> None:
    copied, other = tmp_path / "copied.safetensors", tmp_path / "other.safetensors"
    copied.write_bytes(start.read_bytes())
    save_file({name: value + 1 for name, value in load_file(start).items()}, other)
    for file in (start, copied, other):
        assert command(train.main, tmp_path, *PRECISE, f"architecture.weights={file}").code == 0
    assert len(list((tmp_path / "outputs").rglob("result.json"))) == 2


def test_a_run_starts_from_the_weights_of_another_by_its_path(tmp_path: Path) -> None:
    first = weights_of(tmp_path, "name=first")
    (file,) = (tmp_path / "outputs").rglob("model.safetensors")
    assert "=" in str(file)
    found = weights_of(tmp_path, "name=second", f"architecture.weights={file}", "architecture.freeze='^(?!classifier)'")
    assert not torch.equal(found["classifier.weight"], first["classifier.weight"])
    assert torch.equal(found["stage1.0.conv.weight"], first["stage1.0.conv.weight"])


def test_a_factor_multiplies_the_learning_rate(tmp_path: Path) -> None:
    plain = weights_of(tmp_path, "name=plain", "lr=0.1")
    halved = weights_of(tmp_path, "name=halved", "lr=0.2", "lr_factors=[[.,0.5]]")
    partly = weights_of(tmp_path, "name=partly", "lr=0.1", "lr_factors=[[classifier,2]]")
    assert all(torch.equal(value, halved[name]) for name, value in plain.items())
    assert not torch.equal(partly["classifier.weight"], plain["classifier.weight"])
