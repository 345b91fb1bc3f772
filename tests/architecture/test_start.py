"""Fine-tuning starts: weights from a file, a new head, what stands still; and files of all the wrong kinds."""

import pickle
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from sam_repro.architecture import resnet8
from sam_repro.architecture.layers import NetworkWarning
from sam_repro.architecture.start import freeze, load_weights


def network(num_classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return resnet8(num_classes=num_classes, in_channels=1, image_size=8)


def saved(folder: Path, model: nn.Module, form: str) -> str:
    file, state = folder / f"weights{'.safetensors' if form == 'safetensors' else '.pth'}", model.state_dict()
    if form == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        wrapped = {"plain": state, "state_dict": {"state_dict": state, "epoch": 3}, "model": {"model": state}}
        wrapped["parallel"] = {f"module.{name}": value for name, value in state.items()}
        torch.save(wrapped[form], file)
    return str(file)


@pytest.mark.parametrize("form", ["safetensors", "plain", "state_dict", "model", "parallel"])
def test_weights_and_buffers_are_the_files(form: str, tmp_path: Path) -> None:
    theirs, ours = network(seed=1), network(seed=2)
    theirs.stem.norm.running_mean.fill_(0.3)
    load_weights(ours, saved(tmp_path, theirs, form), num_classes=10)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize(("new_head", "told"), [("zero", "start at zero"), ("network", "stay as initialised")])
def test_a_head_for_other_classes_starts_anew_and_is_told(new_head: str, told: str, tmp_path: Path) -> None:
    theirs, ours = network(100, seed=1), network(10, seed=2)
    made = ours.classifier.weight.detach().clone()
    with pytest.warns(NetworkWarning, match=rf"^classifier.bias, classifier.weight: {told}, .* for 100 classes$"):
        load_weights(ours, saved(tmp_path, theirs, "safetensors"), num_classes=10, new_head=new_head)
    assert torch.equal(ours.classifier.weight, torch.zeros_like(made) if new_head == "zero" else made)
    assert torch.equal(ours.stem.conv.weight, theirs.stem.conv.weight)


def test_a_choice_of_head_that_has_no_effect_is_told(tmp_path: Path) -> None:
    theirs = network(10)
    with pytest.warns(NetworkWarning, match="^new_head = network: has no effect, because the file's head is for 10 "):
        load_weights(network(10), saved(tmp_path, theirs, "safetensors"), num_classes=10, new_head="network")


def test_another_kind_of_head_is_refused() -> None:
    with pytest.raises(ValueError, match="new_head = one: must be one of zero, network"):
        load_weights(network(), None, num_classes=10, new_head="one")


def test_the_first_loss_of_a_head_at_zero_is_log_k_and_its_gradient_leaves_the_rest_alone(tmp_path: Path) -> None:
    ours = network(10).double()
    with pytest.warns(NetworkWarning):
        load_weights(ours, saved(tmp_path, network(100, seed=1), "plain"), num_classes=10)
    loss = nn.functional.cross_entropy(ours(torch.randn(6, 1, 8, 8).double()), torch.arange(6))
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(10.0).double().log())
    moved = {name for name, p in ours.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_of_another_network_is_one_line(tmp_path: Path) -> None:
    file = saved(tmp_path, nn.Sequential(nn.Linear(3, 4)), "safetensors")
    told = r"weights.safetensors': is of another network; it lacks \d+, such as \S+; it has beside 2, such as 0.bias$"
    with pytest.raises(ValueError, match=told):
        load_weights(network(), file, num_classes=10)
    wide = network()
    wide.stem.conv = nn.Conv2d(1, 8, 3, bias=False)
    with pytest.raises(ValueError, match=r"of another network; of another shape are stem.conv.weight$"):
        load_weights(network(), saved(tmp_path, wide, "plain"), num_classes=10)
    unchanged = network().state_dict()
    assert all(torch.equal(value, unchanged[name]) for name, value in network().state_dict().items())


class Code:
    """What must not run when a file is read."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return setattr, (Code, "ran", True)  # type: ignore[return-value]


@pytest.mark.parametrize("content", [b"no weights", pickle.dumps(Code()), b""])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_what_is_no_weights_is_one_line_and_runs_no_code(content: bytes, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"weights.{ending}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^weights = '.*': cannot be read as tensors alone \(.+\)$"):
        load_weights(network(), str(file), num_classes=10)
    assert not Code.ran


def test_no_file_and_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^weights = 'no.pth': there is no such file; give one, or null$"):
        load_weights(network(), "no.pth", num_classes=10)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"holds no state dict, names with a tensor each$"):
        load_weights(network(), str(tmp_path / "list.pt"), num_classes=10)


def test_frozen_parameters_are_those_of_the_pattern() -> None:
    model = network()
    freeze(model, "^(?!classifier)")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["classifier.weight", "classifier.bias"]
    unfrozen = network()
    freeze(unfrozen, None)
    assert all(p.requires_grad for p in unfrozen.parameters())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("head", r"^freeze = head: has the name of no parameter; there are \d+, such as stem.conv.weight$"),
        (".", r"^freeze = '.': has the name of every parameter; there are \d+, such as stem.conv.weight$"),
        ("(", r"^freeze = '\(': must be a pattern of names"),
    ],
)
def test_a_pattern_of_nothing_or_of_all_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        freeze(network(), pattern)


def test_a_network_without_numbers_takes_none_and_says_no_more_than_one_with_them(tmp_path: Path) -> None:
    file = saved(tmp_path, network(), "plain")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(network(), file, 10)
