"""The commands that an installation puts on the path. Ctrl-C while they import ends them without a traceback."""

import importlib
import signal


def train() -> None:
    """What `python -m sam_repro.train` does."""
    _start("sam_repro.train")


def measure() -> None:
    """What `python -m sam_repro.measure` does."""
    _start("sam_repro.measure")


def _start(door: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    importlib.import_module(door).main()
