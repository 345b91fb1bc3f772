"""ResNets against torchvision's, and the shortcuts of the CIFAR form by hand."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from sam_repro import architecture
from sam_repro.architecture.resnet import SubsampledShortcut


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """By order: both register the same parts in the same order, under other names."""
    state = target.state_dict()
    assert len(state) == len(source.state_dict())
    target.load_state_dict(dict(zip(state, source.state_dict().values(), strict=True)))


def assert_same_function(model: nn.Module, reference: nn.Module, images: torch.Tensor) -> None:
    """Logits, gradients of the images and running statistics, in training mode; logits in evaluation mode."""
    copy_weights(reference, model)
    results = []
    for network in (model.double(), reference.double()):
        x = images.clone().requires_grad_()
        logits = network.train()(x)
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
        results.append([logits, gradient, *network.buffers(), network.eval()(x)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize(("stem", "image_size"), [("imagenet", 37), ("cifar", 9)])
def test_equals_torchvision(name: str, stem: str, image_size: int) -> None:
    torch.manual_seed(0)
    model = getattr(architecture, name)(num_classes=7, in_channels=3, image_size=image_size, stem=stem)
    reference = getattr(torchvision.models, name)(num_classes=7)
    if stem == "cifar":
        reference.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        reference.maxpool = nn.Identity()
    assert_same_function(model, reference, torch.randn(2, 3, image_size, image_size, dtype=torch.float64))


@pytest.mark.parametrize(("image_size", "kernel_size"), [(63, 3), (64, 7)])
def test_stem_auto_is_cifar_below_64_pixels(image_size: int, kernel_size: int) -> None:
    model = architecture.resnet18(num_classes=2, in_channels=1, image_size=image_size)
    assert model.stem.conv.kernel_size == (kernel_size, kernel_size)
    assert any(isinstance(module, nn.MaxPool2d) for module in model.modules()) == (kernel_size == 7)


class ShortcutByHand(nn.Module):
    """Half the pixels, twice the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        result = x.new_zeros(batch, 2 * channels, (height + 1) // 2, (width + 1) // 2)
        for row in range(0, height, 2):
            for column in range(0, width, 2):
                result[:, :channels, row // 2, column // 2] = x[:, :, row, column]
        return result


@pytest.mark.parametrize("image_size", [1, 2, 7, 8])
def test_subsampled_shortcut(image_size: int) -> None:
    x = torch.randn(2, 3, image_size, image_size)
    assert torch.equal(SubsampledShortcut(3, 6, 2)(x), ShortcutByHand()(x))


def cifar_form_of_torchvision_blocks(blocks: int) -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [BasicBlock(16, 16) for _ in range(blocks)]
    for channels in (16, 32):
        layers += [BasicBlock(channels, 2 * channels, 2, ShortcutByHand())]
        layers += [BasicBlock(2 * channels, 2 * channels) for _ in range(blocks - 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 7))


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 1), ("resnet20", 3), ("resnet32", 5), ("resnet56", 9)])
def test_cifar_form_equals_a_chain_of_torchvision_blocks(name: str, blocks: int) -> None:
    torch.manual_seed(0)
    model = getattr(architecture, name)(num_classes=7, in_channels=3, image_size=10)
    images = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    assert_same_function(model, cifar_form_of_torchvision_blocks(blocks), images)


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet32", "resnet56"])
def test_cifar_form_has_as_many_layers_as_its_name_says(name: str) -> None:
    model = getattr(architecture, name)(num_classes=10, in_channels=3, image_size=32)
    weights = [weight for weight in model.parameters() if weight.ndim > 1]
    assert len(weights) == int(name.removeprefix("resnet"))


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 8), ("resnet50", 16)])
def test_zero_gamma_starts_each_block_as_its_shortcut(name: str, blocks: int) -> None:
    make = getattr(architecture, name)
    model = make(num_classes=7, in_channels=3, image_size=32, zero_gamma=True)
    zero = [
        name for name, weight in model.named_parameters() if "norm" in name and "weight" in name if not weight.any()
    ]
    assert len(zero) == blocks
    for stage in model.stages:
        channels = next(stage[0].parameters()).shape[1]
        x = torch.randn(2, channels, 4, 4)
        for block in stage:
            y = block(x)
            torch.testing.assert_close(y, block.shortcut(x).relu())
            x = y


def test_a_chain_without_shortcuts_is_li_et_als() -> None:
    torch.manual_seed(0)
    model = architecture.resnet20(num_classes=7, in_channels=3, image_size=10, shortcut="none")
    layers, channels = [], 3
    for width, stride in [(16, 1)] * 7 + [(32, 2)] + [(32, 1)] * 5 + [(64, 2)] + [(64, 1)] * 5:
        layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    reference = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 7))
    assert_same_function(model, reference, torch.randn(2, 3, 10, 10, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortcut": "conv"}, r"^shortcut = conv: must be one of pad, none$"),
        ({"initialisation": "xavier"}, r"^initialisation = xavier: "),
    ],
)
def test_wrong_arguments_of_the_cifar_form_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        architecture.resnet8(num_classes=10, in_channels=3, image_size=32, **options)


def test_wrong_zero_gamma_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^zero_gamma = 1: must be true or false$"):
        architecture.resnet18(num_classes=10, in_channels=3, image_size=32, zero_gamma=1)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_wrong_stem_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^stem = deep: must be one of auto, cifar, imagenet$"):
        getattr(architecture, name)(num_classes=10, in_channels=3, image_size=32, stem="deep")
