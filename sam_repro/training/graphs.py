"""Whole steps as CUDA graphs: each kind of step is recorded once, and from then on replayed in one launch.

The first steps of each kind run eagerly: they are steps of the run, and make what has to stand before a capture, such
as momentum buffers, the rule's own, and the choice of kernels. A batch of another size is a kind of its own. A replay
reads and writes the memory of the capture: weights, statistics, momentum, sums, learning rate and radius are tensors
that stay where they are, and what is given to the step, such as the numbers of its examples, is copied to its place.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sam_repro import seeds
from sam_repro.dataset import Batch, Raw
from sam_repro.errors import UserError
from sam_repro.optimizer import Rule
from sam_repro.oracle import Objective, Reseed

Given = TypeVar("Given", Raw, Batch)
Numbers = dict[str, Tensor]
Update = Callable[[int, Any], Numbers]
"""(step, what is given to it: a `Raw` or a `Batch`) → what it tells."""

WARM_UP = 3
"""Eager steps of a kind before its capture."""
WAITED = "called a synchronizing CUDA operation"
"""What torch's warning says where the host waits for the device."""


def obstacle(rule: Rule, diagnostics: str) -> str | None:
    """Why a graph cannot hold the steps of a run; None if it can.

    Args:
        rule: what turns a batch into a gradient.
        diagnostics: level of what is told of a step.
    """
    if not rule.capturable:
        return f"the steps of {type(rule).__name__} cannot be captured"
    if not all(group.get("fused") for group in rule.base.param_groups):
        return "needs a base that is fused, because others read the learning rate on the host, as fused SGD does not"
    if diagnostics == "drift":
        return "diagnostics = drift keeps other vectors in every step; choose standard or loss"
    return None


def refuse(needs: str | None, rule: Rule, diagnostics: str) -> None:
    """Refuse what needs a graph, such as `graph = true`, where there is an `obstacle`.

    Raises:
        ValueError: naming it.
    """
    if needs and (why := obstacle(rule, diagnostics)):
        raise ValueError(f"{needs}: {why}; or leave {needs.split()[0]} out")


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
        generators: others that the step draws from; the caller seeds them before a replay as before an eager step.
    """

    def __init__(
        self,
        update: Callable[[], Numbers],
        objective: Objective,
        seedings: int,
        pool: Any,
        device: torch.device,
        generators: Sequence[torch.Generator],
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._states = [torch.Generator(device) for _ in range(seedings)]
        for state in (*self._states, *generators):
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

    place: Any  # where a replay finds what is given to the step
    runs: int = 0
    noises: list[int] = field(default_factory=list)  # of its passes, counted from the noise of the step
    graph: Graph | None = None


class Replayed:
    """Stands for an update: runs it eagerly at first, then captures it once for each kind of step and replays it.

    Args:
        update: (step, given) → what the step tells. Besides `given` it reads what changes from step to step from
            tensors that stay, and of `step` nothing but the kind.
        kind: step → what kind it is of; steps of one kind, given the same shapes, do the same operations.
        noise: step → the noise of its batch.
        objective: what seeds the noise of the update's passes.
        device: where the step runs.
        generators: what else it draws from, on the device; seeded by the caller before each call.
        needs: what is refused if a step cannot be captured, such as `graph = true`; None lets such a step run eagerly,
            and a warning says why.

    Memory: what the largest kind of step needs, kept, and what is given to it.
    """

    def __init__(
        self,
        update: Update,
        kind: Callable[[int], Hashable],
        noise: Callable[[int], int],
        objective: Objective,
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
        needs: str | None = "graph = true",
    ) -> None:
        self.update = update
        self.kind = kind
        self.noise = noise
        self.objective = objective
        self.device = device
        self.generators = generators
        self.needs = needs
        self._kinds: dict[Hashable, _Kind] = {}
        self._pool: Any = None
        self._is_eager = False

    def __call__(self, step: int, given: Given) -> Numbers:
        """The update; the numbers that it returns are valid until the next call.

        Raises:
            UserError: if the host waits for the device within the step, and graphs are wanted.
        """
        if self._is_eager:
            return self.update(step, given)
        shapes = tuple(None if x is None else x.shape for x in given)
        kind = self._kinds.setdefault((self.kind(step), shapes), _Kind(None))
        if kind.runs < WARM_UP:
            return self._warm_up(kind, step, given)
        kind.place = _put(kind.place, given)
        if kind.graph is None:
            kind.graph = self._capture(kind, step)
        start = self.noise(step)
        return kind.graph.replay([seeds.of_noise(start + noise) for noise in kind.noises])

    def _warm_up(self, kind: _Kind, step: int, given: Given) -> Numbers:
        kind.runs += 1
        kind.noises = []
        note = seeding(self.objective, by=partial(_note, kind.noises, self.noise(step), self.objective.reseed))
        with waits(self.device) as waited, note:
            numbers = self.update(step, given)
        if waited and kind.runs == WARM_UP:  # what is made once, such as a table of constants, is made by now
            self._refuse(f"a step waits for the device at {waited[0]}, which a graph cannot hold")
        return numbers

    def _capture(self, kind: _Kind, step: int) -> Graph:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        update = partial(self.update, step, kind.place)
        return Graph(update, self.objective, len(kind.noises), self._pool, self.device, self.generators)

    def _refuse(self, why: str) -> None:
        if self.needs:
            raise UserError(f"{self.needs}: {why}; leave {self.needs.split()[0]} out, or do without the wait")
        warnings.warn(f"graph = auto: {why}; steps run eagerly, which is slower", stacklevel=4)
        self._is_eager = True


@contextmanager
def seeding(objective: Objective, by: Reseed) -> Iterator[None]:
    """Inside the block the objective's passes seed their noise with `by`."""
    before, objective.reseed = objective.reseed, by
    try:
        yield
    finally:
        objective.reseed = before


@contextmanager
def waits(device: torch.device) -> Iterator[list[str]]:
    """The places, file and line, at which the host waits for the device inside the block; known after it."""
    places: list[str] = []
    if device.type != "cuda":
        yield places
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        if WAITED in str(warning.message):
            places.append(f"{Path(warning.filename).name}:{warning.lineno}")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _put(place: Given | None, given: Given) -> Given:
    """What is given, in tensors that stay: those of `place`, or new ones."""
    if place is None:
        return type(given)(*(None if x is None else x.clone() for x in given))  # type: ignore[arg-type]
    for kept, x in zip(place, given, strict=True):
        if kept is not None and x is not None:
            kept.copy_(x)
    return place


def _note(noises: list[int], start: int, reseed: Reseed, noise: int, device: torch.device) -> None:
    noises.append(noise - start)
    reseed(noise, device)
