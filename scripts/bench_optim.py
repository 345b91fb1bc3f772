"""The optimizer's part of a SAM step alone: norm, perturbation, way back, base. Against the naive SAM and its peer.

    python scripts/bench_optim.py [--quick] [--gpu]

The gradients are given, so that no pass is in the figures; before the clock starts, the new weights are compared.
Beside the times the number of operations that each dispatches (C1, C2): it does not depend on the machine.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from bench import Bench, Variant, agree, ratio
from bench_step import DECAY, LR, MOMENTUM, RHO, SGD, NaiveSAM
from pytorch_optimizer import SAM as PeerSAM
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_repro import vectors
from sam_repro.architecture import resnet8, resnet18, resnet20, resnet56
from sam_repro.optimizer import SAM
from sam_repro.oracle import Objective, Oracle, Term
from sam_repro.vectors import Vector

Step = Callable[[], Any]


class Given(Oracle):
    """Answers with gradients that are there already, in turn."""

    def gradient(self, params: list[Tensor], update_statistics: bool = True) -> Term:
        """The first in pass 1, the second in pass 2."""
        first, second = self.inputs
        return Term(first if update_statistics else second, [True] * len(first), self.targets)


class Float32SAM(SAM):
    """Our rule with a norm in float32: what the accuracy of float64 costs."""

    def ascent(self, g: Vector, w: Vector) -> Vector:
        """ε."""
        return vectors.scaled(
            g, vectors.ratio(self.rho, torch.linalg.vector_norm(torch.stack(torch._foreach_norm(g, 2))))
        )


def ours(model: nn.Module, first: Vector, second: Vector, rule: type[SAM] = SAM) -> Step:
    """Our rule on the fused base."""
    made = rule(SGD(model.parameters(), fused=True), rho=RHO)
    objective = Objective(model, lambda *_: None)
    oracle = Given(objective, (first, second), torch.zeros(1), 0, 0, objective.buffers())
    return lambda: made.step(oracle)


def naive(model: nn.Module, first: Vector, second: Vector) -> Step:
    """Parameter by parameter."""
    optimizer = NaiveSAM(model)
    return lambda: _two_steps(optimizer, model, first, second)


def peer(model: nn.Module, first: Vector, second: Vector, foreach: bool | None = None) -> Step:
    """pytorch-optimizer's."""
    options: dict[str, Any] = {"foreach": True} if foreach else {"fused": True}
    optimizer = PeerSAM(
        model.parameters(), torch.optim.SGD, rho=RHO, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, **options
    )
    return lambda: _two_steps(optimizer, model, first, second)


def base(model: nn.Module, first: Vector, second: Vector, **kernel: bool) -> Step:
    """The base alone."""
    optimizer = SGD(model.parameters(), **kernel)
    _give(model, second)
    return optimizer.step


def _two_steps(optimizer: Any, model: nn.Module, first: Vector, second: Vector) -> None:
    _give(model, first)
    optimizer.first_step()
    _give(model, second)
    optimizer.second_step()


def _give(model: nn.Module, gradient: Vector) -> None:
    for p, g in zip(model.parameters(), gradient, strict=True):
        p.grad = g


class Count(TorchDispatchMode):
    """Operations that reach a kernel; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.operations += not operation.is_view and operation.namespace == "aten"
        return operation(*arguments, **(keywords or {}))


STEPS: dict[str, Callable[..., Step]] = {
    "naive SAM": naive,
    "pytorch-optimizer SAM": peer,
    "pytorch-optimizer SAM, foreach": lambda *given: peer(*given, foreach=True),
    "our SAM": ours,
    "our SAM, float32 norm": lambda *given: ours(*given, rule=Float32SAM),
    "SGD, a loop": lambda *given: base(*given, foreach=False),
    "SGD, foreach": lambda *given: base(*given, foreach=True),
    "SGD, fused": lambda *given: base(*given, fused=True),
}


def main() -> None:
    bench = Bench("bench_optim", __doc__)
    networks = {"ResNet-20": resnet20, "ResNet-56": resnet56, "ResNet-18": resnet18}
    for name, network in {"ResNet-8": resnet8}.items() if bench.quick else networks.items():
        torch.manual_seed(0)
        start = network(num_classes=100, in_channels=3, image_size=32).to(bench.device)
        given = [[1e-2 * torch.randn_like(p) for p in start.parameters()] for _ in range(2)]
        models = {step: copy.deepcopy(start) for step in STEPS}
        steps = {step: make(models[step], *given) for step, make in STEPS.items()}
        counts = {}
        for step, run in steps.items():
            run()
            with Count() as count:
                run()
            counts[step] = count.operations
        for step in ("pytorch-optimizer SAM", "pytorch-optimizer SAM, foreach", "our SAM"):
            agree(step, list(models[step].parameters()), list(models["naive SAM"].parameters()), 1e-6)
        tensors = len(given[0])
        variants = [
            Variant(step, run, facts={"model": name, "tensors": tensors, "operations": counts[step]})
            for step, run in steps.items()
        ]
        seconds = bench.measure(f"the optimizer's part, {name}, {tensors} tensors", variants, "step")
        bench.note(f"      {name}, operations: {', '.join(f'{step} {count}' for step, count in counts.items())}")
        bench.target("C1", f"{name}, operations beside the passes", counts["our SAM"], 20, 12, counted=True)
        for other in ("naive SAM", "pytorch-optimizer SAM"):
            bench.target("S4", f"{name}, our SAM / {other}", ratio(seconds, "our SAM", other), 0.55, 0.4)
            with_float32 = ratio(seconds, "our SAM, float32 norm", other)
            bench.note(f"      {name}, our SAM with a float32 norm / {other}: {with_float32:.3f}")
    bench.close()


if __name__ == "__main__":
    main()
