"""The running statistics of batch norm."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Statistics:
    """The running statistics of a model's batch-norm layers."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [
            layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]

    @property
    def values(self) -> list[Tensor]:
        """Means and variances; looked up each time, because a model may be moved to another device."""
        buffers = (buffer for layer in self.layers for buffer in (layer.running_mean, layer.running_var))
        return [buffer for buffer in buffers if buffer is not None]

    @property
    def counters(self) -> list[Tensor]:
        """Steps seen by each layer."""
        return [layer.num_batches_tracked for layer in self.layers if layer.num_batches_tracked is not None]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside the block a forward in train mode uses batch statistics and moves no buffer; blocks may be nested.

        Not by momentum 0: that still counts the step, and a second entry would save the 0.
        """
        before = [layer.track_running_stats for layer in self.layers]
        for layer in self.layers:
            layer.track_running_stats = False
        try:
            yield
        finally:
            for layer, track in zip(self.layers, before, strict=True):
                layer.track_running_stats = track

    def copy(self) -> list[Tensor]:
        """A copy of all buffers, for `load`."""
        return [buffer.clone() for buffer in self.values + self.counters]

    def load(self, copied: list[Tensor]) -> None:
        """Put a copy back into the buffers."""
        if copied:
            torch._foreach_copy_(self.values + self.counters, copied)
