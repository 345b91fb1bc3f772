"""Where fine-tuning starts: weights from a file, and which of them stand still."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from sam_repro import limits
from sam_repro.architecture.layers import NetworkWarning
from sam_repro.errors import first_line


def load_weights(model: nn.Module, file: str | None, num_classes: int, new_head: str = "zero") -> None:
    """Load a network's weights from a file; a head for other classes starts anew, which a warning says.

    Args:
        model: the network, changed in place.
        file: a state dict, as .safetensors or as what `torch.save` writes (alone, or below `state_dict` or `model`).
            Nothing else than tensors is read from it: no code of the file runs. None leaves the network alone.
        num_classes: number of logits of the network.
        new_head: "zero" (default): a head for other classes starts at 0, so that the first loss is log K and its first
            gradient leaves the rest alone; "network": it stays as the network has initialised it, which some do with
            so large numbers that training diverges.

    Raises:
        ValueError: there is no such file, it cannot be read, it is of another network, or new_head is none of the two.

    Reference:
        Kolesnikov et al. 2020 (BiT) and Dosovitskiy et al. 2021 (ViT) start a new head at zero.
    """
    limits.choice("new_head", new_head, ("zero", "network"))
    if file is None:
        return
    theirs, ours = _read(file), model.state_dict()
    counters = {name for name in ours if name.endswith("num_batches_tracked")}  # files before torch 0.4.1 lack them
    lacking, strange = ours.keys() - theirs.keys() - counters, theirs.keys() - ours.keys()
    other = [name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape]
    head = sorted(name for name in other if _is_of_a_head(ours[name], theirs[name], num_classes))
    found = {
        "it lacks": sorted(lacking),
        "it has beside": sorted(strange),
        "of another shape are": sorted(set(other) - set(head)),
    }
    if reasons := [f"{what} {_some(names)}" for what, names in found.items() if names]:
        raise ValueError(f"weights = {limits.shown(file)}: is of another network; {'; '.join(reasons)}")
    if not any(weight.is_meta for weight in ours.values()):  # else there is nothing to copy to, as torch says of each
        model.load_state_dict({name: value for name, value in theirs.items() if name not in head}, strict=False)
    if head:
        if new_head == "zero":
            torch._foreach_zero_([ours[name] for name in head])
        how = "start at zero" if new_head == "zero" else "stay as initialised"
        said = f"{', '.join(head)}: {how}, because the file has them for {len(theirs[head[0]])} classes"
        warnings.warn(said, NetworkWarning, stacklevel=2)
    elif new_head != "zero":
        said = f"new_head = {new_head}: has no effect, because the file's head is for {num_classes} classes, too"
        warnings.warn(said, NetworkWarning, stacklevel=2)


def freeze(model: nn.Module, pattern: str | None) -> None:
    """Let the parameters whose names have a pattern stand still; null freezes none.

    Args:
        model: the network, changed in place.
        pattern: a regular expression, searched for in each name; `^(?!classifier)` freezes all but the classifier.

    Raises:
        ValueError: it is no pattern, or it has no parameter's name, or all of them.
    """
    limits.pattern("freeze", pattern)
    if pattern is None:
        return
    named = dict(model.named_parameters())
    frozen = [name for name in named if re.search(pattern, name)]
    if len(frozen) in (0, len(named)):
        which = "every parameter" if frozen else "no parameter"
        raise ValueError(f"freeze = {limits.shown(pattern)}: has the name of {which}; there are {_some(list(named))}")
    for name in frozen:
        named[name].requires_grad_(False)


def _read(file: str) -> dict[str, Tensor]:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"weights = {limits.shown(file)}: there is no such file; give one, or null")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = f"cannot be read as tensors alone ({first_line(error)})"
        raise ValueError(f"weights = {limits.shown(file)}: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(f"weights = {limits.shown(file)}: holds no state dict, names with a tensor each")
    weights: dict[str, Any] = dict(state)
    consume_prefix_in_state_dict_if_present(weights, "module.")  # of DataParallel
    return weights


def _is_of_a_head(ours: Tensor, theirs: Tensor, num_classes: int) -> bool:
    """Whether two tensors differ in the number of classes alone."""
    return ours.ndim == theirs.ndim and len(ours) == num_classes and ours.shape[1:] == theirs.shape[1:]


def _some(names: list[str]) -> str:
    """How many, and which."""
    return f"{len(names)}, such as {names[0]}" if len(names) > 1 else names[0]
