"""Parts of a batch side by side: each on a stream of its own, with weights and buffers of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from sam_repro.oracle.buffers import Mean, Place
from sam_repro.oracle.oracle import Oracle

T = TypeVar("T")


class Branches:
    """Asks the parts of a batch side by side, because one small part does not fill a GPU.

    A rule moves the weights in place, and a pass the running statistics, so each part has copies of both. Its work goes
    to a stream of its own, which a CUDA graph keeps as a branch. Each part has the noise that it has in sequence, and
    the answers come back in the order of the parts. They are bitwise those of the parts in sequence if the same kernels
    run, as on a CPU, which has no streams.

    Memory: of every part the activations, a copy of weights and buffers, the answer and scratch. SAM's are four
    vectors: the copy, the saved weights, g and g_s. In sequence one part's are there at a time.
    """

    def __init__(self) -> None:
        self._streams: list[torch.cuda.Stream] = []  # kept, because libraries have a workspace for each

    def answered(
        self, oracle: Oracle, m: int, params: Sequence[Tensor], ask: Callable[[Oracle], T], mean: Mean | None
    ) -> Iterator[tuple[Oracle, T]]:
        """The parts of a batch, each with what was answered; the running statistics move as in `Oracle.parts`.

        Args:
            oracle: of the batch.
            m: examples of a part.
            params: the weights that asking moves; inside `ask` they are a part's own.
            ask: is called once for each part, before any is given back. It may write into nothing that parts share.
            mean: averages a list of tensors over ranks; nothing on one process.
        """
        answers: list[tuple[T, Mapping[Place, Tensor]]] = []
        with self._joined() as forks:
            for part in oracle.split(m):
                with self._forked(forks, part.device), _own_weights(params), part.buffers.apart() as own:
                    answers.append((ask(part), own))
        for part, (answer, own) in zip(oracle.parts(m, mean), answers, strict=True):
            if part.is_first or oracle.objective.batch_norm_statistics != "first":
                part.buffers.move(own, statistics_only=not part.is_first)
            yield part, answer

    @contextmanager
    def _joined(self) -> Iterator[list[torch.cuda.Stream]]:
        """After the block, the current stream waits for those that were forked in it."""
        forks: list[torch.cuda.Stream] = []
        try:
            yield forks
        finally:
            for stream in forks:
                torch.cuda.current_stream(stream.device).wait_stream(stream)

    @contextmanager
    def _forked(self, forks: list[torch.cuda.Stream], device: torch.device) -> Iterator[None]:
        """Inside the block a GPU works on one more stream, after all that the current one has been given so far."""
        if device.type != "cuda":
            yield
            return
        if len(forks) == len(self._streams):
            self._streams.append(torch.cuda.Stream(device))
        stream = self._streams[len(forks)]
        forks.append(stream)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            yield


@contextmanager
def _own_weights(params: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block the parameters lie in copies; they are the same objects, as rule, base and network know them."""
    before = [p.data for p in params]
    own = [torch.empty_like(data) for data in before]
    torch._foreach_copy_(own, before)
    try:
        for p, data in zip(params, own, strict=True):
            p.data = data
        yield
    finally:
        for p, data in zip(params, before, strict=True):
            p.data = data
