"""Scores against scikit-learn and by hand; an evaluation leaves no trace."""

import copy
from contextlib import suppress

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch import Tensor, nn

from sam_repro.augmentation import Augmentation
from sam_repro.dataset import Resident
from sam_repro.training.evaluation import BATCH, evaluating, outputs, scores


def test_scores_against_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    for classes in (6, 10, 100):
        logits = 3 * torch.randn(501, classes, generator=generator)
        labels = torch.randint(classes, (501,), generator=generator)
        labels[:classes] = torch.arange(classes)
        logits[torch.arange(0, 501, 2), labels[::2]] += 2
        ours = scores(logits, labels)
        top5 = top_k_accuracy_score(labels, logits, k=5, labels=np.arange(classes))
        assert ours["accuracy_pct"] == pytest.approx(100 * accuracy_score(labels, logits.argmax(dim=1)), abs=1e-10)
        assert ours["error_pct"] == pytest.approx(100 - ours["accuracy_pct"], abs=1e-10)
        assert ours["error_top5_pct"] == pytest.approx(100 * (1 - top5), abs=1e-10)
        assert ours["loss"] == pytest.approx(log_loss(labels, logits.double().softmax(dim=1)), rel=1e-6)
        assert 0 < ours["error_top5_pct"] < ours["error_pct"] < 100


def test_scores_by_hand() -> None:
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1]])
    ours = scores(logits, torch.tensor([0, 1, 4, 5]))
    assert (ours["error_pct"], ours["error_top5_pct"], ours["accuracy_pct"]) == (75, 25, 25)
    partition = sum(np.exp(6 - k) for k in range(6))
    assert ours["loss"] == pytest.approx(np.mean([np.log(partition) - z for z in (6, 5, 2, 1)]), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_with_five_classes_or_fewer_there_is_no_top_five(classes: int) -> None:
    logits = torch.randn(40, classes, generator=torch.Generator().manual_seed(0))
    ours = scores(logits, torch.arange(40) % classes)
    assert set(ours) == {"error_pct", "accuracy_pct", "loss"}
    assert 0 < ours["error_pct"] < 100


def test_of_equal_outputs_the_lower_class_is_first() -> None:
    """As `argmax` has it, by which the training error and the ledger of label noise are counted."""
    classes = 20
    same = scores(torch.zeros(classes, classes), torch.arange(classes))
    assert same["error_pct"] == pytest.approx(95)
    assert same["error_top5_pct"] == pytest.approx(75)
    for label, first, among_five in ((0, 0, 0), (1, 100, 0), (4, 100, 0), (5, 100, 100), (19, 100, 100)):
        one = scores(torch.zeros(1, classes), torch.tensor([label]))
        assert (one["error_pct"], one["error_top5_pct"]) == (first, among_five)
    coarse = torch.randn(300, classes, generator=torch.Generator().manual_seed(0)).round()
    labels = torch.arange(300) % classes
    wrong = 100 * (coarse.argmax(dim=1) != labels).double().mean().item()
    assert scores(coarse, labels)["error_pct"] == pytest.approx(wrong, abs=1e-10)


class Net(nn.Module):
    """Batch norm that moves in train mode, dropout that draws, and a part that somebody keeps in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.BatchNorm2d(1).eval()
        self.norm, self.dropout, self.head = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Linear(16, 3)
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return self.head(self.dropout(self.norm(self.frozen(images)).flatten(1)))


def seen(images: Tensor) -> Resident:
    """A split whose inputs are its pixels/255."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    plain = Augmentation([0.0], [1.0])
    return Resident(images=images, labels=labels, clean_labels=labels, num_classes=3, augmentation=plain)


def test_outputs_leave_no_trace() -> None:
    model = Net()
    images = torch.randint(256, (BATCH + 3, 1, 4, 4), dtype=torch.uint8)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    torch.manual_seed(7)
    draws = torch.get_rng_state()
    logits = outputs(model, seen(images), autocast=None)
    assert torch.equal(torch.get_rng_state(), draws)
    assert [module.training for module in model.modules()] == modes
    assert set(modes) == {True, False}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert not logits.requires_grad
    assert model.sizes == [BATCH, 3]


def test_outputs_are_those_of_eval_mode_image_by_image() -> None:
    model = Net()
    model.norm.running_mean.fill_(0.3)
    images = torch.randint(256, (BATCH + 3, 1, 4, 4), dtype=torch.uint8)
    logits = outputs(model, seen(images), autocast=None)
    model.eval()
    for index in (0, 1, BATCH - 1, BATCH, BATCH + 2):
        torch.testing.assert_close(logits[index], model(images[index : index + 1] / 255)[0].detach())


def test_outputs_under_autocast_are_float32_from_bfloat16() -> None:
    model = Net()
    images = torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8)
    full, reduced = (outputs(model, seen(images), kind) for kind in (None, torch.bfloat16))
    assert reduced.dtype == torch.float32
    assert torch.equal(reduced, reduced.bfloat16().float())
    assert not torch.equal(full, reduced)
    torch.testing.assert_close(full, reduced, atol=0.05, rtol=0.05)


def test_modes_come_back_after_an_exception() -> None:
    model = Net()
    modes = [module.training for module in model.modules()]
    with suppress(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == modes
