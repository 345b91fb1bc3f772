"""The roofline: what this machine can multiply and move at most, and what the networks ask of it.

    python scripts/bench_roofline.py [--quick] [--gpu]

The count is made on tensors without content, so that it is the same everywhere. With the ceilings measured here it
gives the serial roofline (SR), a lower bound of a pass in which each kernel runs at its own ceiling, one by one.
FLOPs are 2 x MAC of convolutions and matrix products, three times the forward's for a pass. Bytes: two per number; a
convolution reads two tensors and writes one in each of its three kernels, batch norm passes 8 times over its output,
ReLU 5 times, a sum of branches 6 times; fused, ReLU is nothing and a sum 2 times.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from bench import Bench, Variant
from bench_step import vit_small
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_repro.architecture import resnet18, resnet20, resnet50, wrn16_4, wrn28_10

BYTES = 2
"""Of a number in bfloat16."""
OPTIMIZER_BYTES = 52
"""Bytes a weight of SAM's own arithmetic and of SGD's: norm, perturb, back up, restore, step."""


class Kernel(NamedTuple):
    """One kernel of a forward + backward pass."""

    flops: float
    numbers: float
    fused_numbers: float


class Counter(TorchDispatchMode):
    """What the forward of a network will cost in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        results = operation(*arguments, **(keywords or {}))
        name = operation.overloadpacket.__name__
        out = results[0] if isinstance(results, tuple) else results
        if name in ("convolution", "addmm", "mm", "bmm"):
            one, two = arguments[1:3] if name == "addmm" else arguments[:2]
            flops = 2 * out.numel() * (prod(two.shape[1:]) if name == "convolution" else two.shape[-2])
            numbers = one.numel() + two.numel() + out.numel()
            self.kernels += 3 * [Kernel(flops, numbers, numbers)]
        elif name in (
            "relu",
            "native_batch_norm",
            "_native_batch_norm_legit",
            "cudnn_batch_norm",
            "_batch_norm_with_update",
        ):
            passes, fused = (5, 0) if name == "relu" else (8, 8)
            self.kernels.append(Kernel(0, passes * out.numel(), fused * out.numel()))
        elif name == "add" and out.dim() == 4:
            self.kernels.append(Kernel(0, 6 * out.numel(), 2 * out.numel()))
        return results


def kernels(network: Callable[..., nn.Module], batch: int, pixels: int) -> tuple[list[Kernel], int]:
    """The kernels of one pass over a batch, and the number of parameters."""
    with torch.device("meta"):
        model = network(num_classes=100, in_channels=3, image_size=pixels)
        images = torch.empty(batch, 3, pixels, pixels)
    with Counter() as counter, torch.no_grad():
        model(images)
    return counter.kernels, sum(p.numel() for p in model.parameters())


def serial_roofline(found: list[Kernel], flops: float, bandwidth: float, fused: bool) -> float:
    """Seconds of a pass in which each kernel takes the longer of its two ceilings."""
    times = ((k.flops / flops, BYTES * (k.fused_numbers if fused else k.numbers) / bandwidth) for k in found)
    return sum(max(pair) for pair in times)


def ceilings(bench: Bench) -> tuple[float, float]:
    """FLOP/s of a bfloat16 matrix product of random numbers, and bytes/s of a copy, reading and writing."""
    cuda = bench.device.type == "cuda"
    size, count = (8192, 2**30) if cuda else (512, 2**24) if bench.quick else (2048, 2**26)
    # random, because a product of zeros runs faster
    one, two = (torch.randn(size, size, device=bench.device).bfloat16() for _ in range(2))
    source = torch.randn(count, device=bench.device)
    target: Tensor = torch.empty_like(source)
    product, copy = f"bf16 product, {size}", f"copy of {4 * count / 2**20:.0f} MiB"
    variants = [Variant(product, lambda: one @ two), Variant(copy, lambda: target.copy_(source))]
    seconds = bench.measure("ceilings", variants, "run")
    return 2 * size**3 / min(seconds[product]), 8 * count / min(seconds[copy])


def main() -> None:
    bench = Bench("bench_roofline", __doc__)
    flops, bandwidth = ceilings(bench)
    bench.note(f"ceilings: {flops / 1e12:.3g} TFLOP/s, {bandwidth / 1e9:.4g} GB/s")
    bench.say(flops_per_second=flops, bytes_per_second=bandwidth)
    cases: list[tuple[str, Callable[..., nn.Module], int, int]] = [
        ("ResNet-20", resnet20, 128, 32),
        ("ResNet-18", resnet18, 128, 32),
        ("ResNet-18", resnet18, 256, 32),
        ("WRN-16-4", wrn16_4, 128, 32),
        ("WRN-28-10", wrn28_10, 128, 32),
        ("ResNet-50", resnet50, 128, 224),
        ("ViT-S/16", vit_small, 128, 224),
    ]
    for name, network, batch, pixels in cases:
        found, weights = kernels(network, batch, pixels)
        total = sum(k.flops for k in found)
        eager, fused = (serial_roofline(found, flops, bandwidth, fused) for fused in (False, True))
        optimizer = OPTIMIZER_BYTES * weights / bandwidth
        step = 2 * fused + optimizer
        size = f"{weights / 1e6:.2f} M weights, {total / batch / 1e9:.3f} GFLOP/image"
        times = f"a pass {1e3 * fused:.4g} ms fused, {1e3 * eager:.4g} ms eager; a SAM step {1e3 * step:.4g} ms"
        bench.note(f"{name}, batch {batch}, {pixels} px: {size}; {times}")
        bench.say(
            model=name,
            batch=batch,
            pixels=pixels,
            flops=total,
            pass_seconds={"eager": eager, "fused": fused},
            sam_step_seconds=step,
        )
    bench.close()


if __name__ == "__main__":
    main()
