"""A small training on which a rule is tried: network, batches, steps, and what is count_cost of them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from sam_repro.optimizer.groups import parameter_groups
from sam_repro.optimizer.rule import Rule
from sam_repro.optimizer.terms import Terms
from sam_repro.oracle import Objective, Oracle, products

Make = Callable[..., Rule]
BATCH = 8
STEPS = 7  # more than the longest period of a shipped option
WARM = 2  # steps before a clause looks, so that momentum and memory are filled


class Broken(AssertionError):
    """A clause that a rule does not keep; the message says what is wrong and what to change."""


def require(kept: bool, otherwise: str) -> None:
    """Raise `Broken` with a text unless a clause is kept."""
    if not kept:
        raise Broken(otherwise)


def network(dropout: float = 0.3, seed: int = 0) -> nn.Sequential:
    """A small network in float64 with batch norm and noise, a frozen layer, and a parameter that nothing depends on."""
    torch.manual_seed(seed)
    body = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Dropout(dropout)]
    model = nn.Sequential(*body, nn.Linear(48, 4), nn.Linear(4, 3)).double()
    model[5].requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    return model


def base_of(model: nn.Module) -> Optimizer:
    """SGD with momentum and decay on the groups of the network."""
    return torch.optim.SGD(parameter_groups(model, 1e-2), lr=0.1, momentum=0.9)


def oracle_of(objective: Objective, step: int, needs_rows: bool = False) -> Oracle:
    """The batch of a step, with noise that is a function of the step."""
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(BATCH, 1, 4, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (BATCH,), generator=generator)
    return objective(inputs, targets, noise=step, rows=torch.arange(BATCH) if needs_rows else None)


def train(rule: Rule, model: nn.Module, steps: range, m: int | None = None) -> list[Tensor]:
    """The losses of these steps."""
    objective = Objective(model, cross_entropy)
    return [rule.step(oracle_of(objective, step, rule.needs_rows), m=m) for step in steps]


def warm(make: Make, **settings: Any) -> tuple[Rule, nn.Sequential]:
    """A rule after some steps, and its network."""
    model = network()
    rule = make(base_of(model), **settings)
    train(rule, model, range(WARM))
    return rule, model


def state_of(model: nn.Module, rule: Rule) -> list[Tensor]:
    """Copies of weights, buffers and momentum."""
    slots = [x for state in rule.base.state.values() for x in state.values() if isinstance(x, Tensor)]
    return [x.detach().clone() for x in [*model.parameters(), *model.buffers(), *slots]]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether two lists of tensors are the same, bit by bit."""
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def copied(terms: Terms) -> Terms:
    """The terms with vectors of their own."""
    return {name: term._replace(vector=[x.clone() for x in term.vector]) for name, term in terms.items()}


def addresses_of(rule: Rule, model: nn.Module) -> list[int]:
    """Where weights, buffers, momentum and memory lie."""
    memory = [x for value in rule.memory.values() for x in (value if isinstance(value, list) else [value])]
    slots = [x for state in rule.base.state.values() for x in state.values() if isinstance(x, Tensor)]
    return [x.data_ptr() for x in [*model.parameters(), *model.buffers(), *slots, *memory]]


@contextmanager
def count_cost(model: nn.Module) -> Iterator[dict[str, float]]:
    """Inside the block: examples that go forward through the model, and products, in batches."""
    cost = {"passes": 0.0, "products": 0.0}
    seen: list[FrameType] = []

    def forward(_: nn.Module, inputs: tuple[Tensor]) -> None:
        product = _product_call()
        if product is None:
            cost["passes"] += len(inputs[0]) / BATCH
        elif product not in seen:  # one product may take several forwards
            seen.append(product)
            cost["products"] += len(inputs[0]) / BATCH

    hook = model.register_forward_pre_hook(forward)
    try:
        yield cost
    finally:
        hook.remove()


def _product_call() -> FrameType | None:
    """The call of `oracle.products` that is running, or None."""
    frame: FrameType | None = sys._getframe()
    found = None
    while frame is not None:
        if frame.f_globals.get("__name__") == products.__name__:
            found = frame
        frame = frame.f_back
    return found


class Read(Exception):
    """The host read a tensor."""


class HostRead(TorchDispatchMode):
    """Refuses the operations through which the host reads a tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal"):
            raise Read(str(func))
        return func(*args, **(kwargs or {}))
