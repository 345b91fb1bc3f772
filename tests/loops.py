"""A small training, and the same loop written by hand."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro.augmentation import Augmentation, Crop, Cutout, Flip, Transform
from sam_repro.dataset import Data, Resident
from sam_repro.optimizer import SAM, SGD, Rule, parameter_groups
from sam_repro.oracle import Objective
from sam_repro.schedule import Cosine
from sam_repro.seeds import derived
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.training.plan import Plan
from sam_repro.training.trainer import Trainer

EXAMPLES, BATCH, EPOCHS, CLASSES = 22, 5, 3, 3
STEPS = EPOCHS * 5  # the last batch of an epoch has 2 examples
LR, MOMENTUM, DECAY, RHO = 0.2, 0.9, 0.03, 0.1
MEAN, STD = 0.0, 256 / 255  # pixels/256, without rounding


def resident(images: Tensor, labels: Tensor) -> Resident:
    plain = Augmentation([MEAN], [STD])
    return Resident(images=images, labels=labels, clean_labels=labels, num_classes=CLASSES, augmentation=plain)


def split(count: int, seed: int) -> Resident:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = (images[:, 0, 0, 0] > 127).long() + torch.randint(2, (count,), generator=generator)
    return resident(images, labels)


def dataset(validation: int = 0) -> Data:
    held_out = split(validation, 2) if validation else None
    return Data(split(EXAMPLES, 0), held_out, split(11, 1))


class Net(nn.Module):
    """A convolution, batch norm, dropout and a head; it takes float32 images to its own dtype."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        # statistics that follow quickly: else in eval mode every unit is dead, and no image makes a difference
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3, momentum=0.5)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(48, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.conv(images.to(self.head.weight.dtype))).relu()
        return self.head(self.dropout(hidden.flatten(1)))


class Flat(nn.Module):
    """A linear layer in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(16, CLASSES).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.double().flatten(1))


class Listener:
    """Keeps the rows, and does something at each step."""

    def __init__(self, at_step: Callable[[int], None] = lambda done: None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.at_step = at_step

    def step(self, done: int) -> None:
        self.at_step(done)

    def row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def saving(self) -> None:
        pass

    def epochs(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] == "epoch"]


def plan(**changes: Any) -> Plan:
    return Plan(**({"seed": 3, "epochs": EPOCHS, "batch_size": BATCH, "lr": LR, "checkpoint_every": 1e9} | changes))


def trainer(
    folder: Path,
    model: nn.Module | None = None,
    rule: Callable[[torch.optim.Optimizer], Rule] = SGD,
    *,
    data: Data | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    augmentation: Augmentation | None = None,
    decay_on: str = "all",
    fused: bool | None = None,
    schedule: Any = None,
    rho_schedule: Any = None,
    diagnostics: Diagnostics | None = None,
    **changes: Any,
) -> Trainer:
    model = Net() if model is None else model
    data = data or dataset()
    if augmentation is not None:
        seen = {
            part: replace(getattr(data, part), augmentation=augmentation)
            for part in ("train", "validation", "test")
            if getattr(data, part) is not None
        }
        data = replace(data, **seen)
    groups = parameter_groups(model, DECAY, decay_on)
    base = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM, fused=fused)
    return Trainer(
        Objective(model, criterion),
        rule(base),
        schedule or Cosine(),
        data,
        plan(**changes),
        diagnostics or Diagnostics(),
        folder,
        rho_schedule=rho_schedule,
    )


def sam(base: torch.optim.Optimizer) -> SAM:
    return SAM(base, RHO)


def batches(data: Data, seed: int = 3, epochs: int = EPOCHS) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels in the documented order: a permutation by (seed, epoch)."""
    for epoch in range(epochs):
        order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(derived(seed, "order", epoch)))
        for rows in order.split(BATCH):
            yield data.train.images[rows] / 256, data.train.labels[rows]


def by_hand(model: nn.Module, rho: float | None, decay_on: str = "all") -> list[dict[str, float]]:
    """Algorithm 1 of the paper, or the plain gradient, with SGD in plain arithmetic; what each step saw."""
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    seen = []
    for step, (images, labels) in enumerate(batches(dataset())):
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        gradients = dict(zip(velocity, torch.autograd.grad(loss, list(model.parameters())), strict=True))
        length = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients.values()))
        wrong = int((logits.argmax(dim=1) != labels).sum())
        seen.append({"count": len(labels), "loss": loss.item(), "wrong": wrong, "gradient_norm": length})
        if rho is not None:
            after_pass_1 = {name: value.clone() for name, value in model.state_dict().items()}
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p += rho / length * gradients[name]
            loss = F.cross_entropy(model(images), labels)
            gradients = dict(zip(velocity, torch.autograd.grad(loss, list(model.parameters())), strict=True))
            model.load_state_dict(after_pass_1)
            seen[-1]["perturbed_loss"] = loss.item()
        lr = LR * (1 + math.cos(math.pi * step / STEPS)) / 2
        with torch.no_grad():
            for name, p in model.named_parameters():
                decays = decay_on == "all" or p.dim() > 1
                gradient = gradients[name] + (DECAY * p if decays else 0)
                velocity[name] = MOMENTUM * velocity[name] + gradient
                p -= lr * velocity[name]
    return seen


def assert_same(ours: nn.Module, theirs: nn.Module, tolerance: float) -> None:
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=tolerance, atol=tolerance, msg=name)


def random_parts(**changes: Any) -> dict[str, Any]:
    """All that draws: crops, flips, cutout, dropout, and validation images that are augmented."""
    order = ["flip", "crop", "normalise", "cutout"]
    transforms: dict[str, Transform] = {"flip": Flip(), "crop": Crop(1), "cutout": Cutout(2, "image", 0.5)}
    augmentation = Augmentation([MEAN], [STD], order=order, **transforms)
    return {"model": Net(dropout=0.3), "rule": sam, "augmentation": augmentation} | changes


def augmented_validation() -> Data:
    return Data(split(EXAMPLES, 0), split(9, 2), split(11, 1), validation_augmented=True)


def assert_bitwise(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def final(folder: Path, listener: Listener, **parts: Any) -> dict[str, Tensor]:
    parts = random_parts(**parts)
    trainer(folder, **parts).run(listener)
    return parts["model"].state_dict()


def numbers(rows: list[dict[str, Any]], part: str = "") -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key.startswith(part) and key != "seconds"} for row in rows]


class Died(Exception):
    pass
