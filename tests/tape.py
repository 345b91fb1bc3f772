"""A step on tape: the operations of one step, written down and done again as a CUDA graph does them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from sam_repro.oracle import Objective
from sam_repro.training import graphs

HOST = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "lift_fresh")


class Recorder(TorchDispatchMode):
    """Writes down each operation, with the memory of its arguments and results: weights may lie elsewhere later."""

    def __init__(self, tape: list[Callable[[], Any]]) -> None:
        super().__init__()
        self.tape = tape

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        assert operation.overloadpacket.__name__ not in HOST, f"{operation} is not for a graph"
        results = operation(*arguments, **(keywords or {}))
        if not operation.is_view:
            kept = tree_map_only(Tensor, Tensor.detach, (arguments, keywords or {}, results))
            self.tape.append(partial(again, operation, *kept))
        return results


def again(operation: Any, arguments: Any, keywords: Any, results: Any) -> None:
    """Do an operation once more, into the memory of its first results."""
    new = operation(*arguments, **keywords)
    pairs = zip(results, new, strict=True) if isinstance(results, list | tuple) else [(results, new)]
    for place, value in pairs:
        if isinstance(place, Tensor) and not place._is_zerotensor() and value.data_ptr() != place.data_ptr():
            place.copy_(value.detach())


class Tape:
    """In the place of a CUDA graph. Recording does the step, which a capture does not: so the first replay rests."""

    made = 0

    def __init__(self, update: Callable[[], graphs.Numbers], objective: Objective, seedings: int, *_: Any) -> None:
        Tape.made += 1
        self.tape: list[Callable[[], Any]] = []
        self.seedings, self.turns, self.fresh, reseed = seedings, 0, True, objective.reseed

        def turn(noise: int, device: torch.device) -> None:
            self.turns += 1
            reseed(noise, device)
            self.tape.append(lambda: torch.default_generator.manual_seed(next(self.seeds)))

        with graphs.seeding(objective, by=turn), Recorder(self.tape):
            self.numbers = update()
        assert self.turns == seedings

    def replay(self, seeds: list[int]) -> graphs.Numbers:
        assert len(seeds) == self.seedings
        self.seeds = iter(seeds)
        if not self.fresh:
            with torch.no_grad():
                for entry in self.tape:
                    entry()
        self.fresh = False
        return self.numbers
