"""Kernels of a step: which take the time, how often each runs, and what all of them leave of the roofline.

    python scripts/bench_kernels.py [--quick] [--gpu]

One SAM step is watched by torch's profiler, as a run takes it: captured on a GPU, eager on a CPU. Run bench_roofline
first: its bound for the step is read from the same folder.
"""

import json

import torch
from bench import Bench
from bench_step import FAST, ours, task
from torch.profiler import ProfilerActivity, profile

from sam_repro.architecture import resnet8, resnet18, resnet20
from sam_repro.training import graphs

SHOWN = 12


def main() -> None:
    bench = Bench("bench_kernels", __doc__)
    cuda = bench.device.type == "cuda"
    cases = [("ResNet-18", resnet18, 128), ("ResNet-20", resnet20, 128)] if cuda else [("ResNet-8", resnet8, 16)]
    for name, network, batch in cases:
        _, step = ours(task(network, batch, bench.device), FAST, graph=cuda)
        for _ in range(graphs.WARM_UP + 2):
            step()
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as watched:
            step()
            if cuda:
                torch.cuda.synchronize()
        kernels = [
            (event.key, event.count, (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6)
            for event in watched.key_averages()
        ]
        total = sum(seconds for _, _, seconds in kernels)
        print(f"\n{name}, batch {batch}: {sum(count for _, count, _ in kernels)} kernels, {1e3 * total:.4g} ms")
        for key, count, seconds in sorted(kernels, key=lambda kernel: -kernel[2])[:SHOWN]:
            print(f"  {1e3 * seconds:9.4f} ms  {count:5d} x  {seconds / total:6.1%}  {key[:80]}")
            bench.say(model=name, batch=batch, kernel=key, count=count, seconds=seconds, share=seconds / total)
        if (bound := roofline(bench, name, batch)) is not None:
            bench.note(
                f"{name}, batch {batch}: roofline {1e3 * bound:.4g} ms, {bound / total:.2f} of the kernels' time"
            )
    bench.close()


def roofline(bench: Bench, model: str, batch: int) -> float | None:
    """Seconds of a SAM step by `bench_roofline`; None if it was not run for this network."""
    path = bench.arguments.out / "bench_roofline.jsonl"
    for line in map(json.loads, path.read_text().splitlines() if path.exists() else []):
        if (line.get("model"), line.get("batch")) == (model, batch):
            return float(line["sam_step_seconds"])
    return None


if __name__ == "__main__":
    main()
