"""Several batches as one: what one forward cannot hold is asked for piece by piece."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sam_repro.oracle.buffers import Mean
from sam_repro.oracle.oracle import Auxiliary, Objective, Oracle, Term
from sam_repro.oracle.refusals import refuse_parts
from sam_repro.vectors import Vector

Ask = Callable[[Oracle], Vector]


class Joint:
    """The objective of one batch that comes in pieces: every answer is the mean over the examples of all of them.

    A rule cannot tell it from the oracle of the whole batch: one gradient at w, one ε, one gradient at w + ε. Without
    batch norm and noise the answers are those of the whole batch but for rounding. Each piece has its own noise and
    batch statistics; the running statistics are moved once, by the mean over the pieces.

    Args:
        pieces: oracles of one objective.

    Raises:
        ValueError: if the pieces are of several objectives.

    Memory: of the largest piece, and one vector.
    """

    share = 1.0

    def __init__(self, pieces: Sequence[Oracle]) -> None:
        if len({id(piece.objective) for piece in pieces}) != 1:
            raise ValueError("oracles: of several objectives; make all with one Objective, which is called per batch")
        if len(pieces) > 1:
            refuse_parts(pieces[0].objective.criterion)
        examples = sum(len(piece.targets) for piece in pieces)
        self.objective: Objective = pieces[0].objective
        self.buffers = pieces[0].buffers
        self.pieces = [
            replace(piece, buffers=self.buffers, share=len(piece.targets) / examples, is_first=k == 0)
            for k, piece in enumerate(pieces)
        ]

    @property
    def rows(self) -> Tensor | None:
        """Numbers of the examples of all pieces; None where a piece has none."""
        rows = [piece.rows for piece in self.pieces if piece.rows is not None]
        return torch.cat(rows) if len(rows) == len(self.pieces) else None

    def split(self, m: int | None) -> list["Joint"]:
        """The whole batch: one perturbation is shared by all pieces.

        Raises:
            ValueError: if `m` asks for several perturbations.
        """
        if m is not None:
            raise ValueError(f"m = {m}: several batches are one here, with one perturbation; leave m out")
        return [self]

    def parts(self, m: int | None, mean: Mean | None = None) -> Iterator["Joint"]:
        """The whole batch, with its running statistics averaged over ranks."""
        yield from self.split(m)
        if mean is not None and self.objective.batch_norm_statistics != "first" and self.buffers.norms:
            torch._foreach_copy_(self.buffers.values, mean(self.buffers.values))

    def gradient(
        self, params: Sequence[Tensor], update_statistics: bool = True, auxiliary: Auxiliary | None = None
    ) -> Term:
        """∇L over `params`, as `Oracle.gradient`."""
        total, policy = None, self.objective.batch_norm_statistics
        move = policy == "both" or (policy == "mean" and update_statistics)
        sizes = [len(piece.targets) for piece in self.pieces]
        beside = iter(auxiliary.split(sizes) if auxiliary else [None] * len(sizes))
        for piece in self.buffers.averaged(self.pieces) if move else self.pieces:
            term = piece.gradient(params, update_statistics, next(beside)).times(piece.share)
            total = term if total is None else total.plus(term)
        assert total is not None
        return total

    def loss(self) -> Tensor:
        """Mean loss over the batch, as `Oracle.loss`."""
        return torch.stack([piece.loss() * piece.share for piece in self.pieces]).sum()

    def predict(self) -> Tensor:
        """Outputs of the whole batch, as `Oracle.predict`."""
        return torch.cat([piece.predict() for piece in self.pieces])

    def shared_generator(self) -> torch.Generator:
        """A generator whose draws are the same for all pieces."""
        return self.pieces[0].shared_generator()

    def over_pieces(self, ask: Ask) -> Vector:
        """The mean of what each piece answers, weighted by size: a product, or an unbiased estimate."""
        total: Vector = []
        for piece in self.pieces:
            vector = list(torch._foreach_mul(ask(piece), piece.share))
            total = list(torch._foreach_add(total, vector)) if total else vector
        return total
