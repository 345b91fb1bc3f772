"""Several runs side by side on one device: what 1, 2 and 4 processes do together, against one alone.

    python scripts/bench_parallel.py [--quick] [--gpu]

Each process takes SAM steps of ResNet-18 (on a CPU ResNet-20) in bfloat16 and channels_last, as a sweep over seeds
would. All begin at one moment and count images for some seconds of wall time: a busy machine makes it say little.
"""

import multiprocessing
import time
from functools import partial
from typing import Any

import torch
from bench import Bench
from bench_step import FAST, ours, task

from sam_repro.architecture import resnet8, resnet18, resnet20


def images_per_second(kind: str, batch: int, seconds: float, graph: bool, barrier: Any, number: int) -> float:
    """Of one process; `number` only tells them apart."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if kind == "cuda" else "cpu")
    network = resnet18 if kind == "cuda" else resnet8 if seconds < 2 else resnet20
    _, step = ours(task(network, batch, device), FAST, graph=graph)
    for _ in range(8 if kind == "cuda" else 1):
        step()
    done = 0
    barrier.wait()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        loss = step()
        done += 1
        if done % 20 == 0 or kind == "cpu":
            float(loss)  # the host must not run ahead of its device for long
    float(loss)
    return done * batch / (time.perf_counter() - began)


def together(processes: int, kind: str, batch: int, seconds: float, graph: bool) -> float:
    """Images per second of all."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(processes) as pool:
        work = partial(images_per_second, kind, batch, seconds, graph, manager.Barrier(processes))
        return sum(pool.map(work, range(processes), chunksize=1))


def main() -> None:
    bench = Bench("bench_parallel", __doc__)
    kind, batch, seconds = bench.device.type, 16 if bench.quick else 128, 1 if bench.quick else 10
    for graph in (False, True) if kind == "cuda" else (False,):
        alone = None
        for processes in (1, 2) if bench.quick else (1, 2, 4):
            rate = together(processes, kind, batch, seconds, graph)
            alone = alone or rate
            words = f"{processes} process{'es' if processes > 1 else ''}{', graph' if graph else ''}"
            bench.note(f"{words}: {rate:.4g} images/s together, {rate / alone:.2f} of one alone")
            bench.say(processes=processes, graph=graph, images_per_second=rate, ratio=rate / alone)
    bench.close()


if __name__ == "__main__":
    main()
