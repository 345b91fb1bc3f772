"""Error and loss of a model on images, in eval mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 1000


@torch.no_grad()
def outputs(
    model: nn.Module, images: Tensor, transform: Callable[[Tensor], Tensor], autocast: torch.dtype | None
) -> Tensor:
    """Outputs [N, C] in float32 for uint8 images [N, …], in eval mode; the model's mode is put back."""
    with evaluating(model), torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
        return torch.cat([model(transform(batch)).float() for batch in images.split(BATCH)])


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 and top-5 error and accuracy in percent, and the mean cross-entropy, of outputs [N, C] and labels [N].

    Top 5 is the top of as many classes as there are, where there are fewer. Of equal outputs the lower class is first,
    as `argmax` has it.
    """
    ranks = logits.argsort(dim=1, descending=True, stable=True)[:, :5] == labels[:, None]
    wrong = torch.stack([~ranks[:, 0], ~ranks.any(dim=1)]).double().mean(dim=1)
    loss = F.cross_entropy(logits, labels).double()
    top1, top5, mean_loss = torch.cat([100 * wrong, loss[None]]).tolist()
    return {"error_pct": top1, "error_top5_pct": top5, "accuracy_pct": 100 - top1, "loss": mean_loss}


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
