"""Seconds of training, and signals that are noted."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch


class Clock:
    """Seconds of training along the whole trajectory; evaluation and files are off the clock."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Count from here; nothing happens if it counts already, so that steps need not wait for the device."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Wait until the device has done what was counted, and count no further."""
        if self._since is not None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += time.perf_counter() - self._since
            self._since = None


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Inside the block SIGINT and SIGTERM are only noted, in the list; a SIGINT after that interrupts at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
