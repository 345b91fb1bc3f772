"""All benchmarks, one after the other, each in a process of its own; their JSON lines end in one folder.

    python scripts/bench_all.py [--quick] [--gpu] [--data DIR]

On a GPU the order is that of a first visit: ceilings, steps, whole epochs, then the rest; after nine minutes it ends.
The options are handed on to every script.
"""

import subprocess
import sys
import time
from pathlib import Path

from bench import arguments

ORDER = ("roofline", "kernels", "step", "epoch", "optim", "data", "precision", "hessian", "parallel", "accuracy")


GPU_SECONDS = 530
"""A GPU is lent for ten minutes: what does not fit is stopped, and can be asked for by itself."""


def main() -> None:
    end = time.monotonic() + GPU_SECONDS if arguments(__doc__).gpu else None
    failed = []
    for name in ORDER:
        script = Path(__file__).parent / f"bench_{name}.py"
        print(f"\n=== {script.name} {' '.join(sys.argv[1:])}", flush=True)
        began = time.monotonic()
        left = None if end is None else max(end - began, 1)
        try:
            code = subprocess.run([sys.executable, script, *sys.argv[1:]], check=False, timeout=left).returncode
        except subprocess.TimeoutExpired:
            print("stopped: the time on the GPU is over; what was measured is in its JSON lines")
            code = 1
        print(f"--- {time.monotonic() - began:.0f} s", flush=True)
        failed += [script.name] if code else []
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
