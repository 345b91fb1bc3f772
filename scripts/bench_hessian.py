"""Cost of Hessian products and of eigenvalues, against PyHessian and curvlinops, in one process.

    python scripts/bench_hessian.py            # ResNet-20 for CIFAR, batch 64; some minutes
    python scripts/bench_hessian.py --quick    # the digits' network, few rounds; under a minute

Clock: CPU time of this process on one thread; variants interleaved, medians, ratios taken round by round. Every line of
the first part is JSON; a table comes last. Peak memory is the growth of the resident set during one call of a fresh
process, beside the formula (m + k + 4)·N numbers of Lanczos, m its products, k eigenvalues, N weights.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from curvlinops import HessianLinearOperator
from pyhessian import hessian as PyHessian
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from sam_repro.architecture.digits import digits_cnn
from sam_repro.architecture.resnet import resnet20
from sam_repro.oracle import Objective
from sam_repro.sharpness import Curvature, undisturbed
from sam_repro.sharpness.lanczos import Spectrum, top

COUNT, TOLERANCE = 5, 1e-3
Batch = tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", choices=("gradient", "lanczos"), help="for the script itself: one call, in kB")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers', about torch.jit and create_graph
    model, batch = subject(arguments.quick, steps=0 if arguments.memory else 20)
    if arguments.memory:
        print(*memory(model, batch, arguments.memory))
        return
    told = {"torch": torch.__version__, "cpu": platform.machine(), "threads": 1, "batch": len(batch[1])}
    told |= {"model": "digits_cnn" if arguments.quick else "resnet20", "weights": sum(map(Tensor.numel, params(model)))}
    rows = products(model, batch, 3 if arguments.quick else arguments.rounds)
    solved = eigenvalues(model, batch)
    (gradient, _), (lanczos, used) = (peak_memory(kind, arguments.quick) for kind in ("gradient", "lanczos"))
    for row in rows + solved:
        print(json.dumps(told | row))
    print(table(rows, solved))
    formula = (used + COUNT + 4) * told["weights"] * 4 / 1024
    print(f"\npeak memory, untrained: gradient {gradient} kB, Lanczos {lanczos} kB with {used} products,")
    print(f"of which vectors by the formula at most {formula:.0f} kB; the rest is the graph of a product")


def subject(quick: bool, steps: int) -> tuple[nn.Module, Batch]:
    """A network after a few steps on made-up images of two overlapping kinds, so that it has a spectrum."""
    torch.manual_seed(0)
    if quick:
        model, shape, classes, size = digits_cnn(num_classes=10, in_channels=1, image_size=8), (1, 8, 8), 10, 32
    else:
        model, shape, classes, size = resnet20(num_classes=100, in_channels=3, image_size=32), (3, 32, 32), 100, 64
    centres = torch.randn(classes, *shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        labels = torch.randint(classes, (size,))
        loss = F.cross_entropy(model(centres[labels] + torch.randn(size, *shape)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    labels = torch.randint(classes, (size,))
    return model.eval(), (centres[labels] + torch.randn(size, *shape), labels)


def params(model: nn.Module) -> list[Tensor]:
    return list(model.parameters())


def products(model: nn.Module, batch: Batch, rounds: int) -> list[dict[str, Any]]:
    """A gradient and one Hessian product each way."""
    weights = params(model)
    oracle = Objective(model, F.cross_entropy)(*batch)
    v = [torch.randn_like(p) for p in weights]
    flat = torch.cat([x.reshape(-1) for x in v])
    reused = oracle.hessian(weights)
    theirs = HessianLinearOperator(model, nn.CrossEntropyLoss(), weights, [batch], check_deterministic=False)
    block = torch.randn(len(flat), COUNT)
    with undisturbed(model):
        curvature = Curvature(model, F.cross_entropy, [batch])
        curvature.hvp(flat)
    peer = PyHessian(model, nn.CrossEntropyLoss(), data=batch, cuda=False)
    from pyhessian.utils import hessian_vector_product

    variants: dict[str, tuple[Callable[[], Any], int]] = {
        "gradient": (partial(oracle.gradient, weights, False), 1),
        "product from scratch": (partial(oracle.hvp, weights, v), 1),
        "product, graph reused": (partial(reused, v), 1),
        "5 products, one graph from scratch": (lambda: [oracle.hessian(weights)(v)] + [reused(v) for _ in range(4)], 5),
        "curvature.hvp (flat, graph reused)": (partial(curvature.hvp, flat), 1),
        "PyHessian product (graph reused)": (partial(hessian_vector_product, peer.gradsH, peer.params, v), 1),
        "curvlinops H @ v": (lambda: theirs @ flat, 1),
        "curvlinops H @ V, 5 columns": (lambda: theirs @ block, 5),
        "gradient again": (partial(oracle.gradient, weights, False), 1),
    }
    reference = torch.cat([x.reshape(-1) for x in oracle.hvp(weights, v)])
    for name, other in (("curvlinops", theirs @ flat), ("flat", curvature.hvp(flat))):
        off = float((other - reference).norm() / reference.norm())
        assert off < 1e-4, f"{name} is another product: {off}"
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        order = list(variants) if round_ % 2 else list(reversed(variants))
        for name in order:
            act, count = variants[name]
            began = time.process_time()
            act()
            if round_:  # the first round warms up
                times[name].append((time.process_time() - began) / count)
    return [
        {
            "variant": name,
            "ms": 1000 * statistics.median(seconds),
            "ratio": statistics.median(a / b for a, b in zip(seconds, times["gradient"], strict=True)),
        }
        for name, seconds in times.items()
    ]


def eigenvalues(model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
    """Top five by absolute value: ours, PyHessian's, curvlinops with eigsh; and their error to a tight solution."""
    weights = params(model)
    with undisturbed(model):
        curvature = Curvature(model, F.cross_entropy, [batch])
        reference = solved(curvature, 1e-6).values

    def ours() -> tuple[list[float], int]:
        with undisturbed(model):
            curvature = Curvature(model, F.cross_entropy, [batch])
            found = solved(curvature, TOLERANCE)
        assert all(found.converged)
        assert found.searched
        return found.values, found.products

    def pyhessian() -> tuple[list[float], int]:
        peer: Any = sys.modules["pyhessian.hessian"]  # the package gives this name to the class
        calls, product = [0], peer.hessian_vector_product

        def counted(*arguments: Any) -> Any:
            calls[0] += 1
            return product(*arguments)

        peer.hessian_vector_product = counted
        torch.manual_seed(0)
        values, _ = PyHessian(model, nn.CrossEntropyLoss(), data=batch, cuda=False).eigenvalues(top_n=COUNT)
        peer.hessian_vector_product = product
        model.zero_grad()
        return values, calls[0]

    def curvlinops() -> tuple[list[float], int]:
        operator = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), weights, [batch], check_deterministic=False
        ).to_scipy()
        calls = [0]

        def product(v: Any) -> Any:
            calls[0] += 1
            return operator @ v

        counted = LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)
        values = eigsh(counted, k=COUNT, which="LM", tol=TOLERANCE, return_eigenvectors=False)
        return list(values), calls[0]

    rows = []
    for name, act in (
        ("ours", ours),
        ("PyHessian", pyhessian),
        ("curvlinops, eigsh", curvlinops),
        ("ours again", ours),
    ):
        began = time.process_time()
        values, used = act()
        seconds = time.process_time() - began
        # as sets: power iteration returns them unsorted
        pairs = zip(sorted(map(abs, values)), sorted(map(abs, reference)), strict=True)
        error = max(abs(a - b) / b for a, b in pairs)
        rows.append({"solver": name, "products": used, "seconds": seconds, "largest_relative_error": error})
    return rows


def solved(curvature: Curvature, tolerance: float) -> Spectrum:
    generator = torch.Generator().manual_seed(0)
    random = partial(torch.randn, curvature.size, generator=generator)
    return top(curvature.hvp, random, COUNT, order="magnitude", tolerance=tolerance)


def memory(model: nn.Module, batch: Batch, kind: str) -> tuple[int, int]:
    """Growth of the resident set in kB, and the products that were used."""
    used = 0
    before = high_water()
    if kind == "gradient":
        Objective(model, F.cross_entropy)(*batch).gradient(params(model), False)
    else:
        with undisturbed(model):
            used = solved(Curvature(model, F.cross_entropy, [batch]), TOLERANCE).products
    return high_water() - before, used


def high_water() -> int:
    """Highest resident set so far in kB; what getrusage says would include the parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def peak_memory(kind: str, quick: bool) -> tuple[int, int]:
    command = [sys.executable, __file__, "--memory", kind, *(["--quick"] if quick else [])]
    growth, used = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return int(growth), int(used)


def table(rows: list[dict[str, Any]], solved: list[dict[str, Any]]) -> str:
    lines = [f"{'':38}{'ms':>9}{'/ gradient':>12}"]
    lines += [f"{row['variant']:38}{row['ms']:9.1f}{row['ratio']:12.2f}" for row in rows]
    lines += ["", f"{'top 5 by absolute value, at 1e-3':38}{'products':>9}{'CPU s':>12}{'largest error':>15}"]
    for row in solved:
        numbers = f"{row['products']:9}{row['seconds']:12.1f}{row['largest_relative_error']:15.1e}"
        lines.append(f"{row['solver']:38}{numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
