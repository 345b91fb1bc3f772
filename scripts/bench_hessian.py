"""Cost of Hessian products and of eigenvalues, against PyHessian and curvlinops.

    python scripts/bench_hessian.py [--quick] [--gpu] [--compile]

On a CPU ResNet-20, batch 64; on a GPU ResNet-18, batch 512. Compiled are the products of torch.func. Before the clock
starts all products are compared. On a CPU also the peak memory: growth of the resident set during one call in a fresh
process, beside the formula (m + k + 4)·N numbers of Lanczos, m its products, k eigenvalues, N weights.
"""

import math
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from bench import Bench, Variant, agree, ratio
from curvlinops import HessianLinearOperator
from pyhessian import hessian as PyHessian
from pyhessian.utils import hessian_vector_product
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from sam_repro.architecture import digits_cnn, resnet18, resnet20
from sam_repro.oracle import Objective
from sam_repro.oracle.products import hessian, hvp
from sam_repro.sharpness import Curvature, undisturbed
from sam_repro.sharpness.lanczos import Spectrum, top

COUNT, TOLERANCE = 5, 1e-3


class Subject(NamedTuple):
    """A network in eval mode, and a batch."""

    name: str
    model: nn.Module
    batch: tuple[Tensor, Tensor]

    @property
    def params(self) -> list[Tensor]:
        """All weights."""
        return list(self.model.parameters())

    @property
    def operator(self) -> HessianLinearOperator:
        """Curvlinops' Hessian."""
        loss = nn.CrossEntropyLoss()
        return HessianLinearOperator(self.model, loss, self.params, [self.batch], check_deterministic=False)

    @property
    def peer(self) -> PyHessian:
        """PyHessian's."""
        return PyHessian(self.model, nn.CrossEntropyLoss(), data=self.batch, cuda=self.batch[0].is_cuda)


def subject(kind: str, quick: bool, steps: int) -> Subject:
    """A network after a few steps on made-up images of overlapping kinds, so that it has a spectrum."""
    torch.manual_seed(0)
    if quick:
        name, network, shape, classes, size = "digits_cnn", digits_cnn, (1, 8, 8), 10, 32
    elif kind == "cuda":
        name, network, shape, classes, size = "ResNet-18", resnet18, (3, 32, 32), 100, 512
    else:
        name, network, shape, classes, size = "ResNet-20", resnet20, (3, 32, 32), 100, 64
    model = network(num_classes=classes, in_channels=shape[0], image_size=shape[1]).to(kind)
    centres = torch.randn(classes, *shape)

    def drawn() -> tuple[Tensor, Tensor]:
        labels = torch.randint(classes, (size,))
        return (centres[labels] + torch.randn(size, *shape)).to(kind), labels.to(kind)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        images, labels = drawn()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return Subject(name, model.eval(), drawn())


def products(bench: Bench, given: Subject) -> None:
    """A gradient, and one Hessian product each way."""
    weights, oracle = given.params, Objective(given.model, F.cross_entropy)(*given.batch)
    v = [torch.randn_like(p) for p in weights]
    flat, block = Curvature.flat(v), torch.randn(sum(map(Tensor.numel, v)), COUNT, device=v[0].device)
    reused, theirs, peer = hessian(oracle, weights), given.operator, given.peer
    with undisturbed(given.model):
        curvature = Curvature(given.model, F.cross_entropy, [given.batch])
        curvature.hvp(flat)
    ways: dict[str, Callable[[], Any]] = {
        "product from scratch": partial(hvp, oracle, weights, v),
        "product, graph reused": partial(reused, v),
        "curvature.hvp (flat, graph reused)": partial(curvature.hvp, flat),
        "PyHessian product (graph reused)": partial(hessian_vector_product, peer.gradsH, peer.params, v),
        "curvlinops H @ v": lambda: theirs @ flat,
    }
    several = {
        "5 products, one graph from scratch": lambda: [hessian(oracle, weights)(v)] + [reused(v) for _ in range(4)],
        "5 products at once, graph reused": at_once(given, COUNT),
        "curvlinops H @ V, 5 columns": lambda: theirs @ block,
    }
    compiled: dict[str, Callable[[], Any]] = {}
    if bench.compile:
        compiled["compiled gradient"], ways["product, compiled (torch.func)"] = in_one_piece(given, v)
    for name, way in ways.items():
        found = way()
        found = [found] if isinstance(found, Tensor) else list(found)
        agree(name, [Curvature.flat(found)], [Curvature.flat(hvp(oracle, weights, v))], 1e-4)
    facts = {"model": given.name, "batch": len(given.batch[1]), "weights": len(flat)}
    variants = [
        Variant("gradient", partial(oracle.gradient, weights, False), facts=facts),
        *(Variant(name, way, facts=facts) for name, way in (compiled | ways).items()),
        *(Variant(name, way, COUNT, facts=facts) for name, way in several.items()),
    ]
    seconds = bench.measure(f"Hessian products, {given.name}, fp32", variants, "product")
    bench.target("S7", "product from scratch / gradient", ratio(seconds, "product from scratch", "gradient"), 3.8, 3.3)
    bench.target("S7", "graph reused / gradient", ratio(seconds, "product, graph reused", "gradient"), 2.8, 2.4)
    if compiled:
        for name in ("product, graph reused", "product, compiled (torch.func)"):
            bench.target("G11", f"{name} / compiled gradient", ratio(seconds, name, "compiled gradient"), 3.0, 2.3)


def in_training(bench: Bench, given: Subject) -> None:
    """One product in train mode, channels last, as runs have it; ours and by torch's own layers."""
    model = given.model.train().to(memory_format=torch.channels_last)
    weights, labels = given.params, given.batch[1]
    images = given.batch[0].contiguous(memory_format=torch.channels_last)
    oracle = Objective(model, F.cross_entropy)(images, labels)
    v = [torch.randn_like(p) for p in weights]

    def twice() -> list[Tensor]:
        g = torch.autograd.grad(F.cross_entropy(model(images), labels), weights, create_graph=True)
        return list(torch.autograd.grad(g, weights, v))

    product = partial(hvp, oracle, weights, v)
    agree("torch.autograd.grad twice", [Curvature.flat(twice())], [Curvature.flat(product())], 1e-4)
    facts = {"model": given.name, "batch": len(labels), "mode": "train", "layout": "channels_last"}
    variants = [
        Variant("gradient", partial(oracle.gradient, weights, False), facts=facts),
        Variant("product from scratch", product, facts=facts),
        Variant("torch.autograd.grad twice", twice, facts=facts),
    ]
    bench.measure(f"Hessian products, {given.name}, fp32 channels_last, train mode", variants, "product")
    model.eval().to(memory_format=torch.contiguous_format)


def at_once(given: Subject, count: int) -> Callable[[], Any]:
    """So many products in one batched backward over a kept graph."""
    weights = given.params
    loss = F.cross_entropy(given.model(given.batch[0]), given.batch[1])
    g = torch.autograd.grad(loss, weights, create_graph=True)
    block = [torch.randn(count, *p.shape, device=p.device) for p in weights]
    return lambda: torch.autograd.grad(g, weights, block, retain_graph=True, is_grads_batched=True)


def in_one_piece(given: Subject, v: list[Tensor]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Gradient and Hessian product as functions of the weights, compiled; as a list in the order of the weights."""
    images, labels = given.batch
    names = [name for name, _ in given.model.named_parameters()]
    weights, buffers = [p.detach() for p in given.params], dict(given.model.named_buffers())

    def loss(w: list[Tensor]) -> Tensor:
        outputs = functional_call(given.model, (dict(zip(names, w, strict=True)), buffers), (images,))
        return F.cross_entropy(outputs, labels)

    gradient = torch.compile(lambda w: grad(loss)(w), dynamic=False)
    product = torch.compile(lambda w, v: jvp(grad(loss), (w,), (v,))[1], dynamic=False)
    return partial(gradient, weights), partial(product, weights, v)


def eigenvalues(bench: Bench, given: Subject) -> None:
    """Top five by absolute value: ours, PyHessian's, curvlinops with eigsh; and their error to a tight solution."""
    with undisturbed(given.model):
        reference = solved(given, 1e-6).values
    solvers = {"ours": ours, "PyHessian": pyhessian, "curvlinops, eigsh": curvlinops, "ours (again)": ours}
    used, errors = {}, {}
    for name, solver in solvers.items():
        began = time.process_time(), time.perf_counter()
        values, used[name] = solver(given)
        processor, wall = time.process_time() - began[0], time.perf_counter() - began[1]
        # as sets: power iteration returns them unsorted
        pairs = zip(sorted(map(abs, values)), sorted(map(abs, reference)), strict=True)
        errors[name] = max(abs(a - b) / b for a, b in pairs)
        figures = f"{used[name]} products, {processor:.3g} s of processor time, {wall:.3g} s, error {errors[name]:.1e}"
        bench.note(f"      top {COUNT} by absolute value at {TOLERANCE:g}, {name}: {figures}")
        bench.say(
            solver=name,
            products=used[name],
            processor_seconds=processor,
            wall_seconds=wall,
            largest_relative_error=errors[name],
        )
    fewer = used["ours"] / used["PyHessian"] if errors["ours"] <= errors["PyHessian"] else math.inf
    bench.target("S8", "products at no larger error, ours / PyHessian's", fewer, 0.7, 0.5, counted=True)


def solved(given: Subject, tolerance: float) -> Spectrum:
    """Our solver; inside of `undisturbed`."""
    curvature = Curvature(given.model, F.cross_entropy, [given.batch])
    generator = torch.Generator(curvature.device).manual_seed(0)
    random = partial(torch.randn, curvature.size, generator=generator, device=curvature.device)
    return top(curvature.hvp, random, COUNT, order="magnitude", tolerance=tolerance)


def ours(given: Subject) -> tuple[list[float], int]:
    """With its second search."""
    with undisturbed(given.model):
        found = solved(given, TOLERANCE)
    assert all(found.converged)
    assert found.searched
    return found.values, found.products


def pyhessian(given: Subject) -> tuple[list[float], int]:
    """Power iteration with deflation."""
    module: Any = sys.modules["pyhessian.hessian"]  # the package gives this name to the class
    calls, product = [0], module.hessian_vector_product

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        return product(*arguments)

    module.hessian_vector_product = counted
    torch.manual_seed(0)
    values, _ = given.peer.eigenvalues(top_n=COUNT)
    module.hessian_vector_product = product
    given.model.zero_grad()
    return values, calls[0]


def curvlinops(given: Subject) -> tuple[list[float], int]:
    """Its operator under scipy's solver."""
    operator, calls = given.operator.to_scipy(), [0]

    def product(v: Any) -> Any:
        calls[0] += 1
        return operator @ v

    counted = LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)
    values = eigsh(counted, k=COUNT, which="LM", tol=TOLERANCE, return_eigenvectors=False)
    return list(values), calls[0]


def peak_memory(bench: Bench, weights: int) -> None:
    """Of a gradient and of our solver, on a network without training."""
    grown = {}
    for kind in ("gradient", "lanczos"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            grown[kind], used = pool.apply(growth, (kind, bench.quick))
    formula = (used + COUNT + 4) * weights * 4 / 1024
    bench.note(
        f"      peak memory: gradient {grown['gradient']} kB, Lanczos {grown['lanczos']} kB with {used} products, "
        f"of which vectors by the formula at most {formula:.0f} kB; the rest is the graph of a product"
    )
    bench.say(peak_memory_kb=grown, products=used, vectors_kb=formula)


def growth(kind: str, quick: bool) -> tuple[int, int]:
    """Growth of the resident set in kB by one call in this process, and the products that were used."""
    torch.set_num_threads(1)
    given, used = subject("cpu", quick, steps=0), 0
    before = high_water()
    if kind == "gradient":
        Objective(given.model, F.cross_entropy)(*given.batch).gradient(given.params, False)
    else:
        with undisturbed(given.model):
            used = solved(given, TOLERANCE).products
    return high_water() - before, used


def high_water() -> int:
    """Highest resident set so far in kB; what getrusage says would include the parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def main() -> None:
    bench = Bench("bench_hessian", __doc__)
    warnings.simplefilter("ignore")  # the peers', about torch.jit and create_graph
    given = subject(bench.device.type, bench.quick, steps=20)
    products(bench, given)
    in_training(bench, given)
    eigenvalues(bench, given)
    if bench.device.type == "cpu":
        peak_memory(bench, sum(p.numel() for p in given.params))
    bench.close()


if __name__ == "__main__":
    main()
