"""What a model is called with: one tensor, several by position, or several by name."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def tensors(inputs: Inputs) -> list[Tensor]:
    """All tensors of the inputs.

    Raises:
        TypeError: if the inputs are something else.
    """
    if isinstance(inputs, Tensor):
        return [inputs]
    found = list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    if not found or not all(isinstance(x, Tensor) for x in found):
        kinds = ", ".join(sorted({type(x).__name__ for x in found})) or "nothing"
        raise TypeError(
            f"inputs: must be a tensor, a sequence of tensors (arguments by position) or a mapping of tensors "
            f"(arguments by name); a {type(inputs).__name__} of {kinds} came"
        )
    return found


def arguments(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """What a model is called with, by position and by name."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs), {}


def pieces(inputs: Inputs, m: int) -> list[Inputs]:
    """The inputs of `m` examples after the other."""
    if isinstance(inputs, Tensor):
        return list(inputs.split(m))
    split = zip(*(x.split(m) for x in tensors(inputs)), strict=True)
    return [dict(zip(inputs, piece, strict=True)) for piece in split] if isinstance(inputs, Mapping) else list(split)


def mapped(inputs: Inputs, convert: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs with each tensor converted."""
    if isinstance(inputs, Tensor):
        return convert(inputs)
    if isinstance(inputs, Mapping):
        return {name: convert(x) for name, x in inputs.items()}
    return [convert(x) for x in inputs]
