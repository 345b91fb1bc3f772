"""The numbers of a loop."""

from dataclasses import dataclass
from typing import NamedTuple

from sam_repro import limits


class Mark(NamedTuple):
    """What is due after a step.

    Args:
        epochs: how many are done, counted from the start of the run.
        ends_epoch: whether the step is the last one of its epoch, or of the run.
        records: whether the record gets a row.
    """

    epochs: float
    ends_epoch: bool
    records: bool


@dataclass(frozen=True)
class Plan:
    """The numbers of a loop.

    Args:
        seed: of order, augmentation and noise.
        epochs: length of the schedule.
        batch_size: examples in a batch.
        lr: learning rate, before the schedule's factor.
        m: examples that share one perturbation, default the batch.
        clip_norm: largest norm of the averaged final gradient, default no clipping.
        drop_last: leave out an epoch's last batch if it is smaller.
        max_steps: stop after so many steps, default never; the schedule stays that of `epochs`.
        record_every: steps between rows of the record, default 10; None for rows per epoch only.
        checkpoint_every: seconds between checkpoints, default 60; 0 for one after every step.
        micro_batch: examples that go through the network at once, default the batch: less memory, the same step.
        graph: replay whole steps as CUDA graphs; None (default): on a GPU, if a graph can hold them.
        parts: how the parts of `m` examples are worked on: in "sequence" (default), or side by side as "branches" of a
            CUDA graph, see `Branches`.
        shuffle_buffer: examples from which the next one of an epoch is drawn, default all: see `order.shuffled`.
    """

    seed: int
    epochs: int
    batch_size: int
    lr: float
    m: int | None = None
    clip_norm: float | None = None
    drop_last: bool = False
    max_steps: int | None = None
    record_every: int | None = 10
    checkpoint_every: float = 60.0
    micro_batch: int | None = None
    graph: bool | None = None
    parts: str = "sequence"
    shuffle_buffer: int | None = None

    def __post_init__(self) -> None:
        limits.parts("parts", self.parts)
        limits.shuffle_buffer("shuffle_buffer", self.shuffle_buffer)

    @property
    def needs_graph(self) -> str | None:
        """What cannot be done without CUDA graphs; None if nothing is asked that needs them."""
        return "parts = branches" if self.parts == "branches" else "graph = true" if self.graph else None

    def steps_per_epoch(self, examples: int) -> int:
        """Steps of one epoch over so many examples."""
        return examples // self.batch_size if self.drop_last else -(-examples // self.batch_size)

    def steps(self, examples: int) -> int:
        """Steps of the whole run."""
        steps = self.epochs * self.steps_per_epoch(examples)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def seen(self, steps: int, examples: int) -> int:
        """Examples that so many steps see."""
        epochs, rest = divmod(steps, self.steps_per_epoch(examples))
        kept = examples - examples % self.batch_size if self.drop_last else examples
        return epochs * kept + rest * self.batch_size

    def mark(self, step: int, examples: int) -> Mark:
        """What is due after a step, counted from 0."""
        done, per_epoch = step + 1, self.steps_per_epoch(examples)
        whole = done % per_epoch == 0
        ends_epoch = whole or done == self.steps(examples)
        records = self.record_every is not None and (done % self.record_every == 0 or ends_epoch)
        return Mark(done // per_epoch if whole else done / per_epoch, ends_epoch, records)
