"""Seconds of training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds of training along the whole trajectory; evaluation and files are off the clock.

    Of these, `waited` are those in which the host waited for what it reads.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.waited = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Count from here; nothing happens if it counts already, so that steps need not wait for the device."""
        if self._since is None:
            self._since = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what happens inside the block as waiting."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def stop(self) -> None:
        """Wait until the device has done what was counted, and count no further."""
        if self._since is not None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += time.perf_counter() - self._since
            self._since = None
