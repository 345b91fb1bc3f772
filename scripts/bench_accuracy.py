"""Is accuracy paid for speed? bfloat16 and channels_last against float32 and contiguous, the same seeds, whole runs.

    python scripts/bench_accuracy.py [--quick] [--gpu] [--data DIR]

The digits in the default configuration, trained as the command does; with --data also Fashion-MNIST, ResNet-8, 2 epochs
in batches of 128. The difference of test accuracy is paired by seed; shown means that its 95 % t-interval lies within
half a point.
"""

import contextlib
import io
import statistics
import tempfile
from collections.abc import Iterator

from bench import Bench
from scipy.stats import t

from sam_repro.config.lines import compose_line
from sam_repro.errors import UserError
from sam_repro.run.run import run

FAST, PLAIN = ["precision=bf16", "channels_last=true"], ["precision=fp32", "channels_last=false"]
FASHION = ["dataset=fashion_mnist", "architecture=resnet8", "epochs=2", "batch_size=128", "download=false"]
WITHIN = 0.5


def accuracy(seed: int, settings: list[str]) -> float:
    """Test accuracy in percent after the last epoch of a run."""
    overrides = [f"seed={seed}", "wandb=disabled", "progress=silent", "threads=1", "sharpness=none", *settings]
    with contextlib.redirect_stdout(io.StringIO()):
        result = run(compose_line(overrides), overrides)
    return result["metrics"]["test"]["last"]["accuracy_pct"]


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A run that cannot be is named in a line."""
    try:
        yield
    except UserError as error:
        raise SystemExit(str(error)) from None


def compare(bench: Bench, task: str, settings: list[str], seeds: int) -> None:
    """Both settings on one task."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), told():
        pairs = [(accuracy(seed, FAST + settings), accuracy(seed, PLAIN + settings)) for seed in range(seeds)]
    bench.say(task=task, settings=settings, pairs=pairs)
    fast, plain = zip(*pairs, strict=True)
    differences = [a - b for a, b in pairs]
    middle = statistics.mean(differences)
    half = t.ppf(0.975, seeds - 1) * statistics.stdev(differences) / seeds**0.5
    shown = "shown" if abs(middle) + half <= WITHIN else "not shown"
    bench.note(f"{task}, n = {seeds}: {statistics.mean(fast):.3f} % ({', '.join(FAST)}),")
    bench.note(f"      {statistics.mean(plain):.3f} % ({', '.join(PLAIN)}),")
    interval = f"{middle:+.3f} [{middle - half:+.3f}, {middle + half:+.3f}] points"
    bench.note(f"      difference {interval}: {shown} to be within {WITHIN}")


def main() -> None:
    bench = Bench("bench_accuracy", __doc__)
    short, device = ["epochs=1"] if bench.quick else [], f"device={bench.device.type}"
    seeds = 2 if bench.quick else 8 if bench.device.type == "cuda" else 12
    if bench.arguments.data:  # first, because it may be missing
        fashion = [
            device,
            *FASHION,
            f"data_dir={bench.arguments.data.absolute()}",
            *(["max_steps=2"] if bench.quick else []),
        ]
        compare(bench, "Fashion-MNIST, ResNet-8", fashion, 2 if bench.quick else 8)
    compare(bench, "digits", [device, *short], seeds)
    bench.close()


if __name__ == "__main__":
    main()
