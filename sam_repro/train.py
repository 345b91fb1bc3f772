"""The door to training: `python -m sam_repro.train optimizer=sam rho=0.05`, and `-m` for sweeps."""

import signal

if __name__ == "__main__":  # Ctrl-C while the rest is imported ends the command without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from collections.abc import Sequence
from typing import Any

from sam_repro.config.launch import guard, launch


def main() -> None:
    """Train what the command line says; the exit code is 0 done, 1 failed, 2 bad input, 3 busy, 128 + n signal n."""
    sys.exit(guard(_main))


def _main() -> int:
    cells = launch(_task, _dry_build)
    if not cells:
        return 0
    from sam_repro.table.sweep import table

    text, code = table(cells)
    print(text)
    return code


def _dry_build(configs: Sequence[dict[str, Any]]) -> list[str]:
    from sam_repro.run.dry_build import findings

    return findings(configs)


def _task(config: dict[str, Any], overrides: list[str]) -> int:
    from sam_repro.run.run import run

    run(config, overrides)
    return 0


if __name__ == "__main__":
    main()
