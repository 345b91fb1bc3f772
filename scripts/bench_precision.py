"""What bfloat16 does to SAM: the perturbation, the rise of the loss, and the part of the gradient that SAM adds.

    python scripts/bench_precision.py [--quick] [--gpu] [--data DIR]

A network is trained, and early and late in it gradients in float32 and under bfloat16 autocast are compared on batches
that it has not seen: g, g_s, and g_s - g, whose cosine should be at least 0.99.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from bench import Bench
from bench_epoch import data
from bench_step import SGD
from torch import Tensor, nn

from sam_repro.architecture import resnet8, resnet20
from sam_repro.augmentation import Augmentation, Crop, Flip
from sam_repro.dataset import Resident
from sam_repro.optimizer import SAM
from sam_repro.oracle import Objective
from sam_repro.vectors import Vector, dot, moved, norm, scaled

MEAN, STD, BATCH = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 128


class Seen(NamedTuple):
    """The two gradients of a batch and their losses."""

    g: Vector
    g_s: Vector
    rise: float


def cosine(a: Vector, b: Vector) -> float:
    """Of two vectors."""
    return float(dot(a, b) / (norm(a) * norm(b)))


def training(network: nn.Module, train: Resident, device: torch.device) -> Iterator[None]:
    """SAM steps under bfloat16, one for each turn."""
    objective = Objective(network, F.cross_entropy, autocast=torch.bfloat16)
    rule = SAM(SGD(network.parameters(), fused=True), rho=0.05)
    rule.base.param_groups[0]["lr"] = 0.1
    augmentation = Augmentation(MEAN, STD, order=["flip", "crop", "normalise"], flip=Flip(), crop=Crop(4))
    generator = torch.Generator(device).manual_seed(0)
    while True:
        rows = torch.randint(len(train), (BATCH,), generator=generator, device=device)
        images = augmentation(train.images.index_select(0, rows), generator)
        rule.step(objective(images, train.labels.index_select(0, rows)))
        yield


def seen(model: nn.Module, images: Tensor, labels: Tensor, epsilon: Vector, bf16: bool) -> Seen:
    """At w and at w + epsilon."""
    oracle = Objective(model, F.cross_entropy, autocast=torch.bfloat16 if bf16 else None)(images, labels)
    w = list(model.parameters())
    first = oracle.gradient(w, update_statistics=False)
    with moved(w, by=epsilon, backup=[torch.empty_like(p) for p in w]):
        second = oracle.gradient(w, update_statistics=False)
    return Seen(first.vector, second.vector, float(second.loss - first.loss))


def compared(model: nn.Module, images: Tensor, labels: Tensor, rho: float) -> dict[str, float]:
    """One batch in both precisions, at the same perturbation."""
    w = list(model.parameters())
    g = Objective(model, F.cross_entropy)(images, labels).gradient(w, update_statistics=False).vector
    epsilon = scaled(g, rho / norm(g))
    full, half = (seen(model, images, labels, epsilon, bf16) for bf16 in (False, True))
    with torch.no_grad():  # what a bfloat16 kernel sees of the perturbation
        moves = [(p + e).bfloat16().float() - p.bfloat16().float() for p, e in zip(w, epsilon, strict=True)]
    added = [torch._foreach_sub(x.g_s, x.g) for x in (full, half)]
    return {
        "perturbation_length_ratio": float(norm(moves)) / rho,
        "perturbation_cosine": cosine(moves, epsilon),
        "along_g": float(dot(g, moves) / dot(g, epsilon)),
        "rise_fp32": full.rise,
        "rise_bf16": half.rise,
        "g_cosine": cosine(full.g, half.g),
        "g_s_cosine": cosine(full.g_s, half.g_s),
        "g_s_minus_g_cosine": cosine(*added),
    }


def main() -> None:
    bench = Bench("bench_precision", __doc__)
    network, points = (resnet8, (10,)) if bench.quick else (resnet20, (20, 150, 600))
    given = data(bench.arguments.data, 512 if bench.quick else 20_000, 2 * BATCH).to(bench.device)
    torch.manual_seed(0)
    model = network(num_classes=100, in_channels=3, image_size=32).to(bench.device, memory_format=torch.channels_last)
    steps = training(model, given.train, bench.device)
    worst, done = 1.0, 0
    for point in points:
        for _ in itertools.islice(steps, point - done):
            pass
        done = point
        for rho in (0.05, 0.2):
            for number, rows in enumerate(torch.arange(2 * BATCH).to(bench.device).split(BATCH)):
                images, labels = Augmentation(MEAN, STD).normalise(given.test.images[rows]), given.test.labels[rows]
                figures = compared(model, images, labels, rho)
                worst = min(worst, figures["g_s_minus_g_cosine"])
                words = ", ".join(f"{name} {value:.5g}" for name, value in figures.items())
                bench.note(f"after {point} steps, rho {rho}, batch {number}: {words}")
                bench.say(rho=rho, batch=number, steps=point, **figures)
    bench.target("", "1 - the smallest cosine of g_s - g", 1 - worst, 0.01)
    bench.close()


if __name__ == "__main__":
    main()
