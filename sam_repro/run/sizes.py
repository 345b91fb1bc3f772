"""The sizes of batches that a network must take. Each is tried before training, without numbers."""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from sam_repro.errors import UserError
from sam_repro.run.build import Shape
from sam_repro.training import evaluation
from sam_repro.training.plan import Plan

ORDINARY = 64  # images that any network takes; one that does not cannot be tried without numbers


def refuse_sizes(model: nn.Module, shape: Shape, plan: Plan, images: int, evaluated: Sequence[int] = ()) -> None:
    """Refuse the last batch of an epoch, or the last part of a batch, that the network cannot take.

    Args:
        model: the network, which stays as it is.
        shape: of its data.
        plan: the numbers of the loop.
        images: of the training set.
        evaluated: numbers of images of the sets on which it is evaluated.

    Raises:
        UserError: if there is such a size; it says which, why, and what to change.
    """
    network = _without_numbers(model)
    if network is None:
        return
    for training, size, where, remedy in _sizes(shape, plan, images, evaluated):
        if fault := _fault(network.train(training), shape, size):
            if _fault(network.train(), shape, ORDINARY):
                return
            raise UserError(f"{where} has {_images(size)}, which the network cannot take ({fault}); {remedy}")


def _sizes(shape: Shape, plan: Plan, images: int, evaluated: Sequence[int]) -> Iterator[tuple[bool, int, str, str]]:
    """The sizes that the network comes to: whether in training, of how many images, what it is of, what to change."""
    for size, where, remedy in _trained(plan, images):
        yield True, size, where, remedy
    largest = evaluation.largest_batch(shape.image_size, shape.image_size)
    for count in evaluated:
        yield False, count % largest or largest, f"evaluation: the last batch of {count} images", "mend its forward"


def _trained(plan: Plan, images: int) -> Iterator[tuple[int, str, str]]:
    """The sizes that training comes to: what each is of, and how to avoid it."""
    batches = {min(plan.batch_size, images): f"batch_size = {plan.batch_size}: a batch"}
    rest = images % plan.batch_size
    if rest and not plan.drop_last and plan.steps(images) >= plan.steps_per_epoch(images):
        batches[rest] = f"batch_size = {plan.batch_size}: the last batch of an epoch of {images} images"
    for size, where in batches.items():
        if plan.m is None or plan.m >= size:
            yield size, where, "add drop_last=true, or choose another batch_size"
        else:
            yield plan.m, f"m = {plan.m}: a part of a batch", "choose a larger m"
            if last := size % plan.m:
                yield last, f"m = {plan.m}: the last part of a batch of {size}", "choose another m"


def _without_numbers(model: nn.Module) -> nn.Module | None:
    """A copy on the meta device, where a forward computes shapes alone; None where there can be none."""
    bare: dict[int, torch.Tensor] = {id(b): b.to("meta") for b in model.buffers()}
    bare |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    try:
        return copy.deepcopy(model, bare)
    except Exception:  # somebody's module that cannot be copied: it is not tried
        return None


@torch.no_grad()
def _fault(network: nn.Module, shape: Shape, size: int) -> str | None:
    """What the network says of so many images, in a line; None if it gives outputs for all of them."""
    side = shape.image_size
    try:
        outputs = network(torch.empty(size, shape.in_channels, side, side, device="meta"))
        found, wanted = tuple(outputs.shape), (size, shape.num_classes)
    except Exception as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None if found == wanted else f"its outputs have shape {list(found)}, not {list(wanted)}"


def _images(size: int) -> str:
    return "1 image" if size == 1 else f"{size} images"
