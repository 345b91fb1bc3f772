"""PyramidNets, with ShakeDrop and without, against a plain loop that is written from the papers."""

import pytest
import torch
import torch.nn.functional as F
from plain import normalised, pooled
from torch import Tensor, nn

from sam_repro.architecture.pyramid import Pyramid, PyramidNet, pyramidnet


def reference(weights: dict[str, Tensor], widths: list[list[int]], shakedrop: bool, x: Tensor) -> Tensor:
    """Three stages of as many blocks, in train mode; the gates are drawn from torch's generator."""
    take = iter(weights.values())
    x = normalised(F.conv2d(x, next(take), padding=1), next(take), next(take))
    for block, channels in enumerate(widths, start=1):
        kernels = [3, 3] if len(channels) == 2 else [1, 3, 1]
        stride = 2 if block > 1 and (block - 1) % (len(widths) // 3) == 0 else 1
        scale, shift = next(take), next(take)
        convolutions, norms = [next(take) for _ in kernels], [(next(take), next(take)) for _ in kernels]
        y = normalised(x, scale, shift)
        for place, (kernel, convolution, norm) in enumerate(zip(kernels, convolutions, norms, strict=True)):
            assert len(convolution) == channels[place]
            y = y.clamp(min=0) if place > 0 else y
            y = F.conv2d(y, convolution, stride=stride if place == kernels.index(3) else 1, padding=kernel // 2)
            y = normalised(y, *norm)
        if shakedrop:
            uniform, alpha, beta = (torch.rand(len(x), 1, 1, 1).to(x) for _ in range(3))
            passes = uniform < 1 - 0.5 * block / len(widths)
            value = torch.where(passes, y, (2 * alpha - 1) * y)
            slope = torch.where(passes, y, beta * y)
            y = slope + (value - slope).detach()
        x = pooled(x, stride, channels[-1]) + y
    last = normalised(x, next(take), next(take)).clamp(min=0).flatten(2).mean(2)
    logits = last @ next(take).T + next(take)
    assert next(take, None) is None
    return logits


@pytest.mark.parametrize("shakedrop", [False, True])
@pytest.mark.parametrize(
    ("pyramid", "widths"),
    [
        (Pyramid(1, 6, bottleneck=False), [[18, 18], [20, 20], [22, 22]]),
        (Pyramid(2, 5, bottleneck=False), [[17, 17], [18, 18], [18, 18], [19, 19], [20, 20], [21, 21]]),
        (Pyramid(1, 5, bottleneck=True), [[18, 18, 72], [19, 19, 76], [21, 21, 84]]),
        (Pyramid(1, 5, bottleneck=True, widths="truncated"), [[17, 17, 68], [19, 19, 76], [21, 21, 84]]),
    ],
)
def test_equals_the_reference(pyramid: Pyramid, widths: list[list[int]], shakedrop: bool) -> None:
    torch.manual_seed(0)
    model = PyramidNet(pyramid, 3, 5, "drawn" if shakedrop else None).double()
    for weight in model.parameters():  # no two channels of a norm alike
        torch.nn.init.normal_(weight, 0.1, 0.3)
    weights = dict(model.named_parameters())
    images, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 4, 1, 0])
    results = []
    for network in (model, lambda x: reference(weights, widths, shakedrop, x)):
        torch.manual_seed(1)
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        results.append([logits, *torch.autograd.grad(loss, list(weights.values()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("given", "layers", "widest"), [({}, 110, 286), ({"depth": 272, "alpha": 200, "bottleneck": True}, 272, 864)]
)
def test_depth_and_width_are_those_of_the_name(given: dict[str, object], layers: int, widest: int) -> None:
    model = on_meta(**given)
    assert len([weight for weight in model.parameters() if weight.ndim > 1]) == layers
    assert model.classifier.in_features == widest


def test_probabilities_fall_in_a_line_to_a_half() -> None:
    p = [block.gate.p for stage in on_meta(shakedrop="drawn").stages for block in stage]
    assert p == pytest.approx([1 - block / 108 for block in range(1, 55)])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widths": "narrow"}, "widths = narrow: must be one of rounded, truncated"),
        ({"shakedrop": "own"}, "shakedrop = own: must be one of null, drawn, same"),
        ({"alpha": -1}, "alpha = -1: must be an integer >= 0 and <= 10000"),
        ({"depth": 109}, r"depth = 109: this network has 6n \+ 2 layers, such as 104"),
        (
            {"depth": 111, "bottleneck": True},
            r"depth = 111: this network has 9n \+ 2 layers, such as 110",
        ),
        ({"bottleneck": "yes"}, "bottleneck = yes: must be true or false"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        on_meta(**given)


def on_meta(**given: object) -> nn.Module:
    with torch.device("meta"):
        return pyramidnet(num_classes=10, in_channels=3, image_size=32, **given)
