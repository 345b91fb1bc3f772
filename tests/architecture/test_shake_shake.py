"""Shake-Shake against a plain loop that is written from the paper."""

import pytest
import torch
import torch.nn.functional as F
from plain import normalised
from torch import Tensor

from sam_repro.architecture.shake_shake import ShakeShakeNet, ShiftedShortcut, shake_shake_network


def reference(weights: dict[str, Tensor], blocks: int, x: Tensor, training: bool) -> Tensor:
    take = iter(weights.values())

    def branch(x: Tensor, stride: int) -> Tensor:
        x = normalised(F.conv2d(x.clamp(min=0), next(take), stride=stride, padding=1), next(take), next(take))
        return normalised(F.conv2d(x.clamp(min=0), next(take), padding=1), next(take), next(take))

    def shortcut(x: Tensor, stride: int) -> Tensor:
        moved = torch.zeros_like(x)
        moved[:, :, :-1, :-1] = x[:, :, 1:, 1:]
        halves = [F.conv2d(image[:, :, ::stride, ::stride], next(take)) for image in (x, moved)]
        return normalised(torch.cat(halves, 1), next(take), next(take))

    x = normalised(F.conv2d(x, next(take), padding=1), next(take), next(take))
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            one, two = branch(x, stride), branch(x, stride)
            if training:
                alpha, beta = (torch.rand(len(x), 1, 1, 1, dtype=torch.float32).to(x) for _ in range(2))
                value = alpha * one + (1 - alpha) * two
                slope = beta * one + (1 - beta) * two
                mixed = slope + (value - slope).detach()
            else:
                mixed = (one + two) / 2
            x = (shortcut(x, stride) if block == 0 else x) + mixed
    logits = x.clamp(min=0).flatten(2).mean(2) @ next(take).T + next(take)
    assert next(take, None) is None
    return logits


def test_equals_the_reference(float64: None) -> None:
    torch.manual_seed(0)
    for blocks, training in ((1, True), (2, True), (1, False)):
        model = ShakeShakeNet(blocks, 4, "drawn", in_channels=3, num_classes=5)
        for weight in model.parameters():  # no two channels of a norm alike
            torch.nn.init.normal_(weight, 0.1, 0.3)
        for module in model.modules():  # both branches, with the statistics of the batch
            if isinstance(module, torch.nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = None
        images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 4])
        weights = dict(model.train(training).named_parameters())
        results = []
        for network in (model, lambda x, n=blocks, t=training, w=weights: reference(w, n, x, t)):
            torch.manual_seed(1)
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
            results.append([logits, *torch.autograd.grad(loss, list(weights.values()))])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_shortcut_of_an_odd_image_sees_zeros_behind_the_border() -> None:
    shortcut = ShiftedShortcut(1, 2, 2).eval()
    for conv in (shortcut.conv1, shortcut.conv2):
        torch.nn.init.ones_(conv.weight)
    shortcut.norm = torch.nn.Identity()
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    expected = torch.tensor([[[[0.0, 2.0], [6.0, 8.0]], [[4.0, 0.0], [0.0, 0.0]]]])
    assert torch.equal(shortcut(image), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": 27}, r"depth = 27: this network has 6n \+ 2 layers, such as 26"),
        ({"width": 1}, "width = 1: must be an integer >= 2 and <= 10000"),
        ({"backward": "own"}, "backward = own: must be one of drawn, same"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=f"^{message}$"):
        shake_shake_network(num_classes=10, in_channels=3, image_size=32, **given)
