"""Parameter groups for the base: which weights decay, which belong to a normalisation, which learn faster or slower."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from sam_repro import limits

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(
    model: nn.Module, weight_decay: float, on: str = "all", lr_factors: Sequence[tuple[str, float]] = ()
) -> list[dict[str, Any]]:
    """Groups of the parameters that require a gradient, each with `weight_decay`, `lr_factor` and the flag `norm`.

    Args:
        model: the network.
        weight_decay: the coefficient of w in the gradient.
        on: "all", or "no_norm_no_bias": scale and shift of normalisations and all biases do not decay, nor does what
            `no_weight_decay()` of the network names, which timm's transformers have.
        lr_factors: pairs of a pattern of parameters' names and of what their learning rate is multiplied by; of
            several that fit a name the last one counts. Default: none.

    Raises:
        ValueError: if an argument is outside of what is said here, or no name has one of the patterns.
    """
    limits.weight_decay("weight_decay", weight_decay)
    limits.weight_decay_on("weight_decay_on", on)
    kinds = _kinds(model, lr_factors)
    groups: dict[tuple[bool, bool, float], list[Tensor]] = {}
    for kind in kinds:
        decays = on == "all" or not kind.spared
        groups.setdefault((kind.norm, decays, kind.lr_factor), []).append(kind.parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "norm": norm, "lr_factor": lr_factor}
        for (norm, decays, lr_factor), parameters in groups.items()
    ]


class _Kind(NamedTuple):
    parameter: Tensor
    norm: bool  # of a normalisation
    spared: bool  # from decay, where on is no_norm_no_bias
    lr_factor: float


def _kinds(model: nn.Module, lr_factors: Sequence[tuple[str, float]]) -> list[_Kind]:
    """What each parameter is, tied ones once."""
    listed: Callable[[], set[str]] = getattr(model, "no_weight_decay", set)
    spared, factor_of = listed(), _factors(model, lr_factors)
    seen: dict[Tensor, _Kind] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                full, norm = f"{prefix}.{name}".lstrip("."), isinstance(module, _NORMS)
                kind = _Kind(parameter, norm, norm or "bias" in name or full in spared, factor_of.get(full, 1.0))
                seen.setdefault(parameter, kind)
    return list(seen.values())


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
