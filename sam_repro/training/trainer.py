"""The loop: one rule, one model, one data set, from step 0 or from a checkpoint to the end."""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sam_repro.dataset import Batch, Data, Raw, Resident, Split
from sam_repro.optimizer import Rule, Terms
from sam_repro.oracle import Branches, Objective
from sam_repro.rho_schedule import Constant, RhoSchedule
from sam_repro.schedule import Schedule
from sam_repro.seeds import derived
from sam_repro.signals import note_signals
from sam_repro.training import checkpoint, evaluation, graphs
from sam_repro.training.clock import Clock
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.training.means import Mean, weighted
from sam_repro.training.order import shuffled
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
        data: what is trained and tested on, on the device.
        plan: the numbers.
        diagnostics: what is told of each step.
        folder: the run's home, where `checkpoint.pt` lies.
        measure: called with the epoch; returns extra values for its row. Must leave the network unchanged.
        rho_schedule: the radius over the run, default constant.

    Attributes:
        no_graph: why a CUDA graph cannot hold the steps; None if it can.

    Raises:
        ValueError: if the plan asks for CUDA graphs of steps that cannot be captured.
    """

    def __init__(
        self,
        objective: Objective,
        rule: Rule,
        schedule: Schedule,
        data: Data,
        plan: Plan,
        diagnostics: Diagnostics,
        folder: Path,
        measure: Callable[[float], Row] = lambda epoch: {},
        rho_schedule: RhoSchedule | None = None,
    ) -> None:
        self.objective = objective
        self.model = objective.model
        self.rule = rule
        self.schedule = schedule
        self.rho_schedule = rho_schedule or Constant()
        self.data = data
        self.plan = plan
        self.diagnostics = diagnostics
        self.path = folder / "checkpoint.pt"
        self.measure = measure
        device = data.train.device
        self.clock = Clock(device)
        self.window, self.epoch_mean = Mean(), Mean()
        self.scores: dict[str, Row | None] = {"last": None, "best": None, "peak": None}
        self.best_weights: dict[str, Tensor] | None = None
        self._caught: Sequence[int] = ()  # signals
        self._generator = torch.Generator(data.train.drawn_on)
        self._rho = None if rule.rho is None else float(rule.rho)
        self._now, self._bad_step = torch.tensor(0, device=device), torch.tensor(-1, device=device)
        self._options = [{k: v for k, v in group.items() if k != "params"} for group in rule.base.param_groups]
        # float32 on a GPU, where the fused kernels read it as that
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        factors = {group.get("lr_factor", 1.0) for group in rule.base.param_groups} | {1.0}
        self._lr = {factor: torch.tensor(plan.lr * factor, dtype=dtype, device=device) for factor in sorted(factors)}
        self._own_options()
        self.no_graph = graphs.obstacle(rule, diagnostics.level)
        self._branches = Branches() if plan.parts == "branches" else None
        self._update: graphs.Update = self._eager_update
        self._forward: graphs.Update = self._eager_forward
        graphs.refuse(plan.needs_graph, rule, diagnostics.level)
        if plan.graph or (plan.graph is None and device.type == "cuda" and not self.no_graph):
            self._replay_steps()

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
            Interrupted: after a signal, with the state saved at a step boundary.
            UserError: if the rule has state that a checkpoint would lose.
        """
        saved = time.monotonic()
        with note_signals() as self._caught, closing(self._steps()) as steps:
            try:
                self._finish_epoch(listener)  # in whose evaluation a signal stopped the run
                for step, raw in steps:
                    self._train_step(step, raw)
                    listener.step(self.step)
                    mark = self.plan.mark(step, len(self.data.train))
                    if mark.records:
                        listener.row(self._window_row(step, mark.epochs))
                    self._finish_epoch(listener)
                    if time.monotonic() - saved >= self.plan.checkpoint_every:
                        self.save(listener.saving())
                        saved = time.monotonic()
                    self._heed()
            except Interrupted:
                self.save(listener.saving())
                raise
        self.rule.refuse_undeclared_state()  # a run that ends before its first checkpoint hears it too

    def _heed(self) -> None:
        if self._caught:
            raise Interrupted(self._caught[0], self.step)

    def _finish_epoch(self, listener: Listener) -> None:
        """Evaluate after the last step of an epoch, unless that has been done."""
        mark = self.plan.mark(self.step - 1, len(self.data.train))
        last = self.scores["last"]
        if self.step and mark.ends_epoch and (last is None or last["test"]["epoch"] != mark.epochs):
            listener.row(self._epoch_row(self.step - 1, mark.epochs))

    def save(self, beside: Row | None = None) -> None:
        """Write the checkpoint; never one with a number that is not finite.

        Args:
            beside: what `resume` can check, default nothing.
        """
        self.clock.stop()
        self._refuse_non_finite()
        checkpoint.write(self.path, self._state() | {"beside": beside})

    def _steps(self) -> Generator[tuple[int, Raw]]:
        """The steps that are left, with what the host has read for each; waiting for it is on the clock."""
        steps = range(self.step, self.plan.steps(len(self.data.train)))
        seeds = (derived(self.plan.seed, "augmentation", step) for step in steps)
        with closing(self.data.train.read(self._rows(steps), seeds)) as raws:
            for step in steps:
                self.clock.start()
                with self.clock.waiting():
                    raw = next(raws)
                yield step, raw

    def _rows(self, steps: range) -> Iterator[Tensor]:
        """The examples of each of these steps."""
        per_epoch = self.plan.steps_per_epoch(len(self.data.train))
        batches: tuple[Tensor, ...] = ()
        for step in steps:
            epoch, within = divmod(step, per_epoch)
            if not within or not batches:
                batches = self._order(epoch).split(self.plan.batch_size)
            yield batches[within]

    def _train_step(self, step: int, raw: Raw) -> None:
        self._set_rates(step)
        self._generator.manual_seed(derived(self.plan.seed, "augmentation", step))
        train = self.data.train
        names = tuple(self._update(step, raw if train.drawn_on == train.device else self._batch(raw)))
        self.rule.steps = step + 1  # a replay counts nothing
        if step == 1:  # a first checkpoint would be late
            self.rule.refuse_undeclared_state()
        for mean in (self.window, self.epoch_mean):
            mean.count(names, len(raw.rows))

    def _batch(self, raw: Raw) -> Batch:
        return self.data.train.batch(raw, self._generator)

    def _eager_update(self, step: int, given: Raw | Batch) -> graphs.Numbers:
        """The new weights from a batch, and what the diagnostics say of the step, which is added to the means.

        A graph may hold all of this: what changes from step to step is read from tensors, but for the step's kind.
        Random numbers that the host draws are none of these: then the batch is made before.
        """
        numbers: graphs.Numbers = {}
        inputs, targets, rows = given if isinstance(given, Batch) else self._batch(given)
        heaviest = targets if targets.dim() == 1 else targets.argmax(dim=1)  # of mixed targets

        def look(seen: Terms) -> None:
            numbers.update(self.diagnostics(step, seen, heaviest, self.rule.params))

        size = len(targets)
        part = None if self.plan.m is None else min(self.plan.m, size)
        oracle = self.objective(inputs, targets, self._noise(step), rows)
        pieces = oracle.split(min(self.plan.micro_batch or size, size)) if part is None else [oracle]
        loss = self.rule.backward(*pieces, m=part, observe=look, branches=self._branches)
        self._finish_gradient(loss)
        self.rule.update()
        sums = weighted(numbers, size)
        for mean in (self.window, self.epoch_mean):
            mean.add(tuple(numbers), sums)
        return numbers

    def _eager_forward(self, _: int, batch: Batch) -> graphs.Numbers:
        return {"outputs": self.model(batch.inputs).float()}

    def _replay_steps(self) -> None:
        """Let steps, and the forwards of evaluations, be captured and replayed."""
        for group in self._options:
            if "capturable" in group:
                group["capturable"] = True  # for a fused base a permission, and no other kernel
        self._own_options()
        replayed = partial(
            graphs.Replayed, objective=self.objective, device=self.data.train.device, needs=self.plan.needs_graph
        )
        drawn_from = [self._generator] if self._generator.device == self.data.train.device else []
        self._update = replayed(self._eager_update, self._kind, self._noise, generators=drawn_from)
        self._forward = replayed(self._eager_forward, lambda _: "evaluation", lambda _: 0)

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
            self.rule.rho.fill_(self.rho_schedule.radius(self._rho, step, per_epoch, factor))

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
        seed = derived(self.plan.seed, "order", epoch)
        return shuffled(len(self.data.train), seed, self.plan.shuffle_buffer).to(self.data.train.drawn_on)

    def _window_row(self, step: int, epoch: float) -> Row:
        self.clock.stop()
        self._refuse_non_finite()
        rates = {"lr": float(self._lr[1.0])} | ({} if self.rule.rho is None else {"rho": float(self.rule.rho)})
        means = self.window.read()
        self.window.reset()
        return {"kind": "train", "step": step, "epoch": epoch} | rates | _named("train", means)

    def _epoch_row(self, step: int, epoch: float) -> Row:
        """Evaluate, and keep the best weights."""
        self.clock.stop()
        self._refuse_non_finite()
        validation = self._scores_of(self.data.validation, step) if self.data.validation else None
        test = self._scores_of(self.data.test) | {"epoch": epoch}
        scores = {"train": self.epoch_mean.read(), "validation": validation, "test": test}
        self.epoch_mean.reset()
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
        if not isinstance(self.data.train, Resident):
            row["waiting_seconds"] = self.clock.waited
        row |= _named("epoch", scores["train"]) | _named("validation", validation) | _named("test", test)
        return row | self.measure(epoch)

    def _scores_of(self, split: Split, augmented_at: int | None = None) -> dict[str, float]:
        seed = None
        if augmented_at is not None and self.data.validation_augmented:
            seed = derived(self.plan.seed, "validation", augmented_at)

        def forward(batch: Batch) -> Tensor:
            self._heed()
            return self._forward(self.step, batch)["outputs"]

        logits = evaluation.outputs(self.model, split, self.objective.autocast, seed, forward)
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
            "waiting_seconds": self.clock.waited,
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
        self.clock.waited = state.get("waiting_seconds", 0.0)  # a checkpoint from before has none
        self.window.load_state_dict(state["window"], self.data.train.device)
        self.epoch_mean.load_state_dict(state["epoch_mean"], self.data.train.device)
        self.diagnostics.load_state_dict(state["diagnostics"])
        self.scores = state["scores"]
        self.best_weights = state["best_weights"]


def _named(part: str, values: Row | None) -> Row:
    return {f"{part}/{name}": value for name, value in (values or {}).items() if name != "epoch"}
