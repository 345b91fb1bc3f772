"""The buffers of a model: which of them a pass moves, and where it starts from."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm, _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

Mean = Callable[[list[Tensor]], list[Tensor]]
Place = tuple[nn.Module, str]


class Part(Protocol):
    """A part of a batch."""

    @property
    def share(self) -> float:
        """Its examples, as a part of all."""


P = TypeVar("P", bound=Part)

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
BY_FLAG = (_BatchNorm.forward, SyncBatchNorm.forward)
"""Forwards that move nothing while `track_running_stats` is false: their layers need no copies."""


class Buffers:
    """All buffers that a model has now: running statistics, the vectors of spectral norm, a module's own.

    All passes over a batch are of one function of the weights, that with the buffers of the step's start. A pass that
    must not move a buffer is given a copy of its start. torch's batch norm is told not to move: that costs no copy.

    Args:
        modules: all modules that a pass may run. They are looked up for each batch, because layers may be replaced.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
        self.norms: list[_NormBase] = []
        self._by_flag: list[_NormBase] = []
        self._places: dict[Place, bool] = {}  # of buffers that need copies → whether it is a running statistic
        self._start: dict[Place, Tensor] = {}
        for module in self.modules:
            names = {name for name, buffer in module._buffers.items() if buffer is not None}
            statistics = names.intersection(STATISTICS) if isinstance(module, _NormBase) else set()
            if isinstance(module, _NormBase) and statistics and module.momentum != 0:  # else they stand still anyway
                self.norms.append(module)
                if type(module).forward in BY_FLAG:
                    self._by_flag.append(module)
                    names -= statistics
            self._places |= {(module, name): name in statistics for name in sorted(names)}

    @property
    def values(self) -> list[Tensor]:
        """Running means and variances; looked up each time, because a model may be moved to another device."""
        buffers = (buffer for layer in self.norms for buffer in (layer.running_mean, layer.running_var))
        return [buffer for buffer in buffers if buffer is not None]

    @property
    def counters(self) -> list[Tensor]:
        """Steps seen by each layer with running statistics."""
        return [layer.num_batches_tracked for layer in self.norms if layer.num_batches_tracked is not None]

    def averaged(self, parts: Sequence[P], mean: Mean | None = None) -> Iterator[P]:
        """The parts of a batch, each from the running statistics of the start; after the last these are their mean.

        Args:
            parts: weighted by their `share`.
            mean: averages a list of tensors over ranks; nothing on one process.
        """
        start = [buffer.clone() for buffer in self.values + self.counters]
        total = [torch.zeros_like(value) for value in self.values]
        for part in parts:
            if start:
                torch._foreach_copy_(self.values + self.counters, start)
            yield part
            if total:
                torch._foreach_add_(total, self.values, alpha=part.share)
        if total:
            torch._foreach_copy_(self.values, mean(total) if mean else total)

    @contextmanager
    def held(self, statistics: bool = True, others: bool = True) -> Iterator[None]:
        """Inside the block a forward in train mode starts from the start and leaves these kinds of buffers alone.

        The pass that moves the `others` sets the start of all later ones; before it, each starts from what is there.
        Blocks may be nested.
        """
        start = self._start
        if not (start and others):
            self._start = _copied(_bound(self._places))
        # not by momentum 0: that still counts the step, and a second entry would save the 0
        told = self._by_flag if statistics else []
        before = [layer.track_running_stats for layer in told]
        with self._replaced(place for place, moves in self._places.items() if (statistics if moves else others)):
            for layer in told:
                layer.track_running_stats = False
            try:
                yield
            finally:
                for layer, track in zip(told, before, strict=True):
                    layer.track_running_stats = track
                if others:
                    self._start = start

    @contextmanager
    def apart(self) -> Iterator[Mapping[Place, Tensor]]:
        """Inside the block there are copies of all buffers, and these are the start; after it, what became of them."""
        names = ((module, name, buffer) for module in self.modules for name, buffer in module._buffers.items())
        now, start = {(module, name): buffer for module, name, buffer in names if buffer is not None}, self._start
        own = _copied(now)
        self._start = _copied({place: own[place] for place in self._places})
        _bind(own)
        try:
            yield own
        finally:
            own |= _bound(own)  # some layers bind a buffer anew
            _bind(now)
            self._start = start

    @torch.no_grad()
    def move(self, to: Mapping[Place, Tensor], statistics_only: bool) -> None:
        """Move the buffers, or their running statistics alone, to those of an `apart` block."""
        statistics = {(layer, name) for layer in self.norms for name in STATISTICS}
        moved = {place: value for place, value in to.items() if place in statistics or not statistics_only}
        if moved:
            torch._foreach_copy_(list(_bound(moved).values()), list(moved.values()))

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Inside the block, a backward, a forward that autograd repeats starts from the start and moves nothing.

        Checkpointed blocks do so. A layer that saw its statistics move must see them move again, or the repetition
        would save other tensors for the backward; so the first call of such a layer gives it a copy.
        """
        with ExitStack() as stack:
            waiting: set[nn.Module] = set(self._by_flag)

            def give_copy(layer: nn.Module, _: object) -> None:
                if layer in waiting:
                    waiting.remove(layer)
                    own = [(layer, name) for name in STATISTICS if layer._buffers[name] is not None]
                    stack.enter_context(self._replaced(own))

            stack.enter_context(self._replaced(self._places))
            stack.callback(register_module_forward_pre_hook(give_copy).remove)
            yield

    @contextmanager
    def _replaced(self, places: Iterable[Place]) -> Iterator[None]:
        """Inside the block there are copies of the start in these places, or, without a start, of what is there.

        The buffers themselves are not touched: to write them back would break graphs that have saved them.
        """
        now = _bound(places)
        _bind(_copied({place: self._start.get(place, buffer) for place, buffer in now.items()}))
        try:
            yield
        finally:
            _bind(now)


def modules_of(*roots: object) -> list[nn.Module]:
    """All modules below the roots that are modules, each once, in a quarter of the time of `Module.modules`."""
    found: dict[nn.Module, None] = {}
    waiting = [root for root in roots if isinstance(root, nn.Module)]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = None
            waiting += [child for child in module._modules.values() if child is not None]
    return list(found)


def _bound(places: Iterable[Place]) -> dict[Place, Tensor]:
    return {(module, name): module._buffers[name] for module, name in places}  # type: ignore[misc]


def _bind(buffers: Mapping[Place, Tensor]) -> None:
    for (module, name), buffer in buffers.items():
        module._buffers[name] = buffer


@torch.no_grad()
def _copied(buffers: Mapping[Place, Tensor]) -> dict[Place, Tensor]:
    """Copies; a buffer in two places stays one."""
    originals = {id(buffer): buffer for buffer in buffers.values()}
    copies = {key: torch.empty_like(buffer) for key, buffer in originals.items()}
    if copies:
        torch._foreach_copy_(list(copies.values()), list(originals.values()))
    return {place: copies[id(buffer)] for place, buffer in buffers.items()}
