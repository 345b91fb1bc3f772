"""Sharpness-aware minimization, reproduced: every silent definition is a named key."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sam_repro.run.result import Loaded


def load(run: str | Path) -> "Loaded":
    """Read a finished run back: `model, config, result`.

    Args:
        run: the home of the run, `outputs/runs/…/seed=…`.

    Returns:
        The network in eval mode on the CPU, with the weights that the run reports; its resolved configuration; the
        content of its `result.json`, whose errors were measured in the precision of the run (`config["precision"]`).

    Raises:
        UserError: if the run is not finished or its files are damaged.
    """
    from sam_repro.run.result import load

    return load(run)
