"""What every measure shares: what is measured, on which examples, and what must be said about it."""

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sam_repro import limits, seeds
from sam_repro.dataset import Split
from sam_repro.oracle import Criterion
from sam_repro.sharpness.curvature import MODES, Batch, Curvature, undisturbed
from sam_repro.sharpness.lanczos import Spectrum, top
from sam_repro.sharpness.measurement import Measurement, Unmeasurable
from sam_repro.sharpness.notes import Notes


@dataclass(frozen=True)
class Subject:
    """A network at its weights, with the data that it was trained on.

    Args:
        model: the network; it is left bitwise as it was.
        criterion: (outputs [B, …], targets [B]) → mean loss, without weight decay.
        split: the training examples.
        facts: what the protocol says of all this: data, split, augmentation, loss, label_smoothing, weight_decay,
            checkpoint, weights_sha256.
        rho: the radius of the run; None where it has none.
    """

    model: nn.Module
    criterion: Criterion
    split: Split
    facts: dict[str, Any]
    rho: float | None = None

    def rows(self, seed: int) -> Tensor:
        """All examples in an order of their own for each seed, the same on every device."""
        return torch.randperm(len(self.split), generator=generator(seed, "cpu")).to(self.split.drawn_on)

    def sample(self, examples: int, batch_size: int, seed: int) -> list[Batch]:
        """The first examples of that order in batches, normalised and not augmented."""
        parts = self.rows(seed)[:examples].split(batch_size)
        return [self.split.batch(raw)[:2] for raw in self.split.read(parts)]

    def radius(self, rho: float | None) -> float:
        """The radius asked for, or else the run's.

        Raises:
            Unmeasurable: if there is neither.
        """
        if not (chosen := self.rho if rho is None else rho):
            raise Unmeasurable("the run has no rho; give a radius, such as sharpness.rho=0.05")
        return chosen


class Measure(ABC):
    """A measure of sharpness (abstract): built of its settings, which it validates, and called on a subject."""

    def refuse(self, model: nn.Module) -> None:  # noqa: B027
        """Refuse a network that has no such number, whatever its weights; by default none is refused.

        Raises:
            ValueError: if there is no such number; it names the setting.
        """

    @abstractmethod
    def __call__(self, subject: Subject, notes: Notes) -> Measurement:
        """Measure. What takes long is done in pieces of `notes`.

        Raises:
            Unmeasurable: if there is no such number for this subject.
        """


@dataclass(frozen=True, kw_only=True)
class OnSample(Measure):
    """A measure on a fixed sample of the training set, without augmentation (abstract).

    Args:
        examples: of the training set, drawn by `seed`; all, where there are fewer. Default 256.
        batch_size: examples at a time, default 128: memory alone in eval mode; in train mode the batches of batch norm.
        mode: "eval" (default: running statistics, no dropout) or "train".
        parameters: a pattern (regular expression, found anywhere in the name) of the parameters that are weights here,
            the others stand still; default None, all.
        seed: of the sample and of random vectors, in [0, 2³²); default 0.

    Raises:
        ValueError: if an argument is outside of what is said here.
    """

    examples: int = 256
    batch_size: int = 128
    mode: str = "eval"
    parameters: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        limits.integer("examples", self.examples, low=1)
        limits.integer("batch_size", self.batch_size, low=1)
        limits.choice("mode", self.mode, MODES)
        limits.seed("seed", self.seed)
        limits.pattern("parameters", self.parameters)

    def refuse(self, model: nn.Module) -> None:
        """Refuse a network of which the pattern chooses no parameter."""
        if not chosen(model, self.parameters):
            names = [name for name, p in model.named_parameters() if p.requires_grad]
            there = f"there are {len(names)}, such as {', '.join(names[:3])}" if names else "none is trained"
            raise ValueError(f"parameters = {limits.shown(self.parameters)}: is in no parameter's name; {there}")

    @contextmanager
    def curvature(self, subject: Subject) -> Iterator[Curvature]:
        """The loss of the sample; inside the block the network is in the mode of the measure."""
        with undisturbed(subject.model, self.mode):
            batches = subject.sample(self.examples, self.batch_size, self.seed)
            yield Curvature(subject.model, subject.criterion, batches, params=chosen(subject.model, self.parameters))

    def protocol(self, subject: Subject, curvature: Curvature, **own: Any) -> dict[str, Any]:
        """What every such measure says, and what this one adds."""
        return subject.facts | {
            "augmentation": "none",
            "examples": curvature.examples,
            "batch_size": min(self.batch_size, curvature.examples),
            "mode": self.mode,
            "parameters": self.parameters or "all",
            "weights": curvature.size,
            "dtype": str(curvature.dtype).removeprefix("torch."),
            "seed": self.seed,
            **own,
        }

    def gaussian(self, curvature: Curvature) -> Callable[[], Tensor]:
        """Draws vectors [N] of independent normal numbers, the same on every device."""
        draws = generator(self.seed, "cpu")
        return lambda: torch.randn(curvature.size, generator=draws).to(curvature.params[0])

    def signs(self, curvature: Curvature) -> Callable[[], Tensor]:
        """Draws vectors [N] of independent signs, the same on every device."""
        draws = generator(self.seed, "cpu")
        return lambda: torch.randint(2, (curvature.size,), generator=draws).mul_(2).sub_(1).to(curvature.params[0])


@dataclass(frozen=True, kw_only=True)
class ByLanczos(OnSample):
    """A measure of the algebraically largest eigenvalues of the Hessian of the mean loss of a sample (abstract).

    Args:
        tolerance: relative residual ‖Hv − λv‖/|λ| at which an eigenvalue has converged, default 1e-3.
        max_products: budget of Hessian products over the sample, default 400; memory grows by a vector with each.
    """

    tolerance: float = 1e-3
    max_products: int = 400

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.number("tolerance", self.tolerance, above=0)
        limits.count("max_products", self.max_products)

    def top(self, curvature: Curvature, count: int, notes: Notes) -> Spectrum:
        """The `count` largest, from the top; the notes are told of each product."""
        random, number = self.gaussian(curvature), itertools.count(1)

        def product(v: Tensor) -> Tensor:
            image = curvature.hvp(v)
            notes.say(next(number), self.max_products, at_most=True)
            return image

        return top(product, random, count, tolerance=self.tolerance, max_products=self.max_products)

    def solved(self, subject: Subject, curvature: Curvature, spectrum: Spectrum, **own: Any) -> dict[str, Any]:
        """The protocol, with how the eigenvalues were had."""
        return self.protocol(
            subject,
            curvature,
            solver="lanczos",
            order="algebraic",
            tolerance=self.tolerance,
            max_products=self.max_products,
            outcome=spectrum.outcome(),
            **own,
        )


def chosen(model: nn.Module, pattern: str | None) -> list[Tensor]:
    """The parameters that require a gradient and whose name has the pattern somewhere; None is all of them."""
    named = model.named_parameters()
    return [p for name, p in named if p.requires_grad and (pattern is None or re.search(pattern, name))]


def generator(seed: int, device: torch.device | str, *place: int) -> Generator:
    """Random numbers that are a function of the seed and a place."""
    return Generator(device).manual_seed(seeds.of_measure(seed, *place))


def named(spectrum: Spectrum, names: list[str]) -> dict[str, float]:
    """Eigenvalues by name; what has not converged, or may have one above it that was missed, is marked in its name."""
    trusted = [done and (spectrum.searched or i == 0) for i, done in enumerate(spectrum.converged)]
    told = zip(names, spectrum.values, trusted, strict=False)  # of a small budget there are fewer values
    return {name if right else f"{name}_unconverged": value for name, value, right in told}
