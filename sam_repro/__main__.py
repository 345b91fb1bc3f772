"""`python -m sam_repro` names the doors: the package itself does nothing."""

import signal

if __name__ == "__main__":  # Ctrl-C while the rest is imported ends the command without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys

from sam_repro.config.launch import guard
from sam_repro.errors import UserError

DOORS = "python -m sam_repro.train, python -m sam_repro.measure, python -m sam_repro.table, python -m sam_repro.check"


def main() -> None:
    """Say which commands there are; the exit code is 2."""
    sys.exit(guard(_main))


def _main() -> int:
    raise UserError(f"the commands are {DOORS}; each says with --help what it takes")


if __name__ == "__main__":
    main()
