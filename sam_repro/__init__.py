"""Sharpness-aware minimization, reproduced: every silent definition is a named key."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sam_repro.run.result import Loaded


def load(run: str | Path, trust: bool = False) -> "Loaded":
    """Read a finished run back: `model, config, result`.

    Args:
        run: the home of the run, `outputs/runs/…/seed=…`.
        trust: build a network that is no part of sam_repro, torch.nn or timm, too: its code is run; default false.

    Returns:
        The network in eval mode on the CPU, with the weights that the run reports; its resolved configuration; the
        content of its `result.json`, whose errors were measured in the precision of the run (`config["precision"]`).

    Raises:
        UserError: if the run is not finished, its files are damaged, or it names a network that is not trusted.
    """
    from sam_repro.run.result import load

    return load(run, trust)
