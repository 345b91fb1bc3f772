"""Is accuracy paid for speed? bfloat16 and channels_last against float32 and contiguous, the same seeds, whole runs.

    python scripts/bench_accuracy.py [--quick] [--gpu]

The digits in the default configuration, trained as the command does. The difference of test accuracy is paired by seed;
shown means that its 95 % t-interval lies within half a point.
"""

import contextlib
import io
import statistics
import tempfile

from bench import Bench
from scipy.stats import t

from sam_repro.compose import composed
from sam_repro.run import run

FAST, PLAIN = ["precision=bf16", "channels_last=true"], ["precision=fp32", "channels_last=false"]
WITHIN = 0.5


def accuracy(seed: int, settings: list[str]) -> float:
    """Test accuracy in percent after the last epoch of a run."""
    overrides = [f"seed={seed}", "wandb=disabled", "progress=silent", "threads=1", *settings]
    with contextlib.redirect_stdout(io.StringIO()):
        result = run(composed(overrides), overrides)
    return result["metrics"]["test"]["last"]["accuracy_pct"]


def main() -> None:
    bench = Bench("bench_accuracy", __doc__)
    seeds = 2 if bench.quick else 8 if bench.device.type == "cuda" else 12
    device = [f"device={bench.device.type}", *(["epochs=1"] if bench.quick else [])]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        pairs = [(accuracy(seed, FAST + device), accuracy(seed, PLAIN + device)) for seed in range(seeds)]
    bench.say(pairs=pairs)
    fast, plain = zip(*pairs, strict=True)
    differences = [a - b for a, b in pairs]
    middle = statistics.mean(differences)
    half = t.ppf(0.975, seeds - 1) * statistics.stdev(differences) / seeds**0.5
    shown = abs(middle) + half <= WITHIN
    bench.note(f"test accuracy, n = {seeds}: {statistics.mean(fast):.3f} % ({', '.join(FAST)})")
    bench.note(f"                    {statistics.mean(plain):.3f} % ({', '.join(PLAIN)})")
    bench.note(
        f"difference {middle:+.3f} [{middle - half:+.3f}, {middle + half:+.3f}] points: "
        f"{'shown' if shown else 'not shown'} to be within {WITHIN}"
    )
    bench.close()


if __name__ == "__main__":
    main()
