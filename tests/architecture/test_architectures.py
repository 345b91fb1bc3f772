"""What all architectures promise: sizes, names, derivatives, layouts, limits, configuration."""

import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call

from sam_repro import architecture
from sam_repro.architecture.layers import conv_norm_relu
from sam_repro.architecture.pyramid import Pyramid, PyramidNet
from sam_repro.architecture.resnet import Bottleneck, ProjectedShortcut, ResNet
from sam_repro.architecture.shake_shake import ShakeShakeNet
from sam_repro.architecture.wide_resnet import Form, WideResNet

CONFIGS = Path(__file__).parents[2] / "configs" / "architecture"
OPTIONS = {path.stem: instantiate(OmegaConf.load(path)) for path in sorted(CONFIGS.glob("*.yaml"))}
TARGETS = {path.stem: OmegaConf.load(path)["_target_"].rpartition(".")[2] for path in CONFIGS.glob("*.yaml")}
ALL = [name for name, build in OPTIONS.items() if build.func is not architecture.timm_network]


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return OPTIONS[name](**{"num_classes": 10, "in_channels": 3, "image_size": 32} | options)


def count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


# Published or counted in other implementations: He's ResNet-32, weiaicunzai's and torchvision's ResNets, WRN-28-10,
# pytorchcv's Shake-Shake and PyramidNets; the pooled, the rounded and the truncated forms by the papers' code.
@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet32", {}, 464_154),
        ("resnet18", {"num_classes": 100}, 11_220_132),
        ("resnet34", {"num_classes": 100}, 21_328_292),
        ("resnet50", {"num_classes": 100}, 23_705_252),
        ("resnet18", {"num_classes": 1000, "image_size": 224}, 11_689_512),
        ("resnet34", {"num_classes": 1000, "image_size": 224}, 21_797_672),
        ("resnet50", {"num_classes": 1000, "image_size": 224}, 25_557_032),
        ("resnet101", {"num_classes": 1000, "image_size": 224}, 44_549_160),
        ("resnet152", {"num_classes": 1000, "image_size": 224}, 60_192_808),
        ("wrn28_10", {}, 36_479_194),
        ("wrn28_10", {"num_classes": 100}, 36_536_884),
        ("wrn28_10", {"shortcut": "pool"}, 36_220_634),
        ("wrn28_10", {"num_classes": 100, "shortcut": "pool"}, 36_278_324),
        ("wrn40_10", {}, 55_841_754),
        ("resnet32_mentornet", {}, 29_442_378),
        ("resnet56", {"shortcut": "none"}, 853_018),
        ("shake_shake_26_2x96d", {}, 26_192_922),
        ("shake_shake_26_2x96d", {"num_classes": 100}, 26_227_572),
        ("pyramidnet110", {}, 28_485_477),
        ("pyramidnet110", {"num_classes": 100}, 28_511_307),
        ("pyramidnet272", {}, 26_210_842),
        ("pyramidnet272", {"num_classes": 100}, 26_288_692),
        ("pyramidnet272", {"widths": "truncated"}, 26_046_428),
    ],
)
def test_parameter_counts_of_the_literature(name: str, options: dict[str, object], parameters: int) -> None:
    assert count(on_meta(name, **options)) == parameters


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 1), ("resnet20", 3), ("resnet32", 5), ("resnet56", 9)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_parameter_counts_of_the_cifar_form(name: str, blocks: int, in_channels: int) -> None:
    def pair(inner: int, outer: int) -> int:  # 3x3 convolution and norm, twice
        return 9 * inner * outer + 9 * outer * outer + 4 * outer

    stem, classifier = 9 * in_channels * 16 + 2 * 16, 64 * 10 + 10
    changing = pair(16, 16) + pair(16, 32) + pair(32, 64)
    others = (blocks - 1) * (pair(16, 16) + pair(32, 32) + pair(64, 64))
    assert count(on_meta(name, in_channels=in_channels)) == stem + changing + others + classifier


@pytest.mark.parametrize(("name", "blocks", "k"), [("wrn16_4", 2, 4), ("wrn16_8", 2, 8), ("wrn40_2", 6, 2)])
@pytest.mark.parametrize("shortcut", ["conv", "pool"])
def test_parameter_counts_of_wide_resnets(name: str, blocks: int, k: int, shortcut: str) -> None:
    def block(inner: int, outer: int) -> int:  # norm, 3x3 convolution, norm, 3x3 convolution
        return 2 * inner + 9 * inner * outer + 2 * outer + 9 * outer * outer

    widths = [16, 16 * k, 32 * k, 64 * k]
    expected = 9 * 3 * 16 + 2 * 64 * k + 64 * k * 10 + 10
    for inner, outer in pairwise(widths):
        expected += block(inner, outer) + (blocks - 1) * block(outer, outer)
        expected += inner * outer if shortcut == "conv" else 0
    assert count(on_meta(name, shortcut=shortcut)) == expected


TASKS = [(2, 33), (1, 8), (1, 28), (3, 32), (3, 64), (3, 1)]
DEEP = [name for name in ALL if name.startswith(("pyramidnet", "resnet1")) and name != "resnet18"]  # slow to build


@pytest.mark.parametrize(
    ("name", "in_channels", "image_size"),
    [(name, *task) for name in ALL for task in (TASKS[:1] if name in DEEP else TASKS)],
)
def test_logits_for_every_task(name: str, in_channels: int, image_size: int) -> None:
    model = on_meta(name, num_classes=5, in_channels=in_channels, image_size=image_size).eval()
    images = torch.empty(4, in_channels, image_size, image_size, device="meta")
    assert model(images).shape == (4, 5)


@pytest.mark.parametrize(("image_size", "channels"), [(32, 3), (28, 1), (9, 1)])
def test_pooled_wide_resnet_takes_every_size(image_size: int, channels: int) -> None:
    model = on_meta("wrn16_4", in_channels=channels, image_size=image_size, shortcut="pool")
    assert model(torch.empty(2, channels, image_size, image_size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes = 1: must be an integer >= 2"),
        ({"in_channels": 0}, "in_channels = 0: must be an integer >= 1"),
        ({"image_size": 0}, "image_size = 0: must be an integer >= 1"),
    ],
)
def test_wrong_arguments_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        on_meta(name, **options)


@pytest.mark.parametrize("name", [name for name in ALL if name not in DEEP])
def test_another_initialisation_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^initialisation = xavier: must be one of torch, he_fan_in, "):
        on_meta(name, initialisation="xavier")


SMALL: dict[str, Callable[[], nn.Module]] = {
    "digits_cnn": lambda: architecture.digits_cnn(num_classes=4, in_channels=2, image_size=6),
    "resnet8": lambda: architecture.resnet8(num_classes=4, in_channels=2, image_size=6),
    "bottleneck": lambda: ResNet(
        conv_norm_relu(2, 4, 3).append(nn.MaxPool2d(3, 2, 1)), Bottleneck, (4, 4), (2, 2), ProjectedShortcut, 4
    ),
    "wrn_conv": lambda: WideResNet(1, 2, Form("conv"), in_channels=2, num_classes=4),
    "wrn_pool": lambda: WideResNet(1, 2, Form("pool"), in_channels=2, num_classes=4),
    "pyramid": lambda: PyramidNet(Pyramid(1, 5, bottleneck=True), in_channels=2, num_classes=4),
    "shakedrop": lambda: PyramidNet(Pyramid(1, 5, bottleneck=False), in_channels=2, num_classes=4, shakedrop="same"),
    "shake_shake": lambda: ShakeShakeNet(1, 4, "same", in_channels=2, num_classes=4),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return SMALL[request.param]().double()


def loss_of(model: nn.Module) -> Callable[[list[Tensor]], Tensor]:
    """Mean cross-entropy of fixed images as a function of the weights."""
    images, labels = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    names = [name for name, _ in model.named_parameters()]

    def loss(weights: list[Tensor]) -> Tensor:
        torch.manual_seed(1)  # the gates of a pass
        logits = functional_call(model, dict(zip(names, weights, strict=True)), images)
        return nn.functional.cross_entropy(logits, labels)

    return loss


@pytest.mark.parametrize("training", [True, False])
def test_hessian_products_are_the_derivative_of_the_gradient(small: nn.Module, training: bool) -> None:
    loss = loss_of(small.train(training))
    weights = [weight.detach().requires_grad_() for weight in small.parameters()]
    scale = sum(weight.numel() for weight in weights) ** -0.5  # short, so that no ReLU changes its side
    direction = [scale * torch.randn_like(weight) for weight in weights]
    gradient = grad(loss(weights), weights, create_graph=True)
    product = grad(gradient, weights, direction)

    def gradient_at(step: float) -> tuple[Tensor, ...]:
        moved = [w.detach().add(d, alpha=step).requires_grad_() for w, d in zip(weights, direction, strict=True)]
        return grad(loss(moved), moved)

    quotient = [(a - b) / 2e-6 for a, b in zip(gradient_at(1e-6), gradient_at(-1e-6), strict=True)]
    error = sum((p - q).square().sum() for p, q in zip(product, quotient, strict=True)).sqrt()
    assert error < 1e-5 * sum(p.square().sum() for p in product).sqrt()


def test_forward_mode_agrees_with_the_gradient(small: nn.Module) -> None:
    loss = loss_of(small.eval())
    weights = [weight.detach().requires_grad_() for weight in small.parameters()]
    direction = [torch.randn_like(weight) for weight in weights]
    _, forward = torch.func.jvp(loss, (weights,), (direction,))
    backward = sum((g * d).sum() for g, d in zip(grad(loss(weights), weights), direction, strict=True))
    torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-12)


def test_channels_last_changes_no_number_and_is_kept_throughout(small: nn.Module) -> None:
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    torch.manual_seed(1)  # the gates of a pass
    expected = small(images)
    kept = []
    for module in small.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, given: kept.append(given[0].is_contiguous(memory_format=torch.channels_last))
            )
    torch.manual_seed(1)
    logits = small.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert kept
    assert all(kept)


def test_forward_is_one_graph(small: nn.Module) -> None:
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.manual_seed(1)  # the gates of a pass
    found = compiled(images)
    torch.manual_seed(1)
    torch.testing.assert_close(found, small(images))


def test_images_are_left_alone(small: nn.Module) -> None:
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    before = images.clone()
    small(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("name", "first_block", "others"),
    [
        ("digits_cnn", "stage1.0.conv.weight", "stage2.1.norm.running_var"),
        ("resnet20", "stages.0.0.conv1.weight", "stages.2.2.norm2.bias"),
        ("resnet18", "stages.0.0.conv1.weight", "stages.3.0.shortcut.conv.weight"),
        ("resnet50", "stages.0.0.shortcut.norm.weight", "stages.3.2.conv3.weight"),
        ("wrn16_4", "stages.0.0.norm1.weight", "stages.2.0.shortcut.weight"),
    ],
)
def test_names_on_disk(name: str, first_block: str, others: str, tmp_path: Path) -> None:
    model = OPTIONS[name](num_classes=10, in_channels=3, image_size=32)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    kept = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {first_block, others, "classifier.weight", "classifier.bias"} <= set(kept)
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())


def test_every_architecture_has_a_configuration() -> None:
    assert set(TARGETS.values()) == set(architecture.__all__)


@pytest.mark.parametrize("name", architecture.__all__)
def test_configurations_spell_out_all_that_a_network_takes_one_of_them_as_its_defaults(name: str) -> None:
    """What is not given by name is the network's own, such as its depth."""
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(getattr(architecture, name)).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is not inspect.Parameter.empty
    }
    found = [OPTIONS[option].keywords for option, target in TARGETS.items() if target == name]
    assert defaults in found
    assert all(keywords.keys() == defaults.keys() for keywords in found)
