"""Error and loss of a model on a split, in eval mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro.dataset import Batch, Split

BATCH = 1000
PIXELS = 64 * 64 * BATCH  # of a batch, a channel: larger images come in smaller batches


def largest_batch(height: int, width: int) -> int:
    """How many images of this size are evaluated at a time."""
    return max(1, min(BATCH, PIXELS // (height * width)))


@torch.no_grad()
def outputs(
    model: nn.Module,
    split: Split,
    autocast: torch.dtype | None,
    seed: int | None = None,
    forward: Callable[[Batch], Tensor] | None = None,
) -> Tensor:
    """Outputs [N, C] in float32 for a whole split, in its order and in eval mode; the model's mode is put back.

    Args:
        model: the network.
        split: the images.
        autocast: dtype of its forward; None is that of the weights.
        seed: of the augmentation; None (default): not augmented.
        forward: the forward of a batch, such as a captured one; its outputs are copied. Default: the model's.
    """
    _, height, width = split.input_shape
    # a cached cast of a weight would be frozen in a captured forward
    region = torch.autocast(split.device.type, dtype=autocast, enabled=autocast is not None, cache_enabled=False)
    with evaluating(model), region:
        batches = split.batches(largest_batch(height, width), seed)
        return torch.cat([forward(batch).clone() if forward else model(batch.inputs).float() for batch in batches])


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 and top-5 error and accuracy in percent, and the mean cross-entropy, of outputs [N, C] and labels [N].

    With five classes or fewer there is no top-5 error, because none could be. Of equal outputs the lower class is
    first, as `argmax` has it.
    """
    ranks = logits.argsort(dim=1, descending=True, stable=True)[:, :5] == labels[:, None]
    wrong = torch.stack([~ranks[:, 0], ~ranks.any(dim=1)]).double().mean(dim=1)
    loss = F.cross_entropy(logits, labels).double()
    top1, top5, mean_loss = torch.cat([100 * wrong, loss[None]]).tolist()
    among_five = {"error_top5_pct": top5} if logits.shape[1] > 5 else {}
    return {"error_pct": top1, **among_five, "accuracy_pct": 100 - top1, "loss": mean_loss}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in eval mode; after it each module is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
