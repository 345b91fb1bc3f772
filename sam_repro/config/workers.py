"""The processes of a sweep: a signal to any of them, or the end of the door, ends all of them, and each saves."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from sam_repro.signals import block_signals, handle_signals, raise_stopped

SECONDS = 0.2  # between two looks of a worker
_PARENT = os.getppid()
"""The process that started this one; another one takes its place when it ends."""


@dataclass(frozen=True)
class Sweep:
    """What the door of a sweep and its workers know of each other.

    Args:
        mark: a file that is there once the sweep has been stopped; it holds the number of the signal.
        door: the process of the door.
    """

    mark: Path
    door: int = field(default_factory=os.getpid)

    def stop(self, number: int) -> None:
        """Stop the sweep: no worker begins another line, and each saves the one that it is at."""
        if self.mark.parent.exists() and not self.mark.exists():
            self.mark.write_text(str(number))

    def stopped_by(self) -> int | None:
        """The signal that stopped the sweep; SIGTERM where the door is gone; None while it goes on."""
        if os.getpid() != self.door and os.getppid() != _PARENT:
            return signal.SIGTERM
        return int(self.mark.read_text() or signal.SIGTERM) if self.mark.exists() else None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Inside the block this worker gets a SIGTERM once the sweep has been stopped; a worker without a door ends."""
        if os.getpid() != self.door:
            _look(self)
        _working.set()
        try:
            yield
        finally:
            _working.clear()


_working = threading.Event()


@cache
def _look(sweep: Sweep) -> None:
    """Look now and then whether the sweep has been stopped, and end the process once the door has and no line runs."""

    def look() -> None:
        told = False
        while os.getppid() == _PARENT or _working.is_set():
            if _working.is_set() and sweep.stopped_by() and not told:
                os.kill(os.getpid(), signal.SIGTERM)
                told = True
            time.sleep(SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


@contextmanager
def open_sweep() -> Iterator[Sweep]:
    """A sweep whose lines run in other processes, which are started inside the block.

    The first signal stops the sweep, and the block goes on until the workers have saved. A second one interrupts it.

    Raises:
        Stopped: at the end, if a signal stopped the sweep, here or in a worker.
    """
    with TemporaryDirectory(prefix="sam_repro-") as folder:
        sweep = Sweep(Path(folder) / "stopped")

        def note(number: int, frame: FrameType | None) -> None:
            if sweep.stopped_by():
                raise_stopped(number)
            sweep.stop(number)

        resource_tracker.ensure_running()  # started inside of the block, it would let signals through again
        with handle_signals(note), block_signals():
            yield sweep
        if number := sweep.stopped_by():
            raise_stopped(number)
