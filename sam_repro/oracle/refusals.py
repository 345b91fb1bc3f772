"""What an objective cannot be made of, or asked for, each in one line."""

from typing import Any

import torch
from torch import nn

from sam_repro import limits


def refuse_arguments(model: Any, criterion: Any) -> None:
    """Refuse a model that is no module, and a criterion that says that it is no mean.

    Raises:
        TypeError: if the model is no module, or the criterion cannot be called.
        ValueError: if the criterion is a sum, or one loss per example.
    """
    if not isinstance(model, nn.Module) or not callable(criterion):
        raise TypeError(
            f"Objective({type(model).__name__}, {type(criterion).__name__}): needs a torch.nn.Module and a function of "
            "outputs and targets, in this order"
        )
    if (reduction := getattr(criterion, "reduction", "mean")) in ("sum", "none"):
        raise ValueError(f"criterion: its reduction is {reduction}, and an objective is a mean loss; choose mean")


def refuse_parts(criterion: Any) -> None:
    """Refuse a weighted or masked mean where parts of a batch are averaged by their numbers of examples.

    Raises:
        ValueError: if the criterion says that it is one.
    """
    if not isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss):
        return
    if criterion.weight is not None or criterion.ignore_index != -100:
        raise ValueError(
            "criterion: with class weights or ignored targets it is no mean over the examples, so parts of a batch "
            "cannot be averaged by their numbers; give the whole batch at once, without m, or divide by the examples"
        )


def refuse_float16(autocast: torch.dtype | None) -> None:
    """Refuse a dtype of passes whose range is too small.

    Raises:
        ValueError: if it is float16.
    """
    if autocast == torch.float16:
        raise ValueError("autocast = float16: not supported, its range needs loss scaling; use bfloat16")


def of_part(error: ValueError, share: float, examples: int) -> ValueError:
    """Torch's error of batch norm with the part of the batch that it is of; any other as it is."""
    if share == 1 or "more than 1 value per channel" not in str(error):
        return error
    return ValueError(
        f"m: leaves a part of {limits.counted(examples, 'example')}, of which batch norm has no variance; choose an m, "
        "or pieces, that leave no such rest"
    )
