"""Numbers for each channel, on the device of the images."""

import functools

import torch
from torch import Tensor


@functools.cache
def per_channel(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers on a device, [1, C, 1, 1]; kept, since bringing them there anew would hold up the host."""
    return torch.tensor(numbers, dtype=dtype, device=device).view(1, -1, 1, 1)
