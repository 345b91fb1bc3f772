"""Whole steps as CUDA graphs: each kind of step is recorded once, and from then on replayed in one launch.

The first steps of each kind run eagerly: they are steps of the run, and make what has to stand before a capture, such
as momentum buffers, the rule's own, and the choice of kernels. A batch of another size than the rest, an epoch's last
one, runs eagerly too. A replay reads and writes the memory of the capture: weights, statistics, momentum, learning rate
and radius are tensors that stay where they are, and the batch is copied to its place.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sam_repro import seeds
from sam_repro.dataset import Batch
from sam_repro.optimizer import Rule
from sam_repro.oracle import Objective, Reseed

Numbers = dict[str, Tensor]
Update = Callable[[int, Batch], Numbers]

WARM_UP = 3
"""Eager steps of a kind before its capture."""


def refuse(rule: Rule, diagnostics: str) -> None:
    """Refuse steps that a graph cannot hold.

    Args:
        rule: what turns a batch into a gradient.
        diagnostics: level of what is told of a step.

    Raises:
        ValueError: if the rule's steps cannot be captured, if the base reads its learning rate or counts its steps on
            the host, or if the diagnostics keep vectors from step to step.
    """
    if not rule.capturable:
        raise ValueError(f"graph = true: the steps of {type(rule).__name__} cannot be captured; leave graph out")
    for group in rule.base.param_groups:
        if not group.get("fused") or not group.get("capturable", True):
            raise ValueError(
                "graph = true: needs a base that is fused, and capturable if it has that flag, as fused SGD"
            )
    if diagnostics == "drift":
        raise ValueError("graph = true: diagnostics = drift keeps other vectors in every step; choose standard or loss")


class Graph:
    """One captured step.

    A graph records random kernels but not seeds. Every reseed inside the step therefore gets its own generator state,
    and `replay` seeds these states as the eager step would seed the default generator.

    Args:
        update: the step; it reads and writes memory that stays.
        objective: what seeds the noise.
        seedings: how often it does so in this step.
        pool: memory that several graphs share, as `torch.cuda.graph_pool_handle` gives it.
        device: the GPU.
    """

    def __init__(
        self, update: Callable[[], Numbers], objective: Objective, seedings: int, pool: Any, device: torch.device
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._states = [torch.Generator(device) for _ in range(seedings)]
        for state in self._states:
            self._graph.register_generator_state(state)
        with torch.cuda.device(device):
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            own, left = generator.graphsafe_get_state(), iter(self._states)
            turn = seeding(objective, by=lambda *_: generator.graphsafe_set_state(next(left)))
            try:
                with turn, torch.cuda.graph(self._graph, pool=pool):
                    self._numbers = update()
            finally:
                generator.graphsafe_set_state(own)

    def replay(self, seeds: list[int]) -> Numbers:
        """Do the step.

        Args:
            seeds: one for each time that the step seeds its noise.

        Returns:
            What the step tells; the next replay writes over it.
        """
        for state, seed in zip(self._states, seeds, strict=True):
            state.manual_seed(seed)
        self._graph.replay()
        return self._numbers


@dataclass
class _Kind:
    """What is known of one kind of step."""

    runs: int = 0
    noises: list[int] = field(default_factory=list)  # of its passes, counted from the noise of the step
    graph: Graph | None = None


class Replayed:
    """Stands for an update: runs it eagerly at first, then captures it once for each kind of step and replays it.

    Args:
        update: (step, batch) → what the step tells. Besides the batch it reads what changes from step to step from
            tensors that stay, and of `step` nothing but the kind.
        kind: step → what kind it is of; steps of one kind do the same operations.
        noise: step → the noise of its batch.
        objective: what seeds the noise of the update's passes.
        batch_size: B; a batch of another size is not captured.

    Memory: what the largest kind of step needs, kept, and one batch.
    """

    def __init__(
        self,
        update: Update,
        kind: Callable[[int], Hashable],
        noise: Callable[[int], int],
        objective: Objective,
        batch_size: int,
    ) -> None:
        self.update = update
        self.kind = kind
        self.noise = noise
        self.objective = objective
        self.batch_size = batch_size
        self._kinds: dict[Hashable, _Kind] = {}
        self._batch: Batch | None = None
        self._pool: Any = None

    def __call__(self, step: int, batch: Batch) -> Numbers:
        """The update; the numbers that it returns are valid until the next call."""
        if len(batch.rows) != self.batch_size:
            return self.update(step, batch)
        kind = self._kinds.setdefault(self.kind(step), _Kind())
        start = self.noise(step)
        if kind.runs < WARM_UP:
            kind.runs += 1
            kind.noises = []
            with seeding(self.objective, by=partial(_noted, kind.noises, start, self.objective.reseed)):
                return self.update(step, batch)
        self._put(batch)
        if kind.graph is None:
            kind.graph = self._captured(step, len(kind.noises))
        return kind.graph.replay([seeds.of_noise(start + noise) for noise in kind.noises])

    def _put(self, batch: Batch) -> None:
        if self._batch is None:
            self._batch = Batch(*map(torch.empty_like, batch))
        for place, value in zip(self._batch, batch, strict=True):
            place.copy_(value)

    def _captured(self, step: int, seedings: int) -> Graph:
        assert self._batch is not None
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        device = self._batch.inputs.device
        return Graph(partial(self.update, step, self._batch), self.objective, seedings, self._pool, device)


@contextmanager
def seeding(objective: Objective, by: Reseed) -> Iterator[None]:
    """Inside the block the objective's passes seed their noise with `by`."""
    before, objective.reseed = objective.reseed, by
    try:
        yield
    finally:
        objective.reseed = before


def _noted(noises: list[int], start: int, reseed: Reseed, noise: int, device: torch.device) -> None:
    noises.append(noise - start)
    reseed(noise, device)
