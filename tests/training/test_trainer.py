"""The loop against loops written by hand in plain PyTorch, on a few made-up images."""

import math
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sam_repro.augmentation import Augmentation, Crop, Cutout, Flip, Transform
from sam_repro.dataset import Data, Raw, Resident
from sam_repro.optimizer import SAM, SGD, Rule, parameter_groups
from sam_repro.oracle import Objective
from sam_repro.rho_schedule import LikeLR
from sam_repro.schedule import Constant, Cosine
from sam_repro.seeds import derived
from sam_repro.training import checkpoint, evaluation
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.training.means import Mean, weighted
from sam_repro.training.plan import Plan
from sam_repro.training.trainer import Interrupted, NonFinite, Trainer

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


@pytest.mark.parametrize("rho", [None, RHO])
@pytest.mark.parametrize("decay_on", ["all", "no_norm_no_bias"])
def test_loop_is_the_one_written_by_hand(tmp_path: Path, rho: float | None, decay_on: str) -> None:
    ours, theirs = Net().double(), Net().double()
    trainer(tmp_path, ours, SGD if rho is None else sam, decay_on=decay_on, data=dataset(validation=7)).run(Listener())
    seen = by_hand(theirs, rho, decay_on)
    assert len(seen) == STEPS
    assert ours.norm.num_batches_tracked == STEPS
    assert_same(ours, theirs, 1e-12)


@pytest.mark.parametrize("rule", [SGD, sam])
def test_micro_batches_are_the_batch_but_for_rounding(tmp_path: Path, rule: Any) -> None:
    models = []
    for micro_batch in (None, 3, BATCH):
        model = Flat()
        sizes: list[int] = []
        model.register_forward_pre_hook(lambda module, given, sizes=sizes: sizes.append(len(given[0])))
        folder = tmp_path / str(micro_batch)
        folder.mkdir()
        trainer(folder, model, rule, micro_batch=micro_batch).run(Listener())
        models.append(model)
        assert max(sizes[:2]) == min(micro_batch or BATCH, BATCH)
    assert_same(models[1], models[0], 1e-11)
    assert_same(models[2], models[0], 0)


@pytest.mark.parametrize("fused", [True, False])
def test_loop_is_bitwise_the_usual_one_in_float32(tmp_path: Path, fused: bool) -> None:
    ours, theirs = Net(), Net()
    trained = trainer(tmp_path, ours, fused=fused)
    trained.run(Listener())
    optimizer = torch.optim.SGD(theirs.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=fused)
    order = [rows for epoch in range(EPOCHS) for rows in trained._order(epoch).split(BATCH)]
    for step, rows in enumerate(order):
        optimizer.param_groups[0]["lr"] = LR * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        images = trained.data.train.augmentation.normalise(trained.data.train.images[rows])
        F.cross_entropy(theirs(images), trained.data.train.labels[rows]).backward()
        optimizer.step()
    assert_same(ours, theirs, 0)


def test_epoch_and_window_means_are_means_over_examples(tmp_path: Path) -> None:
    listener = Listener()
    trainer(tmp_path, Net().double(), sam, record_every=3).run(listener)
    seen = by_hand(Net().double(), RHO)

    def mean(steps: slice) -> dict[str, float]:
        counts = [step["count"] for step in seen[steps]]
        names = ("loss", "perturbed_loss", "gradient_norm")
        means = {name: np.average([step[name] for step in seen[steps]], weights=counts) for name in names}
        return means | {"error_pct": 100 * sum(step["wrong"] for step in seen[steps]) / sum(counts)}

    def assert_means(row: dict[str, Any], part: str, steps: slice) -> None:
        for name, value in mean(steps).items():
            assert row[f"{part}/{name}"] == pytest.approx(value, rel=1e-10), (name, row)

    rows = {(row["kind"], row["step"]): row for row in listener.rows}
    assert len(rows) == len(listener.rows)
    assert [step for kind, step in rows if kind == "epoch"] == [4, 9, 14]
    ends = [2, 4, 5, 8, 9, 11, 14]  # every third step, and where an epoch ends
    assert [step for kind, step in rows if kind == "train"] == ends
    for before, end in zip([-1, *ends], ends, strict=False):
        assert_means(rows["train", end], "train", slice(before + 1, end + 1))
        assert rows["train", end]["lr"] == pytest.approx(LR * (1 + math.cos(math.pi * end / STEPS)) / 2, rel=1e-12)
        assert rows["train", end]["rho"] == RHO
    for epoch in range(EPOCHS):
        row = rows["epoch", 5 * epoch + 4]
        assert_means(row, "epoch", slice(5 * epoch, 5 * epoch + 5))
        assert row["epoch"] == epoch + 1


@pytest.mark.parametrize(("m", "rho"), [(None, None), (2, None), (None, RHO), (2, RHO)])
def test_clipping_is_that_of_torch_on_the_averaged_final_gradient(
    tmp_path: Path, m: int | None, rho: float | None
) -> None:
    images, labels = next(batches(dataset()))
    for clip_norm in (0.05, 1e3):
        ours, theirs = Flat(), Flat()
        trained = trainer(tmp_path, ours, SGD if rho is None else sam, clip_norm=clip_norm, m=m, max_steps=1)
        trained.run(Listener())
        parameters = list(theirs.parameters())
        start = [p.detach().clone() for p in parameters]
        total = [torch.zeros_like(p) for p in parameters]
        for x, y in zip(images.split(m or BATCH), labels.split(m or BATCH), strict=True):
            gradient = torch.autograd.grad(F.cross_entropy(theirs(x), y), parameters)
            if rho is not None:
                length = torch.cat([g.flatten() for g in gradient]).norm()
                with torch.no_grad():
                    for p, g in zip(parameters, gradient, strict=True):
                        p += rho * g / length
                gradient = torch.autograd.grad(F.cross_entropy(theirs(x), y), parameters)
                with torch.no_grad():
                    for p, w in zip(parameters, start, strict=True):
                        p.copy_(w)
            for sum_, g in zip(total, gradient, strict=True):
                sum_ += len(y) / BATCH * g
        for p, g in zip(parameters, total, strict=True):
            p.grad = g
        length = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, weight_decay=DECAY).step()
        assert (length > clip_norm) == (clip_norm < 1)
        for p, q in zip(ours.parameters(), parameters, strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-6)
            torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
        norm = torch.cat([p.grad.flatten() for p in ours.parameters()]).norm().item()
        assert norm == pytest.approx(min(clip_norm, length.item()), rel=1e-12)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [5, 5, 5, 5, 2]), (True, [5, 5, 5, 5])])
@pytest.mark.parametrize("m", [None, 4])
def test_last_batch(tmp_path: Path, drop_last: bool, sizes: list[int], m: int | None) -> None:
    model, seen = Net(), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])) if module.training else None)
    trained = trainer(tmp_path, model, drop_last=drop_last, m=m, epochs=2)
    trained.run(Listener())
    parts = [part for size in sizes for part in ([size] if m is None or size <= m else [m, size - m])]
    assert seen == 2 * parts
    assert trained.rule.steps == trained.step == trained.plan.steps(EXAMPLES) == 2 * len(sizes)
    for steps in range(2 * len(sizes) + 1):
        assert trained.plan.seen(steps, EXAMPLES) == sum((2 * sizes)[:steps])


def test_max_steps_ends_the_run_and_leaves_the_schedule(tmp_path: Path) -> None:
    cut, whole = Listener(), Listener()
    trained = trainer(tmp_path, max_steps=7, record_every=1)
    trained.run(cut)
    trainer(tmp_path, record_every=1).run(whole)
    assert trained.rule.steps == 7
    rows = [row for row in cut.rows if row["kind"] == "train"]
    assert rows == [row for row in whole.rows if row["kind"] == "train"][:7]
    assert [row["epoch"] for row in cut.epochs()] == [1, 7 / 5]
    assert cut.epochs()[-1]["step"] == 6


def random_parts(**changes: Any) -> dict[str, Any]:
    """All that draws: crops, flips, cutout, dropout, and validation images that are augmented."""
    order = ["flip", "crop", "normalise", "cutout"]
    transforms: dict[str, Transform] = {"flip": Flip(), "crop": Crop(1), "cutout": Cutout(2, "image", 0.5)}
    augmentation = Augmentation([MEAN], [STD], order=order, **transforms)
    return {"model": Net(dropout=0.3), "rule": sam, "augmentation": augmentation} | changes


def augmented_validation() -> Data:
    return Data(split(EXAMPLES, 0), split(9, 2), split(11, 1), validation_augmented=True)


def final(folder: Path, listener: Listener, **parts: Any) -> dict[str, Tensor]:
    parts = random_parts(**parts)
    trainer(folder, **parts).run(listener)
    return parts["model"].state_dict()


def assert_bitwise(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def numbers(rows: list[dict[str, Any]], part: str = "") -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key.startswith(part) and key != "seconds"} for row in rows]


def test_nothing_depends_on_global_generators(tmp_path: Path) -> None:
    def stir(done: int) -> None:
        torch.manual_seed(done + 99)
        np.random.seed(done)
        random.seed(done)
        torch.rand(done), np.random.rand(done)

    calm, stirred = Listener(), Listener(stir)
    ours = final(tmp_path, calm, data=augmented_validation())
    assert_bitwise(ours, final(tmp_path, stirred, data=augmented_validation()))
    assert numbers(calm.rows) == numbers(stirred.rows)
    assert not torch.equal(ours["head.weight"], final(tmp_path, Listener(), seed=4)["head.weight"])


def test_evaluation_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    with_validation, without = Listener(), Listener()
    ours = final(tmp_path, with_validation, data=augmented_validation())
    assert_bitwise(ours, final(tmp_path, without))
    assert numbers(with_validation.rows, "epoch") == numbers(without.rows, "epoch")
    assert numbers(with_validation.rows, "train") == numbers(without.rows, "train")
    assert all("validation/error_pct" in row for row in with_validation.epochs())
    assert not any("validation/error_pct" in row for row in without.epochs())


class Draws(Flat):
    """Notes the images that it is trained on, and noise that it draws there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, bytes]] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen.append((images.numpy().tobytes(), torch.rand(1).numpy().tobytes()))
        return super().forward(images)


def test_every_step_of_every_seed_draws_anew(tmp_path: Path) -> None:
    """On one image many times over, so that the batches differ in nothing but the draws."""
    image = split(1, 0).images.repeat(EXAMPLES, 1, 1, 1)
    labels = torch.zeros(EXAMPLES, dtype=torch.long)
    data = Data(resident(image, labels), None, split(11, 1))
    crop = Augmentation([MEAN], [STD], order=["crop", "normalise"], crop=Crop(3))
    seen = []
    for seed in (3, 4):
        model = Draws()
        trainer(tmp_path, model, data=data, augmentation=crop, seed=seed).run(Listener())
        seen += model.seen
    for draws in zip(*seen, strict=True):
        assert len(set(draws)) == len(draws) == 2 * STEPS


@pytest.mark.parametrize("augmented", [True, False])
def test_validation_draws_anew_after_each_epoch_if_it_is_augmented(tmp_path: Path, augmented: bool) -> None:
    """At a learning rate of 0, where nothing moves but the draws."""
    rows = []
    for seed in (3, 4):
        listener, data = Listener(), augmented_validation() if augmented else dataset(validation=9)
        parts = random_parts(model=Flat(), data=data, lr=0.0, seed=seed)
        trainer(tmp_path, **parts).run(listener)
        rows += listener.epochs()
    assert len({row["validation/loss"] for row in rows}) == (2 * EPOCHS if augmented else 1)
    assert len({row["test/loss"] for row in rows}) == 1


class Died(Exception):
    pass


def test_each_step_can_be_taken_up(tmp_path: Path) -> None:
    """Each trainer dies in its second step, and the next one takes up what it saved after the first."""
    data, whole, rows = augmented_validation(), Listener(), []
    ours = final(tmp_path, whole, data=data, record_every=3, diagnostics=Diagnostics("drift", every=2, period=2))

    for start in range(STEPS):

        def die(done: int, start: int = start) -> None:
            if done == start + 2:
                raise Died

        parts = random_parts(model=Net(dropout=0.3), data=data, record_every=3)
        piece = trainer(tmp_path, **parts, diagnostics=Diagnostics("drift", every=2, period=2), checkpoint_every=0)
        assert piece.resume() == start
        listener = Listener(die)
        with nullcontext() if start == STEPS - 1 else pytest.raises(Died):
            piece.run(listener)
        rows += listener.rows
    assert_bitwise(ours, parts["model"].state_dict())
    assert numbers(rows) == numbers(whole.rows)
    assert "epoch/drift_g_v" in rows[-1]


def test_rate_and_options_are_the_trainers_own_after_loading(tmp_path: Path) -> None:
    saved = trainer(tmp_path, fused=False, max_steps=7)
    saved.run(Listener())
    saved.save()
    loaded = trainer(tmp_path, fused=True, schedule=Constant())
    rates = [group["lr"] for group in loaded.rule.base.param_groups]
    assert loaded.resume() == 7
    for group, rate in zip(loaded.rule.base.param_groups, rates, strict=True):
        assert group["lr"] is rate
        assert group["fused"] is True
    for p, q in zip(saved.rule.params, loaded.rule.params, strict=True):
        assert torch.equal(saved.rule.base.state[p]["momentum_buffer"], loaded.rule.base.state[q]["momentum_buffer"])
    listener = Listener()
    loaded.run(listener)
    assert {row["lr"] for row in listener.rows if row["kind"] == "train"} == {LR}
    assert all(float(rate) == LR for rate in rates)


def test_checkpoint_loads_with_the_default_of_torch(tmp_path: Path) -> None:
    saved = trainer(tmp_path, rule=sam, data=dataset(validation=7))
    saved.run(Listener())
    saved.save()
    state = torch.load(saved.path)
    assert state["rule"]["steps"] == STEPS
    assert_bitwise(state["model"], saved.model.state_dict())


class LearnsInTheThird(Constant):
    """Learns in the third epoch, climbs in the fifth and last; in the others weights move, but too little for a score.

    So the scores of epochs 1 and 2 are equal, and those of 3 and 4.
    """

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        return (1e-9, 1e-9, 1.0, 1e-9, -10.0)[step // steps_per_epoch]


def lowest_in_the_third_and_in_the_first(model: nn.Module) -> Data:
    """Validation is on the training images, so that learning shows; the test labels are what the model begins with."""
    train = split(EXAMPLES, 0)
    first = model(train.images / 256).argmax(dim=1)
    return Data(train, train, resident(train.images, first))


def test_best_epoch_is_the_first_of_the_lowest_validation_error(tmp_path: Path) -> None:
    listener, snapshots = Listener(), {}
    model = Flat()
    data = lowest_in_the_third_and_in_the_first(model)
    trained = trainer(tmp_path, model, data=data, schedule=LearnsInTheThird(), epochs=5)

    def keep(row: dict[str, Any]) -> None:
        listener.rows.append(row)
        if row["kind"] == "epoch":
            snapshots[row["epoch"]] = {name: value.clone() for name, value in model.state_dict().items()}

    watch = Listener()
    watch.row = keep
    trained.run(watch)
    errors = [row["validation/error_pct"] for row in listener.epochs()]
    best = errors.index(min(errors)) + 1
    assert errors[0] == errors[1] > errors[2] == errors[3] < errors[4]
    assert best == 3
    assert not torch.equal(snapshots[3]["head.weight"], snapshots[4]["head.weight"])
    scores = trained.scores["best"]
    assert scores["validation"]["epoch"] == scores["test"]["epoch"] == best
    assert scores["validation"]["error_pct"] == min(errors)
    assert scores["test"]["error_pct"] == listener.epochs()[best - 1]["test/error_pct"]
    assert_bitwise(trained.best_weights, snapshots[best])
    tests = [row["test/error_pct"] for row in listener.epochs()]
    assert tests[:2] == [0, 0]
    assert tests[2] > 0
    assert trained.scores["peak"]["epoch"] == 1


@pytest.mark.parametrize("where", ["loss", "gradient", "second pass", "update"])
@pytest.mark.parametrize("record_every", [None, 2])
@pytest.mark.parametrize("bad", [0, 7, STEPS - 1])
def test_non_finite_step_is_named_and_never_saved(
    tmp_path: Path, where: str, record_every: int | None, bad: int
) -> None:
    model, calls = Net(), []

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(None)
        step, second = divmod(len(calls) - 1, 2)
        loss = F.cross_entropy(outputs, targets)
        if step < bad or where == "update" or (where == "second pass" and not second):
            return loss
        return loss + (outputs.sum() * 0).sqrt() if where == "gradient" else loss * math.nan

    class Jump(Constant):
        def shape(self, position: int, length: int) -> float:
            return 1e300 if where == "update" and position == bad else 1.0

    for checkpoint_every in (1e9, 0):
        calls.clear()
        model = Net()
        listener = Listener()
        trained = trainer(
            tmp_path,
            model,
            sam,
            data=dataset(validation=7),
            criterion=criterion,
            schedule=Jump(),
            record_every=record_every,
            checkpoint_every=checkpoint_every,
            fused=True,
        )
        with pytest.raises(NonFinite) as failure:
            trained.run(listener)
        step = failure.value.step
        assert f"of step {step} is not finite" in str(failure.value)
        # an update that nobody looks at before the next step is seen in that step's loss
        assert step == bad or (where == "update" and checkpoint_every and step == bad + 1)
        assert all(row["step"] < bad for row in listener.rows)
        with pytest.raises(NonFinite):
            trained.save()
        assert trained.path.exists() == (checkpoint_every == 0 and bad > 0)
    if trained.path.exists():
        state = checkpoint.read(trained.path)
        assert state["rule"]["steps"] == bad
        tensors = [*state["model"].values(), *(v["momentum_buffer"] for v in state["rule"]["base"]["state"].values())]
        assert all(tensor.isfinite().all() for tensor in tensors)


class HostSync(TorchDispatchMode):
    """Refuses the operations through which the host reads a tensor, or hands a new one to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "lift_fresh"):
            raise AssertionError(f"{func} makes host and device wait for each other")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("diagnostics", [Diagnostics("loss"), Diagnostics(every=2), Diagnostics("drift", period=2)])
@pytest.mark.parametrize(("m", "clip_norm"), [(None, None), (2, 0.1)])
@pytest.mark.parametrize("rule", [SGD, sam])
def test_c3_c6_train_step_never_waits_for_the_device_and_walks_through_no_module(
    tmp_path: Path,
    rule: Any,
    m: int | None,
    clip_norm: float | None,
    diagnostics: Diagnostics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = random_parts(rule=rule, diagnostics=diagnostics)
    trained = trainer(tmp_path, **parts, fused=True, m=m, clip_norm=clip_norm)
    batches = torch.arange(EXAMPLES).split(BATCH)
    trained._train_step(0, Raw(batches[0]))  # constants of the augmentation are brought to the device in the first

    def walk(*_: Any) -> None:
        raise AssertionError("a step walked through the modules")

    for name in ("modules", "apply", "named_modules", "parameters", "named_parameters"):
        monkeypatch.setattr(nn.Module, name, walk)
    with HostSync():
        for step, rows in enumerate(batches[1:], start=1):
            trained._train_step(step, Raw(rows))
    assert trained.step == 5


def test_clock_counts_training_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("sam_repro.training.clock.time.perf_counter", lambda: now[0])

    def pass_time(module: nn.Module, inputs: Any) -> None:
        now[0] += 1.0 if module.training else 1000.0

    model = Net()
    model.register_forward_pre_hook(pass_time)
    listener = Listener()
    trained = trainer(tmp_path, model, sam, data=dataset(validation=7), checkpoint_every=0, max_steps=8)
    trained.run(listener)
    assert trained.clock.seconds == 16
    assert [row["seconds"] for row in listener.epochs()] == [10, 16]

    def die(done: int) -> None:
        if done == 13:
            raise Died

    for listener, end in ((Listener(die), pytest.raises(Died)), (Listener(), nullcontext())):
        again = trainer(tmp_path, Net(), sam, data=dataset(validation=7), checkpoint_every=0)
        again.resume()
        again.model.register_forward_pre_hook(pass_time)
        with end:
            again.run(listener)
    assert again.clock.seconds == 2 * STEPS


def test_checkpoints_come_every_so_many_seconds_and_are_told_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("sam_repro.training.trainer.time.monotonic", lambda: now[0])

    def pass_time(done: int) -> None:
        now[0] += 1.0

    def on_disk() -> int:
        return checkpoint.read(trained.path)["rule"]["steps"] if trained.path.exists() else 0

    told, listener = [], Listener(pass_time)
    listener.saving = lambda: told.append((on_disk(), trained.step))
    trained = trainer(tmp_path, checkpoint_every=4)
    trained.run(listener)
    assert told == [(0, 4), (4, 8), (8, 12)]
    assert on_disk() == 12


def test_the_first_signal_stops_a_run_after_its_step(tmp_path: Path) -> None:
    def send(done: int) -> None:
        if done == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)

    trained = trainer(tmp_path)
    with pytest.raises(Interrupted) as stop:
        trained.run(Listener(send))
    assert (stop.value.signal, stop.value.steps) == (signal.SIGINT, 7)
    assert checkpoint.read(trained.path)["rule"]["steps"] == 7


class Signalled(Net):
    """Gets a signal in the forward of this number."""

    at = 0

    def forward(self, images: Tensor) -> Tensor:
        self.at -= 1
        if not self.at:
            signal.raise_signal(signal.SIGTERM)
        return super().forward(images)


@pytest.mark.parametrize("at", [6, 7, 8])
def test_a_signal_ends_an_evaluation_which_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The first epoch has the forwards 1 to 5, then come two batches of validation and three of the test set."""
    monkeypatch.setattr(evaluation, "BATCH", 4)
    data = dataset(validation=7)
    whole, left, rest = Listener(), Listener(), Listener()
    undisturbed, again = (trainer(tmp_path / name, data=data, record_every=2) for name in ("whole", "left"))
    undisturbed.run(whole)
    model = Signalled()
    model.at = at
    stopped = trainer(tmp_path / "left", model, data=data, record_every=2)
    stopped.path.parent.mkdir()
    with pytest.raises(Interrupted) as stop:
        stopped.run(left)
    assert (stop.value.steps, model.at, left.epochs()) == (5, 0, [])
    assert again.resume() == 5
    again.run(rest)
    told = [{key: row[key] for key in row if key != "seconds"} for row in (*left.rows, *rest.rows)]
    assert told == [{key: row[key] for key in row if key != "seconds"} for row in whole.rows]
    assert_same(again.model, undisturbed.model, 0)


def test_the_radius_warms_up_and_follows_the_learning_rate(tmp_path: Path) -> None:
    loop = trainer(tmp_path, rule=sam, schedule=Cosine(), rho_schedule=LikeLR(1.6), record_every=1)
    listener = Listener()
    loop.run(listener)
    per_epoch = loop.plan.steps_per_epoch(len(loop.data.train))
    rows = [row for row in listener.rows if row["kind"] == "train"]
    assert len(rows) == EPOCHS * per_epoch
    for row in rows:
        factor = Cosine().factor(row["step"], per_epoch, EPOCHS)
        rising = min(1.0, (row["step"] + 1) / (1.6 * per_epoch))
        assert row["rho"] == pytest.approx(RHO * factor * rising, rel=1e-12)


def test_means_of_numbers_that_not_every_step_has() -> None:
    steps = [({"a": torch.tensor(1.0)}, 2), ({"a": torch.tensor(4.0), "b": torch.tensor(7.0)}, 1)]

    def add_all(mean: Mean) -> None:
        for values, examples in steps:
            mean.add(tuple(values), weighted(values, examples))
            mean.count(tuple(values), examples)

    mean, again = Mean(), Mean()
    add_all(mean)
    again.load_state_dict(mean.state_dict(), torch.device("cpu"))
    for means in (mean, again):
        assert means.read() == {"a": pytest.approx(2.0), "b": 7.0}
    kept = mean.state_dict()[0]["sums"]
    mean.reset()
    assert mean.read() == {}
    add_all(mean)
    assert mean.state_dict()[0]["sums"] is kept
    for means in (mean, again):  # what was loaded is a copy
        assert means.read() == {"a": pytest.approx(2.0), "b": 7.0}
