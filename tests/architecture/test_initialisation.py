"""The distribution that each rule draws from, and that it draws from the seed alone."""

import math

import pytest
import torch
from torch import Tensor, nn

from sam_repro import architecture
from sam_repro.architecture.initialisation import initialise
from sam_repro.architecture.layers import conv_norm_relu

RULES = ["torch", "he_fan_in", "he_fan_out", "he_fan_in_uniform_norm", "lecun"]
FAN_IN, FAN_OUT = 9 * 32, 9 * 1024


def drawn(rule: str) -> nn.Sequential:
    """Convolution 32 -> 1024 of 3x3, norm, linear 1024 -> 50."""
    torch.manual_seed(0)
    return initialise(nn.Sequential(conv_norm_relu(32, 1024, 3), nn.Linear(1024, 50)), rule)


def assert_uniform(sample: Tensor, low: float, high: float) -> None:
    assert low <= sample.min()
    assert sample.max() <= high
    assert_quantiles(sample, torch.distributions.Uniform(low, high))


def assert_normal(sample: Tensor, variance: float) -> None:
    assert_quantiles(sample, torch.distributions.Normal(0.0, math.sqrt(variance)))


def assert_quantiles(sample: Tensor, distribution: torch.distributions.Distribution) -> None:
    """Kolmogorov's distance, whose 99.9 % point is 1.95 / √n."""
    ranks = distribution.cdf(sample.detach().flatten().sort().values)
    n = ranks.numel()
    distance = (ranks - (torch.arange(n) + 0.5) / n).abs().max() + 0.5 / n
    assert distance < 1.95 / math.sqrt(n)


@pytest.mark.parametrize("rule", ["he_fan_in", "he_fan_in_uniform_norm"])
def test_convolutions_of_he_fan_in(rule: str) -> None:
    assert_normal(drawn(rule)[0].conv.weight, 2 / FAN_IN)


def test_convolutions_of_he_fan_out() -> None:
    assert_normal(drawn("he_fan_out")[0].conv.weight, 2 / FAN_OUT)


def test_lecun_is_normal_of_variance_one_over_fan_in_and_cut_at_two_deviations() -> None:
    conv, linear = drawn("lecun")[0].conv.weight, drawn("lecun")[1]
    for weight, fan_in in ((conv, FAN_IN), (linear.weight, 1024)):
        assert weight.detach().var().item() == pytest.approx(1 / fan_in, rel=0.02)
        normal = torch.distributions.Normal(0.0, 1.0)
        below, inside = normal.cdf(torch.tensor(-2.0)), normal.cdf(torch.tensor(2.0)) - normal.cdf(torch.tensor(-2.0))
        scaled = (weight / weight.abs().max() * 2).detach().flatten().sort().values  # its largest lies at the cut
        ranks, n = (normal.cdf(scaled) - below) / inside, scaled.numel()
        assert (ranks - (torch.arange(n) + 0.5) / n).abs().max() < 1.95 / math.sqrt(n)
    assert linear.bias.eq(0).all()


def test_torch_is_what_the_constructors_draw() -> None:
    conv, _, _, linear = *drawn("torch")[0], drawn("torch")[1]
    assert_uniform(conv.weight, -(FAN_IN**-0.5), FAN_IN**-0.5)
    assert_uniform(linear.weight, -(1024**-0.5), 1024**-0.5)
    assert_uniform(linear.bias, -(1024**-0.5), 1024**-0.5)
    torch.manual_seed(0)
    assert torch.equal(conv.weight, nn.Conv2d(32, 1024, 3, bias=False).weight)


def test_linear_layer() -> None:
    assert_normal(drawn("he_fan_in")[1].weight, 2 / 1024)
    assert_uniform(drawn("he_fan_out")[1].weight, -(50**-0.5), 50**-0.5)
    assert_uniform(drawn("he_fan_in_uniform_norm")[1].weight, -(1024**-0.5), 1024**-0.5)


@pytest.mark.parametrize("rule", RULES)
def test_norm(rule: str) -> None:
    norm = drawn(rule)[0].norm
    assert not norm.bias.any()
    if rule == "he_fan_in_uniform_norm":
        assert_uniform(norm.weight, 0, 1)
    else:
        assert torch.equal(norm.weight, torch.ones(1024))


@pytest.mark.parametrize("rule", RULES)
def test_linear_bias_is_zero_but_for_torch(rule: str) -> None:
    assert bool(drawn(rule)[1].bias.any()) == (rule == "torch")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["digits_cnn", "resnet8", "wrn16_4"])
def test_weights_are_a_function_of_seed_and_rule(name: str, rule: str) -> None:
    def weights(seed: int, initialisation: str) -> Tensor:
        torch.manual_seed(seed)
        model = getattr(architecture, name)(num_classes=10, in_channels=1, image_size=8, initialisation=initialisation)
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(weights(0, rule), weights(0, rule))
    assert not torch.equal(weights(0, rule), weights(1, rule))
    assert not torch.equal(weights(0, rule), weights(0, RULES[RULES.index(rule) - 1]))


def test_wrong_initialisation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^initialisation = xavier: must be one of torch, he_fan_in, he_fan_out, "):
        drawn("xavier")
