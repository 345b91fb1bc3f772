"""A training state and the weights of a finished run, in files that are whole or not there."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_repro.files import regular, replacing


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values; at any moment `path` is the old file or the new one."""
    buffer = io.BytesIO()  # torch reports a full disk as an error of its own kind, a plain file as OSError
    torch.save(state, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """The state that `write` wrote, on the CPU; nothing but tensors and plain values is unpickled.

    Raises:
        zipfile.BadZipFile: if a byte is not what was written; torch itself would not notice.
    """
    with zipfile.ZipFile(regular(path)) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} has another checksum")
    return torch.load(path, map_location="cpu", weights_only=True)


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights as safetensors, as `write` does."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    with replacing(path) as file:
        file.write(content)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights that `write_weights` wrote, on the CPU."""
    from safetensors.torch import load_file

    return load_file(regular(path))
