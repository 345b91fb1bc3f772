"""Parameter groups for the base: which weights decay, and which belong to a normalisation."""

from typing import Any

from torch import Tensor, nn

from sam_repro import limits

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(model: nn.Module, weight_decay: float, on: str = "all") -> list[dict[str, Any]]:
    """Groups of a model's parameters that require a gradient, each with its `weight_decay` and the flag `norm`.

    Args:
        model: the network.
        weight_decay: the coefficient of w in the gradient.
        on: "all", or "no_norm_no_bias": scale and shift of normalisations and all biases do not decay.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """
    limits.weight_decay("weight_decay", weight_decay)
    limits.weight_decay_on("weight_decay_on", on)
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for parameter, norm, bias in _kinds(model):
        decays = on == "all" or not (norm or bias)
        groups.setdefault((norm, decays), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "norm": norm}
        for (norm, decays), parameters in groups.items()
    ]


def _kinds(model: nn.Module) -> list[tuple[Tensor, bool, bool]]:
    """(parameter, of a normalisation?, a bias?) for each parameter, tied ones once."""
    seen: dict[Tensor, tuple[bool, bool]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                seen.setdefault(parameter, (isinstance(module, _NORMS), "bias" in name))
    return [(parameter, norm, bias) for parameter, (norm, bias) in seen.items()]
