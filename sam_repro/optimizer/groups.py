"""Parameter groups for the base: which weights decay, which belong to a normalisation, which learn faster or slower."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from sam_repro import limits

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class _Kind(NamedTuple):
    norm: bool
    bias: bool
    spared: bool  # the network itself wants no decay of it


def parameter_groups(
    model: nn.Module, weight_decay: float, on: str = "all", lr_factors: Sequence[tuple[str, float]] = ()
) -> list[dict[str, Any]]:
    """Groups of a model's parameters that require a gradient.

    Each has `weight_decay`, `lr_factor`, `param_names` and the flag `norm`.
    A normalisation is one of torch's, or a module with "norm" in the name of its class, such as timm's `RmsNorm`, of
    whose parameters the vectors count.

    Args:
        model: the network.
        weight_decay: the coefficient of w in the gradient.
        on: "all", or "no_norm_no_bias": scale and shift of normalisations and all biases do not decay, nor do the
            parameters that `no_weight_decay()` of the network names, which timm's have.
        lr_factors: pairs of a pattern of parameters' names and of what their learning rate is multiplied by; of
            several that fit a name the last one counts. Default: none.

    Raises:
        ValueError: if an argument is outside of what is said here, or no name has one of the patterns.
    """
    limits.weight_decay("weight_decay", weight_decay)
    limits.weight_decay_on("weight_decay_on", on)
    factors = _factors(model, lr_factors)
    groups: dict[tuple[bool, bool, float], dict[str, Tensor]] = {}
    for name, parameter, kind in _kinds(model):
        decays = on == "all" or not any(kind)
        groups.setdefault((kind.norm, decays, factors.get(name, 1.0)), {})[name] = parameter
    return [
        {
            "params": list(named.values()),
            "param_names": list(named),
            "weight_decay": weight_decay if decays else 0.0,
            "norm": norm,
            "lr_factor": lr_factor,
        }
        for (norm, decays, lr_factor), named in groups.items()
    ]


def _kinds(model: nn.Module) -> list[tuple[str, Tensor, _Kind]]:
    """Name, parameter and what it is, for each that requires a gradient; tied ones once."""
    seen: dict[Tensor, tuple[str, _Kind]] = {}
    spared = set(_spared(model))
    for path, module in model.named_modules():
        for last, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                name = f"{path}.{last}".lstrip(".")
                kind = _Kind(_is_norm(module, parameter), "bias" in last, name in spared)
                seen.setdefault(parameter, (name, kind))
    return [(name, parameter, kind) for parameter, (name, kind) in seen.items()]


def _is_norm(module: nn.Module, parameter: Tensor) -> bool:
    named = "norm" in type(module).__name__.lower() and parameter.ndim <= 1
    return isinstance(module, _NORMS) or named


def _spared(model: nn.Module) -> Iterator[str]:
    """Names of the parameters that the network, or a module in it, spares from decay."""
    for path, module in model.named_modules():
        if callable(listed := getattr(module, "no_weight_decay", None)):
            yield from (f"{path}.{name}".lstrip(".") for name in listed())


def _factors(model: nn.Module, lr_factors: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The factor of each parameter that has one, by name."""
    found: dict[str, float] = {}
    names = [name for name, _ in model.named_parameters()]
    for index, pair in enumerate(lr_factors):
        place = f"lr_factors[{index}]"
        if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError(
                f"{place} = {limits.shown(pair)}: must be a pattern and a factor, such as [classifier, 10]"
            )
        pattern, factor = pair
        limits.pattern(place, pattern)
        limits.number(place, factor, above=0)
        fitting = [name for name in names if re.search(pattern, name)]
        if not fitting:
            raise ValueError(f"{place} = {limits.shown(pattern)}: has the name of no parameter; there is {names[0]}")
        found |= dict.fromkeys(fitting, float(factor))
    return found
