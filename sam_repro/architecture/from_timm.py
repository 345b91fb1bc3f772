"""Any network of timm, the library of image models: vision transformers, EfficientNets and a thousand others."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from sam_repro import limits
from sam_repro.architecture.layers import check_task, warn_of_small_images
from sam_repro.errors import first_line

_OURS = (
    "model_name",
    "pretrained",
    "num_classes",
    "in_chans",
    "img_size",
    "checkpoint_path",
    "exportable",
    "scriptable",
)


def timm_network(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    name: str = "vit_small_patch16_224",
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A network of timm, initialised as timm does.

    Args:
        num_classes: number of logits, ≥ 2.
        in_channels: channels of the images.
        image_size: pixels a side; a transformer has a place for each patch of such images.
        name: timm's name of the network.
        arguments: further arguments of its constructor, such as `drop_path_rate` or `patch_size`.

    Returns:
        A model from images [B, in_channels, image_size, image_size] to logits [B, num_classes]. Where it has a list of
        parameters without decay, `weight_decay_on=no_norm_no_bias` keeps to it.

    Raises:
        ValueError: timm has no such network, or it refuses an argument; on the meta device also where the images do
            not fit.

    Reference:
        Wightman 2019, github.com/huggingface/pytorch-image-models.
    """
    import timm  # takes seconds

    check_task(num_classes, in_channels, image_size)
    if arguments is not None and not isinstance(arguments, Mapping):
        raise ValueError(f"arguments = {arguments}: must be given by name, such as {{drop_path_rate: 0.1}}, or null")
    arguments = dict(arguments or {})
    if not isinstance(name, str) or not timm.is_model(name):
        near = get_close_matches(str(name), timm.list_models(), 3)
        hint = (
            f"did you mean {', '.join(near)}?"
            if near
            else "python -c 'import timm; print(timm.list_models())' has them"
        )
        raise ValueError(f"name = {limits.shown(name)}: must be a network of timm; {hint}")
    if taken := sorted(arguments.keys() & set(_OURS)):
        raise ValueError(f"arguments = {', '.join(taken)}: not to be given here; the data set, name and weights say it")
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        arguments["img_size"] = image_size
    try:
        model = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ValueError(f"arguments = {arguments}: {name} refuses them ({first_line(error)})") from error
    _check_images(model, name, (2, in_channels, image_size, image_size))
    stages = getattr(model, "feature_info", None) or []
    warn_of_small_images(
        image_size, max((stage["reduction"] for stage in stages if isinstance(stage, dict)), default=1)
    )
    return model


@torch.no_grad()
def _check_images(model: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Refuse images of which a patch would be cut off, or, on the meta device, which the network does not take."""
    size = shape[-1]
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
    if size % patch[0]:
        raise ValueError(
            f"image_size = {size}: does not fit {name}, whose patches have {patch[0]} pixels a side; resize the "
            "images, by dataset.resize.size, or by dataset.source.size of a folder, or set "
            "architecture.arguments={patch_size: 4}"
        )
    if next(model.parameters()).is_meta:
        try:
            model(torch.empty(shape, device="meta"))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(f"image_size = {size}: does not fit {name} ({first_line(error)})") from error
