"""Where the weights start: the rules in which the papers and their code differ.

The variance of a convolution's weight counts the inputs of an output (fan-in = k² · in_channels) or the outputs of an
input (fan-out = k² · out_channels). Batch normalisation starts at scale 1 and shift 0 unless a rule says otherwise.
"""

from torch import nn

from sam_repro import limits

KEPT_BY_CUT = 0.8796256610342398
"""The deviation of a standard normal number that is cut at −2 and 2."""


def initialise(model: nn.Module, initialisation: str) -> nn.Module:
    """Draw the weights of a model from torch's global generator.

    Args:
        model: convolutions without bias, batch normalisation and linear layers, as constructed; changed in place.
        initialisation: `torch`, `he_fan_in`, `he_fan_out`, `he_fan_in_uniform_norm` or `lecun`.

    Returns:
        The model.

    Raises:
        ValueError: another `initialisation`.
    """
    check_initialisation(initialisation)
    return model.apply(_RULES[initialisation])


def check_initialisation(initialisation: str) -> None:
    """Refuse what is no rule; a large network need not be made first."""
    limits.choice("initialisation", initialisation, tuple(_RULES))


def _torch(module: nn.Module) -> None:
    """All weights and biases uniform in ±1/√fan-in, which PyTorch's constructors drew (Luong 2024: ResNets)."""


def _he_fan_in(module: nn.Module) -> None:
    """All weights N(0, 2/fan-in), bias 0 (He et al. 2015, eq. 10, to which He et al. 2016 refer)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _he_fan_out(module: nn.Module) -> None:
    """Convolutions N(0, 2/fan-out), linear weight uniform in ±1/√classes, bias 0 (Foret et al. 2021, JAX code: WRN)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Linear):
        bound = module.out_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)


def _he_fan_in_uniform_norm(module: nn.Module) -> None:
    """Convolutions N(0, 2/fan-in), scales of batch normalisation U(0, 1), linear bias 0 (Luong 2024: WRN)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    if isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _lecun(module: nn.Module) -> None:
    """All weights normal of variance 1/fan-in, cut at two deviations, bias 0 (Foret et al. 2021, code: ImageNet)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        deviation = module.weight[0].numel() ** -0.5 / KEPT_BY_CUT
        nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


_RULES = {
    "torch": _torch,
    "he_fan_in": _he_fan_in,
    "he_fan_out": _he_fan_out,
    "he_fan_in_uniform_norm": _he_fan_in_uniform_norm,
    "lecun": _lecun,
}
