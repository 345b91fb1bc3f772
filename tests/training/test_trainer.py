"""The loop against loops written by hand in plain PyTorch, on a few made-up images."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loops import (
    BATCH,
    DECAY,
    EPOCHS,
    EXAMPLES,
    LR,
    MOMENTUM,
    RHO,
    STEPS,
    Flat,
    Listener,
    Net,
    assert_bitwise,
    assert_same,
    batches,
    by_hand,
    dataset,
    resident,
    sam,
    split,
    trainer,
)
from torch import Tensor, nn

from sam_repro.dataset import Data
from sam_repro.errors import UserError
from sam_repro.optimizer import SGD
from sam_repro.rho_schedule import LikeLR
from sam_repro.schedule import Constant, Cosine
from sam_repro.training import checkpoint
from sam_repro.training.means import Mean, weighted
from sam_repro.training.trainer import NonFinite


@pytest.mark.parametrize("rho", [None, RHO])
@pytest.mark.parametrize("decay_on", ["all", "no_norm_no_bias"])
def test_loop_is_the_one_written_by_hand(tmp_path: Path, rho: float | None, decay_on: str) -> None:
    ours, theirs = Net().double(), Net().double()
    trainer(tmp_path, ours, SGD if rho is None else sam, decay_on=decay_on, data=dataset(validation=7)).run(Listener())
    seen = by_hand(theirs, rho, decay_on)
    assert len(seen) == STEPS
    assert ours.norm.num_batches_tracked == STEPS
    assert_same(ours, theirs, 1e-12)


class Hides(SGD):
    """Keeps the gradient where nobody saves it."""

    kept: Any = None

    def combine(self, g: Any) -> Any:
        self.kept = g
        return super().combine(g)


def test_state_that_nobody_saves_is_refused_after_two_steps(tmp_path: Path) -> None:
    training = trainer(tmp_path, Net().double(), Hides)
    with pytest.raises(UserError, match=r"Hides\.kept: changes during training"):
        training.run(Listener())
    assert training.step == 2


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
