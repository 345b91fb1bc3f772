"""Wide ResNets against a reference that is written without modules."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_repro import architecture
from sam_repro.architecture.wide_resnet import PooledShortcut, WideResNet


def activate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch normalisation with the batch's own statistics, then ReLU."""
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    x = (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
    return x.clamp(min=0)


def pool(x: Tensor, stride: int, channels: int) -> Tensor:
    batch, old, height, width = x.shape
    means = x.reshape(batch, old, height // stride, stride, width // stride, stride).mean((3, 5))
    return torch.cat([means, means.new_zeros(batch, channels - old, *means.shape[2:])], 1)


def reference(weights: dict[str, Tensor], blocks: int, shortcut: str, x: Tensor) -> Tensor:
    take = iter(weights.values())
    x = F.conv2d(x, next(take), padding=1)
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            activated = activate(x, next(take), next(take))
            y = F.conv2d(activated, next(take), stride=stride, padding=1)
            y = activate(y, next(take), next(take))
            y = F.conv2d(y, next(take), padding=1)
            if block > 0:
                x = x + y
            elif shortcut == "conv":
                x = F.conv2d(activated, next(take), stride=stride) + y
            else:
                x = pool(activated if stage == 0 else x, stride, y.shape[1]) + y
    x = activate(x, next(take), next(take)).flatten(2).mean(2)
    logits = x @ next(take).T + next(take)
    assert next(take, None) is None
    return logits


@pytest.mark.parametrize("shortcut", ["conv", "pool"])
@pytest.mark.parametrize(("blocks", "widening"), [(1, 2), (2, 3)])
def test_equals_the_reference(shortcut: str, blocks: int, widening: int) -> None:
    torch.manual_seed(0)
    model = WideResNet(blocks, widening, shortcut, in_channels=3, num_classes=5).double()
    for weight in model.parameters():  # no two channels of a norm alike
        torch.nn.init.normal_(weight, 0.1, 0.3)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected = reference(dict(model.named_parameters()), blocks, shortcut, images)
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "layers", "width"),
    [("wrn16_4", 16, 256), ("wrn16_8", 16, 512), ("wrn28_10", 28, 640), ("wrn40_2", 40, 128)],
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


@pytest.mark.parametrize("name", ["wrn16_4", "wrn16_8", "wrn28_10", "wrn40_2"])
def test_wrong_shortcut_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^shortcut = none: must be one of conv, pool$"):
        getattr(architecture, name)(num_classes=10, in_channels=3, image_size=32, shortcut="none")


def test_network_that_does_not_widen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^widening = 1: must be an integer >= 2$"):
        WideResNet(1, 1, "conv", in_channels=3, num_classes=10)
