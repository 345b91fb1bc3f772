"""Signals that ask a process to stop: noted where its state can be saved, an exception everywhere else."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sam_repro.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Ctrl-C; what `kill` and schedulers send; what SLURM sends before the time is over; a terminal that was closed."""

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handle_signals(handler: Handler) -> Iterator[None]:
    """Inside the block the signals call the handler; SIGHUP does not where it was ignored before, as under `nohup`.

    They are let through, if the process began with them blocked. Outside of the main thread nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            if number != signal.SIGHUP or before[number] != signal.SIG_IGN:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, earlier in before.items():
            signal.signal(number, earlier or signal.SIG_DFL)


@contextmanager
def note_signals() -> Iterator[list[int]]:
    """Inside the block signals are only noted, in the list; a SIGINT after the first interrupts at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    with handle_signals(note):
        yield caught


def raise_stopped(number: int, frame: FrameType | None = None) -> None:
    """Raise what ends a command that has nothing to save."""
    raise Stopped(number, f"stopped by signal {number}; the same command goes on")


@contextmanager
def block_signals() -> Iterator[None]:
    """Inside the block the signals still reach this process, and not the processes that it starts.

    Those begin with the signals blocked, until they handle them. Another thread listens for this one meanwhile.
    """
    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True).start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        done.set()
