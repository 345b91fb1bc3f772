"""Wide ResNets against a reference that is written without modules."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from plain import normalised, pooled
from torch import Tensor, nn

from sam_repro import architecture
from sam_repro.architecture.layers import PooledShortcut
from sam_repro.architecture.wide_resnet import Form, WideResNet


def reference(weights: dict[str, Tensor], blocks: int, form: Form, x: Tensor, slope: float) -> Tensor:
    take = iter(weights.values())

    def activate(x: Tensor) -> Tensor:
        if form.norm == "batch":
            x = normalised(x, next(take), next(take))
        return torch.where(x > 0, x, slope * x)

    x = F.conv2d(x, next(take), padding=1)
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            activated = activate(x)
            y = F.conv2d(activated, next(take), stride=stride, padding=1)
            y = F.conv2d(activate(y), next(take), padding=1)
            if block > 0:
                x = x + y
            elif form.shortcut == "conv":
                x = F.conv2d(activated, next(take), stride=stride) + y
            else:
                x = pooled(activated if stage == 0 else x, stride, y.shape[1]) + y
    x = activate(x).flatten(2).mean(2)
    logits = x @ next(take).T + next(take)
    assert next(take, None) is None
    return logits


@pytest.mark.parametrize("form", [Form("conv"), Form("pool"), Form("pool", norm="none"), Form("conv", norm="none")])
@pytest.mark.parametrize(("blocks", "widening"), [(1, 2), (2, 3)])
def test_equals_the_reference(form: Form, blocks: int, widening: int) -> None:
    assert_equals_reference(form, blocks, widening, 0.0)


def test_leaky_form_equals_the_reference() -> None:
    assert_equals_reference(Form("pool", stem=8, activation=partial(nn.LeakyReLU, 0.1)), 2, 2, 0.1)


def assert_equals_reference(form: Form, blocks: int, widening: int, slope: float) -> None:
    torch.manual_seed(0)
    model = WideResNet(blocks, widening, form, in_channels=3, num_classes=5).double()
    for weight in model.parameters():  # no two channels of a norm alike
        torch.nn.init.normal_(weight, 0.1, 0.3 if form.norm == "batch" else 0.1)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected = reference(dict(model.named_parameters()), blocks, form, images, slope)
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "layers", "width"),
    [("wrn16_4", 16, 256), ("wrn16_8", 16, 512), ("wrn28_10", 28, 640), ("wrn40_2", 40, 128), ("wrn40_10", 40, 640)],
)
def test_depth_and_width_are_those_of_the_name(name: str, layers: int, width: int) -> None:
    with torch.device("meta"):
        model = getattr(architecture, name)(num_classes=10, in_channels=3, image_size=32, shortcut="pool")
    weights = [weight for weight in model.parameters() if weight.ndim > 1]
    # The paper counts the shortcuts of the three stages where they are convolutions; here they are pooled.
    assert len(weights) == layers - 2
    assert model.classifier.in_features == width


def test_pooled_shortcut_averages_what_an_odd_border_has() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    expected = torch.tensor([[[[2.0, 3.5], [6.5, 8.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert torch.equal(PooledShortcut(2, 2)(x), expected)


@pytest.mark.parametrize("name", ["wrn16_4", "wrn16_8", "wrn28_10", "wrn40_2", "wrn40_10", "resnet32_mentornet"])
def test_wrong_shortcut_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^shortcut = none: must be one of conv, pool$"):
        getattr(architecture, name)(num_classes=10, in_channels=3, image_size=32, shortcut="none")


def test_wrong_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^norm = layer: must be one of batch, none$"):
        architecture.wrn16_4(num_classes=10, in_channels=3, image_size=32, norm="layer")


def test_network_that_does_not_widen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^widening = 1: must be an integer >= 2 and <= 1000$"):
        WideResNet(1, 1, Form(), in_channels=3, num_classes=10)
