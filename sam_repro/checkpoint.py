"""Files that are whole or not there: a training state, and the weights of a finished run."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values atomically: at any moment `path` is the old file or the new one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _replace(path, buffer.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """The state that `write` wrote, on the CPU; nothing but tensors and plain values is unpickled."""
    return torch.load(path, map_location="cpu", weights_only=True)


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights as safetensors, atomically."""
    from safetensors.torch import save

    _replace(path, memoryview(save({name: tensor.contiguous() for name, tensor in weights.items()})))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights that `write_weights` wrote, on the CPU."""
    from safetensors.torch import load_file

    return load_file(path)


def _replace(path: Path, content: memoryview) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
