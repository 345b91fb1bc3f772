"""Kernels of a step: which take the time, how often each runs, and what each sort leaves of the roofline.

    python scripts/bench_kernels.py [--quick] [--gpu]

One SAM step is watched by torch's profiler, as a run takes it: compiled and captured on a GPU, eager on a CPU. Run
bench_roofline first: its ceilings are read from the same folder. The least time of a sort of kernels is that of the
operations and bytes which bench_roofline counts for it, each kernel at its own ceiling.
"""

import json
import re

import torch
from bench import Bench
from bench_roofline import OPTIMIZER_BYTES, kernels, serial_roofline
from bench_step import FAST, Network, ours, task
from torch.profiler import ProfilerActivity, profile

from sam_repro.architecture import resnet8, resnet18, resnet20
from sam_repro.training import graphs

SHOWN = 12
SORTS = {
    "copies and fills": r"memcpy|memset|fill",
    "convolutions and products": r"conv|gemm|gemv|xmma|cutlass|wgrad|dgrad|cudnn|nhwc|nvjet|addmm|mkldnn",
    "optimizer": r"multi_tensor|fused_sgd|foreach|norm_kernel|lpnorm|reduce_kernel",
    "fused by the compiler": r"triton",
}
"""Sort of a kernel → what its name has; the first that fits, else "other"."""


def sort_of(kernel: str) -> str:
    """The sort that a kernel's name tells."""
    return next((sort for sort, words in SORTS.items() if re.search(words, kernel, re.IGNORECASE)), "other")


def main() -> None:
    bench = Bench("bench_kernels", __doc__)
    cuda = bench.device.type == "cuda"
    torch.backends.cudnn.benchmark = cuda
    cases = [("ResNet-18", resnet18, 256), ("ResNet-20", resnet20, 128)] if cuda else [("ResNet-8", resnet8, 16)]
    for name, network, batch in cases:
        _, step = ours(task(network, batch, bench.device), FAST, compile=cuda, graph=cuda)
        for _ in range(graphs.WARM_UP + 2):
            step()
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as watched:
            step()
            if cuda:
                torch.cuda.synchronize()
        found = [
            (event.key, event.count, (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6)
            for event in watched.key_averages()
        ]
        total = sum(seconds for _, _, seconds in found)
        print(f"\n{name}, batch {batch}: {sum(count for _, count, _ in found)} kernels, {1e3 * total:.4g} ms")
        for key, count, seconds in sorted(found, key=lambda kernel: -kernel[2])[:SHOWN]:
            print(f"  {1e3 * seconds:9.4f} ms  {count:5d} x  {seconds / total:6.1%}  {key[:80]}")
        for key, count, seconds in found:
            bench.say(model=name, batch=batch, kernel=key, count=count, seconds=seconds, share=seconds / total)
        least = bounds(bench, network, batch)
        for sort in sorted({sort_of(key) for key, _, _ in found}):
            of_sort = [(count, seconds) for key, count, seconds in found if sort_of(key) == sort]
            count, seconds = sum(count for count, _ in of_sort), sum(seconds for _, seconds in of_sort)
            bound = f", least {1e3 * least[sort]:.4g} ms" if sort in least else ""
            bench.note(f"{name}, batch {batch}: {sort}: {count} kernels, {1e3 * seconds:.4g} ms{bound}")
            bench.say(model=name, batch=batch, sort=sort, count=count, seconds=seconds, least=least.get(sort))
    bench.close()


def bounds(bench: Bench, network: Network, batch: int) -> dict[str, float]:
    """Sort → least seconds of a SAM step's kernels of it; nothing where bench_roofline has not run."""
    path = bench.arguments.out / "bench_roofline.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    ceilings = [(line["flops_per_second"], line["bytes_per_second"]) for line in lines if "flops_per_second" in line]
    if not ceilings:
        return {}
    flops, bandwidth = ceilings[0]
    of_pass, weights = kernels(network, batch, 32)
    products = [kernel for kernel in of_pass if kernel.flops]
    others = [kernel for kernel in of_pass if not kernel.flops]
    return {
        "convolutions and products": 2 * serial_roofline(products, flops, bandwidth, fused=True),
        "fused by the compiler": 2 * serial_roofline(others, flops, bandwidth, fused=True),
        "optimizer": OPTIMIZER_BYTES * weights / bandwidth,
    }


if __name__ == "__main__":
    main()
