"""All benchmarks, one after the other, each in a process of its own; their JSON lines end in one folder.

    python scripts/bench_all.py [--quick] [--gpu] [--data DIR]

On a GPU the order is that of a first visit: ceilings, steps, whole epochs, then the rest. What follows the options is
handed on to every script.
"""

import subprocess
import sys
import time
from pathlib import Path

from bench import arguments

ORDER = ("roofline", "step", "epoch", "optim", "data", "precision", "hessian", "parallel", "accuracy")


def main() -> None:
    arguments(__doc__)
    failed = []
    for name in ORDER:
        script = Path(__file__).parent / f"bench_{name}.py"
        print(f"\n=== {script.name} {' '.join(sys.argv[1:])}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, script, *sys.argv[1:]], check=False).returncode
        print(f"--- {time.monotonic() - began:.0f} s", flush=True)
        failed += [script.name] if code else []
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
