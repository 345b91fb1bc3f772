"""What a rule keeps from step to step: vectors that follow the parameters, and state that nobody would save."""

import contextlib
import io
import pickle
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_repro.vectors import Vector

Memory = dict[str, Any]
"""By name a tensor, or a vector: one tensor for each parameter of the rule."""
BY_IDENTITY = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, Optimizer)
"""What has no state of its own that a rule could change, or a state that others save."""


def layout(params: Iterable[Tensor]) -> list[tuple[Any, ...]]:
    """Which parameters these are, and how each lies in memory: equal as long as a vector made for them fits."""
    return [(id(p), p.shape, p.stride(), p.dtype, p.device) for p in params]


def followed(vector: Vector, before: list[Tensor], now: list[Tensor]) -> Vector:
    """A vector that was made for the parameters `before`, for those of `now`: zeros for the new ones."""
    old = dict(zip(map(id, before), vector, strict=True))
    return [_placed(old.get(id(p)), p) for p in now]


def tensors_of(memory: Memory) -> Iterator[Tensor]:
    """All tensors of a rule's memory."""
    for value in memory.values():
        yield from value if isinstance(value, list) else [value]


def shapes_of(memory: Any) -> Any:
    """Names and shapes, for a comparison; None where this is no memory."""
    if not isinstance(memory, dict):
        return None
    return {
        name: [tuple(x.shape) for x in value] if isinstance(value, list) else tuple(value.shape)
        for name, value in memory.items()
    }


def grow(memory: Memory, like: Any) -> None:
    """Give tensors that are still empty, because the first step tells their shape, the shapes of a saved memory."""
    for name, value in memory.items():
        if isinstance(value, Tensor) and not value.numel() and isinstance(like, dict) and name in like:
            memory[name] = torch.empty_like(like[name], device=value.device)


class Watch:
    """Remembers what the attributes of an object hold, and says later which of them have changed.

    A tensor has changed if it is another one or was written in place; all else if its pickle has. What cannot be
    pickled is compared by identity.

    Args:
        attributes: by name.
        declared: tensors that may change, because somebody saves them.

    Memory: a copy of each tensor that is not declared.
    """

    def __init__(self, attributes: Mapping[str, Any], declared: Iterable[Tensor]) -> None:
        self._before = _fingerprints(attributes, declared)

    def changed(self, attributes: Mapping[str, Any], declared: Iterable[Tensor]) -> list[str]:
        """Names of the attributes that appeared, went, were bound anew, or hold something that was written."""
        before, now = self._before, _fingerprints(attributes, declared)
        return [name for name in {**before, **now} if name not in before or not before[name].equals(now.get(name))]


@dataclass(frozen=True)
class _Fingerprint:
    written: bytes
    held: list[Any]  # so that no address is given to another object
    copies: list[Tensor]

    def equals(self, other: "_Fingerprint | None") -> bool:
        if other is None or self.written != other.written:
            return False
        return all(torch.equal(_bits(a), _bits(b)) for a, b in zip(self.copies, other.copies, strict=True))


def _fingerprints(attributes: Mapping[str, Any], declared: Iterable[Tensor]) -> dict[str, _Fingerprint]:
    known = set(map(id, declared))
    return {name: _fingerprint(value, known) for name, value in attributes.items()}


def _fingerprint(value: Any, known: set[int]) -> _Fingerprint:
    file = io.BytesIO()
    pickler = _Pickler(file, known)
    with contextlib.suppress(Exception):
        pickler.dump(value)
        return _Fingerprint(file.getvalue(), pickler.held, pickler.copies)
    return _Fingerprint(str(id(value)).encode(), [value], [])


class _Pickler(pickle.Pickler):
    """Writes tensors as their identity and version, and what has no state of its own as its identity."""

    def __init__(self, file: io.BytesIO, known: set[int]) -> None:
        super().__init__(file, protocol=4)
        self.known = known
        self.held: list[Any] = []
        self.copies: list[Tensor] = []

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.Generator):
            return value.get_state().numpy().tobytes()
        if isinstance(value, Tensor):
            self.held.append(value)
            if id(value) in self.known:
                return id(value)
            self.copies.append(value.detach().clone())  # a write through .data leaves the version as it was
            return id(value), value._version
        if isinstance(value, BY_IDENTITY) or self._is_trained(value):
            self.held.append(value)
            return id(value)
        return None

    def _is_trained(self, value: Any) -> bool:
        """Whether it is of the network that the base trains, which is saved with it."""
        return isinstance(value, nn.Module) and any(id(p) in self.known for p in value.parameters())


def _placed(x: Tensor | None, p: Tensor) -> Tensor:
    if x is None or x.shape != p.shape:
        return torch.zeros_like(p, requires_grad=False)
    same = (x.stride(), x.dtype, x.device) == (p.stride(), p.dtype, p.device)
    return x if same else torch.empty_like(p, requires_grad=False).copy_(x)


def _bits(x: Tensor) -> Tensor:
    """The bytes of a tensor: NaN equals itself."""
    return x.contiguous().flatten().view(torch.uint8)
