"""The loop: one rule, one model, one data set, from step 0 or from a checkpoint to the end."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sam_repro.augmentation import Augmentation
from sam_repro.dataset import Data, Split
from sam_repro.optimizer import Rule, Terms
from sam_repro.oracle import Objective
from sam_repro.schedule import Schedule
from sam_repro.seeds import derived
from sam_repro.training import checkpoint, evaluation, graphs
from sam_repro.training.clock import Clock, caught_signals
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.training.means import Mean
from sam_repro.training.plan import Plan
from sam_repro.vectors import norm, ratio

Row = dict[str, Any]


class NonFinite(ArithmeticError):
    """The loss, the gradient or the update of a step, or the loss of an evaluation after it, was not finite."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"the {what} of step {step} is not finite")
        self.step = step


class Interrupted(Exception):
    """A signal came; the state is saved at a step boundary."""

    def __init__(self, signal: int, steps: int) -> None:
        super().__init__(f"signal {signal} after {steps} steps")
        self.signal = signal
        self.steps = steps


class Listener(Protocol):
    """Is told what happens in a run."""

    def step(self, done: int) -> None:
        """So many steps are done."""

    def row(self, row: Row) -> None:
        """A row of the record: of kind "train" every `record_every` steps, of kind "epoch" after each epoch."""

    def saving(self) -> Row:
        """A checkpoint that counts on the rows so far is about to be written; returns what it keeps with the state."""


class Trainer:
    """Trains a model in place and keeps its record; a checkpoint in `folder` is taken up.

    Everything random is a function of (seed, epoch, step, part): no generator state is kept, and any step can be
    repeated.

    Args:
        objective: the loss of the model.
        rule: batch → gradient, with its base optimizer.
        schedule: factor on the learning rate.
        data: train, validation and test images on the device.
        augmentation: uint8 images → normalised float images.
        plan: the numbers.
        diagnostics: what is told of each step.
        folder: the run's home, where `checkpoint.pt` lies.
        measure: called with the epoch; returns extra values for its row. Must leave the network unchanged.

    Raises:
        ValueError: if the plan asks for CUDA graphs of steps that cannot be captured.
    """

    def __init__(
        self,
        objective: Objective,
        rule: Rule,
        schedule: Schedule,
        data: Data,
        augmentation: Augmentation,
        plan: Plan,
        diagnostics: Diagnostics,
        folder: Path,
        measure: Callable[[float], Row] = lambda epoch: {},
    ) -> None:
        self.objective = objective
        self.model = objective.model
        self.rule = rule
        self.schedule = schedule
        self.data = data
        self.augmentation = augmentation
        self.plan = plan
        self.diagnostics = diagnostics
        self.path = folder / "checkpoint.pt"
        self.measure = measure
        device = data.train.images.device
        self.clock = Clock(device)
        self.window, self.epoch_mean = Mean(), Mean()
        self.scores: dict[str, Row | None] = {"last": None, "best": None, "peak": None}
        self.best_weights: dict[str, Tensor] | None = None
        self._generator = torch.Generator(device)
        self._rho = None if rule.rho is None else float(rule.rho)
        self._now, self._bad_step = torch.tensor(0, device=device), torch.tensor(-1, device=device)
        self._options = [{k: v for k, v in group.items() if k != "params"} for group in rule.base.param_groups]
        # float32 on a GPU, where the fused kernels read it as that
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        factors = {group.get("lr_factor", 1.0) for group in rule.base.param_groups} | {1.0}
        self._lr = {factor: torch.tensor(plan.lr * factor, dtype=dtype, device=device) for factor in sorted(factors)}
        self._own_options()
        self._update: graphs.Update = self._eager_update
        if plan.graph:
            graphs.refuse(rule, diagnostics.level)
            self._update = graphs.Replayed(self._eager_update, self._kind, self._noise, objective, plan.batch_size)

    @property
    def step(self) -> int:
        """Steps done."""
        return self.rule.steps

    def resume(self, check: Callable[[Row], None] = lambda beside: None) -> int:
        """Take up the checkpoint, if there is one; returns the steps done.

        Args:
            check: is called with what the checkpoint keeps beside the state, before any of it is taken up.
        """
        if self.path.exists():
            state = checkpoint.read(self.path)
            check(state["beside"])
            self._load(state)
        return self.step

    def run(self, listener: Listener) -> None:
        """Train to the end.

        Args:
            listener: is told what happens.

        Raises:
            NonFinite: if a loss, a gradient or the weights are not finite; the last checkpoint stays.
            Interrupted: after SIGINT or SIGTERM, with the state saved at a step boundary.
            UserError: if the rule has state that a checkpoint would lose.
        """
        plan, examples = self.plan, len(self.data.train)
        per_epoch, total = plan.steps_per_epoch(examples), plan.steps(examples)
        saved = time.monotonic()
        with caught_signals() as caught:
            while self.step < total:
                epoch, within = divmod(self.step, per_epoch)
                order = self._order(epoch)
                for rows in order.split(plan.batch_size)[within:per_epoch]:
                    step = self.step
                    self._train_step(step, rows)
                    listener.step(self.step)
                    ends_epoch = self.step % per_epoch == 0 or self.step == total
                    epochs_done = self.step // per_epoch if self.step % per_epoch == 0 else self.step / per_epoch
                    if plan.record_every and (self.step % plan.record_every == 0 or ends_epoch):
                        listener.row(self._window_row(step, epochs_done))
                    if ends_epoch:
                        listener.row(self._epoch_row(step, epochs_done))
                    if caught or time.monotonic() - saved >= plan.checkpoint_every:
                        self.save(listener.saving())
                        saved = time.monotonic()
                    if caught:
                        raise Interrupted(caught[0], self.step)
                    if self.step == total:
                        break
        self.rule.refuse_undeclared_state()  # a run that ends before its first checkpoint hears it too

    def save(self, beside: Row | None = None) -> None:
        """Write the checkpoint; never one with a number that is not finite.

        Args:
            beside: what `resume` can check, default nothing.
        """
        self.clock.stop()
        self._refuse_non_finite()
        checkpoint.write(self.path, self._state() | {"beside": beside})

    def _train_step(self, step: int, rows: Tensor) -> None:
        self.clock.start()
        self._set_rates(step)
        self._generator.manual_seed(derived(self.plan.seed, "augmentation", step))
        train = self.data.train
        images = self.augmentation(train.images.index_select(0, rows), self._generator)
        numbers = self._update(step, images, train.labels.index_select(0, rows))
        self.rule.steps += 1
        for mean in (self.window, self.epoch_mean):
            mean.add(numbers, len(rows))

    def _eager_update(self, step: int, images: Tensor, labels: Tensor) -> graphs.Numbers:
        """The new weights from a batch, and what the diagnostics say of the step.

        A graph may hold all of this: what changes from step to step is read from tensors, but for the step's kind.
        """
        numbers: graphs.Numbers = {}

        def look(seen: Terms) -> None:
            numbers.update(self.diagnostics(step, seen, labels, self.rule.params))

        part = None if self.plan.m is None else min(self.plan.m, len(labels))
        batch = self.objective(images, labels, self._noise(step))
        pieces = batch.split(min(self.plan.micro_batch or len(labels), len(labels))) if part is None else [batch]
        loss = self.rule.backward(*pieces, m=part, observe=look)
        self._finish_gradient(loss)
        self.rule.update()
        return numbers

    def _noise(self, step: int) -> int:
        """The seed of what the passes of a step draw."""
        return derived(self.plan.seed, "noise", step)

    def _kind(self, step: int) -> tuple[str, bool]:
        """Steps of one kind do the same operations."""
        return self.rule.phase(step), self.diagnostics.closely(step)

    def _set_rates(self, step: int) -> None:
        """Write number, learning rate and radius of the step into the tensors that it reads."""
        self._now.fill_(step)
        per_epoch = self.plan.steps_per_epoch(len(self.data.train))
        factor = self.schedule.factor(step, per_epoch, self.plan.epochs)
        for of_group, lr in self._lr.items():
            lr.fill_(self.plan.lr * factor * of_group)
        if self.rule.rho is not None and self._rho is not None:
            warmup = round(self.plan.rho_warmup_epochs * per_epoch)
            rising = (step + 1) / warmup if step < warmup else 1.0
            self.rule.rho.fill_(self._rho * rising * (factor if self.plan.rho_follows == "lr" else 1.0))

    @torch.no_grad()
    def _finish_gradient(self, loss: Tensor) -> None:
        """Clip, and remember the first step whose numbers are not finite; nothing is read by the host here."""
        gradient = [p.grad for p in self.rule.params if p.grad is not None]
        length = norm(gradient)
        if self.plan.clip_norm is not None:
            factor = ratio(torch.full_like(length, self.plan.clip_norm), length).clamp(max=1.0)
            torch._foreach_mul_(gradient, factor.to(gradient[0].dtype))
        bad = ~(torch.isfinite(length) & torch.isfinite(loss))
        self._bad_step.copy_(torch.where(bad & (self._bad_step < 0), self._now, self._bad_step))

    def _order(self, epoch: int) -> Tensor:
        """The epoch's order of the examples, the same on every device."""
        generator = torch.Generator().manual_seed(derived(self.plan.seed, "order", epoch))
        return torch.randperm(len(self.data.train), generator=generator).to(self.data.train.images.device)

    def _window_row(self, step: int, epoch: float) -> Row:
        self.clock.stop()
        self._refuse_non_finite()
        rates = {"lr": float(self._lr[1.0])} | ({} if self.rule.rho is None else {"rho": float(self.rule.rho)})
        means = self.window.read()
        self.window = Mean()
        return {"kind": "train", "step": step, "epoch": epoch} | rates | _named("train", means)

    def _epoch_row(self, step: int, epoch: float) -> Row:
        """Evaluate, and keep the best weights."""
        self.clock.stop()
        self._refuse_non_finite()
        validation = self._scores_of(self.data.validation, step) if self.data.validation else None
        test = self._scores_of(self.data.test) | {"epoch": epoch}
        scores = {"train": self.epoch_mean.read(), "validation": validation, "test": test}
        self.epoch_mean = Mean()
        self.scores["last"] = scores
        if self.scores["peak"] is None or test["error_pct"] < self.scores["peak"]["error_pct"]:
            self.scores["peak"] = test
        if validation:
            validation["epoch"] = epoch
            best = self.scores["best"]
            if best is None or validation["error_pct"] < best["validation"]["error_pct"]:
                self.scores["best"] = {"validation": validation, "test": test}
                self.best_weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        row = {"kind": "epoch", "step": step, "epoch": epoch, "seconds": self.clock.seconds}
        row |= _named("epoch", scores["train"]) | _named("validation", validation) | _named("test", test)
        return row | self.measure(epoch)

    def _scores_of(self, split: Split, augmented_at: int | None = None) -> dict[str, float]:
        transform: Callable[[Tensor], Tensor] = self.augmentation.normalise
        if augmented_at is not None and self.data.validation_augmented:
            self._generator.manual_seed(derived(self.plan.seed, "validation", augmented_at))
            transform = lambda images: self.augmentation(images, self._generator)  # noqa: E731
        logits = evaluation.outputs(self.model, split.images, transform, self.objective.autocast)
        scores = evaluation.scores(logits, split.labels)
        if not math.isfinite(scores["loss"]):
            raise NonFinite("evaluation", self.step - 1)
        return scores

    def _refuse_non_finite(self) -> None:
        if (step := int(self._bad_step)) >= 0:
            raise NonFinite("loss or the gradient", step)
        weights = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        if not norm(weights).isfinite():
            raise NonFinite("update", self.step - 1)

    def _own_options(self) -> None:
        """The groups' options are the configuration's, and the rate is the trainer's own tensor.

        A loaded state replaces both.
        """
        for group, options in zip(self.rule.base.param_groups, self._options, strict=True):
            group.update(options, lr=self._lr[group.get("lr_factor", 1.0)])

    def _state(self) -> Row:
        return {
            "model": self.model.state_dict(),
            "rule": self.rule.state_dict(),
            "seconds": self.clock.seconds,
            "window": self.window.state_dict(),
            "epoch_mean": self.epoch_mean.state_dict(),
            "diagnostics": self.diagnostics.state_dict(),
            "scores": self.scores,
            "best_weights": self.best_weights,
        }

    def _load(self, state: Row) -> None:
        self.model.load_state_dict(state["model"])
        self.rule.load_state_dict(state["rule"])
        self._own_options()
        self.clock.seconds = state["seconds"]
        self.window.load_state_dict(state["window"])
        self.epoch_mean.load_state_dict(state["epoch_mean"])
        self.diagnostics.load_state_dict(state["diagnostics"])
        self.scores = state["scores"]
        self.best_weights = state["best_weights"]


def _named(part: str, values: Row | None) -> Row:
    return {f"{part}/{name}": value for name, value in (values or {}).items() if name != "epoch"}
