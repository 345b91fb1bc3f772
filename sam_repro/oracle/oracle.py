"""The loss as a function of the weights: `Objective` for a model, `Oracle` for one batch of it.

An oracle answers at the weights that are now in the model. It knows no method, no schedule and no logger.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sam_repro import limits, seeds
from sam_repro.oracle.buffers import Buffers, Mean, modules_of
from sam_repro.oracle.inputs import Inputs, arguments, pieces, tensors
from sam_repro.oracle.refusals import of_part, refuse_arguments, refuse_float16, refuse_parts
from sam_repro.vectors import Vector

Criterion = Callable[[Tensor, Tensor], Tensor]
Reseed = Callable[[int, torch.device], object]
T = TypeVar("T")


class Term(NamedTuple):
    """A vector that the batch gives at the weights `at`; a gradient comes with the loss and the outputs of its pass."""

    vector: Vector
    given: list[bool] | None = None
    loss: Tensor | None = None
    outputs: Tensor | None = None
    at: str = "w"

    def times(self, share: float) -> "Term":
        """The term of a part that is this share of the batch; of the whole batch it stays bitwise what it is."""
        if share == 1.0:
            return self
        vector = list(torch._foreach_mul(self.vector, share))
        return self._replace(vector=vector, loss=None if self.loss is None else self.loss * share)

    def plus(self, other: "Term") -> "Term":
        """The sum of two parts' terms, both already weighted; the outputs one after the other."""
        return Term(
            list(torch._foreach_add(self.vector, other.vector)),
            _both(self.given, other.given, lambda a, b: [x or y for x, y in zip(a, b, strict=True)]),
            _both(self.loss, other.loss, torch.add),
            _both(self.outputs, other.outputs, lambda a, b: torch.cat([a, b])),
            self.at,
        )


class Auxiliary(NamedTuple):
    """A loss of the outputs beside the criterion, which a rule adds: its gradient counts, and no loss is told with it.

    Args:
        criterion: (outputs [B, …], targets [B, …]) → mean over the batch, a 0-dim tensor.
        targets: [B, …], such as outputs of other weights.
    """

    criterion: Criterion
    targets: Tensor

    def of(self, outputs: Tensor) -> Tensor:
        """Mean over the batch."""
        with torch.autocast(outputs.device.type, enabled=False):
            return self.criterion(full(outputs), full(self.targets))

    def split(self, sizes: list[int]) -> list["Auxiliary"]:
        """The same for each piece of the batch."""
        return [self._replace(targets=targets) for targets in self.targets.split(sizes)]


class Objective:
    """The mean loss of a model on a batch, as a function of its weights; calling it makes the oracle of one batch.

    Args:
        model: the network, in the mode (train or eval) that the passes shall have.
        criterion: (outputs [B, …], targets [B]) → mean loss over the batch, a 0-dim tensor. Parts of a batch are
            weighted by their numbers of examples, which is right for a plain mean alone: with class weights or masked
            targets take whole batches.
        autocast: dtype of a pass, or None for the dtype of the weights (and of the caller's own autocast).
        weight_decay: λ of ½λ‖w‖² as a part of the loss, default 0: λw is added to every gradient and λv to every
            Hessian product. One number for all weights, or one per parameter. The loss that is returned is without it.
        batch_norm_statistics: which passes move the running statistics: "mean" (pass 1, mean over the parts), "first"
            (pass 1, the first part's), "both" (all passes). Other buffers move in pass 1 of the first part, or in both.
        same_noise: the same dropout masks in all passes over a batch (default), or fresh ones in each.
        compile: whether the forward of a gradient's pass is compiled (`torch.compile`, one graph per shape of the batch
            and state of the statistics); default false. The model stays the eager one, and all else runs it. Compiled
            dropout draws other masks than the eager one.
        compiled_examples: examples of the passes that are compiled; passes over more or fewer run the eager model.
            Default None: all passes are.

    Raises:
        ValueError: if an argument is outside of what is said here.
        TypeError: if the model is no module, as where the two are swapped.

    Example:
        The mean of ½(z − y)² for z = 2x at x = 1, 3 and y = 0: L = 10, and dL/dw = (1·2 + 3·6)/2.

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 2.0)
        >>> objective = Objective(model, lambda outputs, targets: (outputs - targets).square().mean() / 2)
        >>> oracle = objective(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))
        >>> term = oracle.gradient(list(model.parameters()))
        >>> term.loss, term.vector
        (tensor(10.), [tensor([[10.]])])
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        *,
        autocast: torch.dtype | None = None,
        weight_decay: float | Mapping[Tensor, float] = 0.0,
        batch_norm_statistics: str = "mean",
        same_noise: bool = True,
        compile: bool = False,
        compiled_examples: int | None = None,
    ) -> None:
        refuse_arguments(model, criterion)
        refuse_float16(autocast)
        limits.batch_norm_statistics("batch_norm_statistics", batch_norm_statistics)
        for decay in weight_decay.values() if isinstance(weight_decay, Mapping) else [weight_decay]:
            limits.number("weight_decay", decay, low=0)
        limits.boolean("same_noise", same_noise)
        limits.boolean("compile", compile)
        limits.integer("compiled_examples", compiled_examples, low=1, optional=True)
        self.model = model
        self.criterion = criterion
        self.autocast = autocast
        self.batch_norm_statistics = batch_norm_statistics
        self.same_noise = same_noise
        self._compiled: Callable[..., Tensor] | None = torch.compile(model, dynamic=False) if compile else None
        self._compiled_examples = compiled_examples
        self.reseed: Reseed = reseed  # seeds the noise of a gradient's pass; a captured step puts another in its place
        self._weight_decay = weight_decay

    def __call__(
        self, inputs: Inputs, targets: Tensor, noise: int | None = None, rows: Tensor | None = None
    ) -> "Oracle":
        """The oracle of one batch.

        Args:
            inputs: [B, …]; or a sequence or a mapping of such tensors, the model's arguments by position or by name.
            targets: [B].
            noise: seed of all that the passes draw; default None draws one from torch's CPU generator. Passes seed
                torch's generators.
            rows: numbers [B] of the examples in the data, for rules that remember something of each; default None.

        Raises:
            TypeError: if the inputs are something else.
            ValueError: if there are not as many rows as targets.
        """
        tensors(inputs)
        if rows is not None and len(rows) != len(targets):
            raise ValueError(f"rows: {len(rows)} numbers for {len(targets)} targets; give each example its own")
        noise = draw_noise() if noise is None else noise
        return Oracle(self, inputs, targets, noise, noise, self.buffers(), rows=rows)

    def forward(self, examples: int) -> Callable[..., Tensor]:
        """What the pass of a gradient over so many examples runs: the compiled model or the eager one."""
        if self._compiled is None or self._compiled_examples not in (None, examples):
            return self.model
        return self._compiled

    def buffers(self) -> Buffers:
        """All buffers that a pass may move, as the model is now."""
        return Buffers(modules_of(self.model, self.criterion))

    def weight_decay(self, parameter: Tensor) -> float:
        """λ of one parameter."""
        if isinstance(self._weight_decay, Mapping):
            return self._weight_decay.get(parameter, 0.0)
        return self._weight_decay

    @contextmanager
    def region(self, device: torch.device) -> Iterator[None]:
        """The autocast region of one forward.

        Autocast caches the cast weights. Two passes inside one region would both see the weights of the first, so that
        the perturbation had no effect at all: each pass opens a region of its own, with the cache off.
        """
        kind = device.type
        enabled = self.autocast is not None or torch.is_autocast_enabled(kind)
        dtype = self.autocast or torch.get_autocast_dtype(kind)
        if enabled:
            refuse_float16(dtype)
        with torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False):
            yield


@dataclass(frozen=True)
class Oracle:
    """The objective of one batch, at the weights now in the model.

    Every answer is for the mean loss over the batch. Made by calling an `Objective`. Dropout masks and the like are a
    function of `noise`, which is another one for each part; `shared_noise` is the same for all parts of a batch.
    """

    objective: Objective
    inputs: Inputs
    targets: Tensor
    noise: int
    shared_noise: int
    buffers: Buffers
    share: float = 1.0
    is_first: bool = True
    rows: Tensor | None = None

    def gradient(
        self, params: Sequence[Tensor], update_statistics: bool = True, auxiliary: Auxiliary | None = None
    ) -> Term:
        """∇L over `params`: one forward and one backward pass.

        Args:
            params: the leaves to differentiate by; nothing else receives a gradient.
            update_statistics: whether this pass moves the running statistics of batch norm (a rule's first pass does).
            auxiliary: what the gradient is of besides L, default nothing.

        Returns:
            The gradient (zeros where the loss does not depend on a parameter, and `given` says so), the mean loss and
            the outputs, both detached.
        """
        params = list(params)
        moves = update_statistics or self.objective.batch_norm_statistics == "both"
        moves_statistics = moves and (self.is_first or self.objective.batch_norm_statistics != "first")
        for p in params:
            p.grad = None
        if update_statistics or self.objective.same_noise:
            self.objective.reseed(self.noise, self.device)
        with self.buffers.held(statistics=not moves_statistics, others=not (moves and self.is_first)):
            outputs = self.outputs(self.objective.forward(len(self.targets)))
            loss = self.loss_of(outputs)
            # p.grad, not autograd.grad: that hands out shared or stride-0 storage, which fused kernels misread
            total = loss if auxiliary is None else loss + auxiliary.of(outputs)
            with self.buffers.repeating():
                total.backward(inputs=None if self._are_all(params) else params)
        vector, given = take_gradients(params)
        self.add_decay(vector, params)
        return Term(vector, given, loss.detach(), outputs.detach())

    @torch.no_grad()
    def loss(self) -> Tensor:
        """Mean loss over the batch, a 0-dim tensor: one forward, no gradient."""
        self.objective.reseed(self.noise, self.device)
        with self.buffers.held():
            return self.loss_of(self.outputs())

    @torch.no_grad()
    def predict(self) -> Tensor:
        """Outputs of one forward, with the noise of the passes: no gradient, and nothing moves."""
        self.objective.reseed(self.noise, self.device)
        with self.buffers.held():
            return self.outputs()

    def over_pieces(self, ask: Callable[["Oracle"], Vector]) -> Vector:
        """The answer for the mean loss, where an oracle of several batches asks each: here there is one."""
        return ask(self)

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return tensors(self.inputs)[0].device

    def shared_generator(self) -> torch.Generator:
        """A generator whose draws are the same for all parts of the batch, and not those of the passes' noise."""
        return torch.Generator(self.device).manual_seed(seeds.of_shared_noise(self.shared_noise))

    def split(self, m: int | None) -> list["Oracle"]:
        """The batch in parts of `m` examples, the last one smaller if need be; None is the batch itself.

        Raises:
            ValueError: if `m` is not an integer in [1, B].
        """
        size = len(self.targets)
        limits.integer("m", m, low=1, high=size, optional=True)
        if m is None or m == size:
            return [self]
        refuse_parts(self.objective.criterion)
        if sizes := [len(x) for x in tensors(self.inputs) if len(x) != size]:
            raise ValueError(f"m = {m}: {size} targets, but inputs with {sizes[0]} rows; each part needs its own rows")
        rows = [None] * math.ceil(size / m) if self.rows is None else self.rows.split(m)
        parts = zip(pieces(self.inputs, m), self.targets.split(m), rows, strict=True)
        return [
            replace(self, inputs=x, targets=y, rows=r, noise=self.noise + k, share=len(y) / size, is_first=k == 0)
            for k, (x, y, r) in enumerate(parts)
        ]

    def parts(self, m: int | None, mean: Mean | None = None) -> Iterator["Oracle"]:
        """`split(m)`, one part after the other, with the running statistics averaged over them.

        Each part starts from the statistics of the step's start; after the last part they are the mean over the parts,
        weighted by size, and over the ranks of `mean`. With `batch_norm_statistics="first"` they are the first part's.
        """
        parts = self.split(m)
        if self.objective.batch_norm_statistics == "first" or (mean is None and len(parts) == 1):
            yield from parts
        else:
            yield from self.buffers.averaged(parts, mean)

    def loss_of(self, outputs: Tensor) -> Tensor:
        """Mean loss of outputs of this batch."""
        with torch.autocast(outputs.device.type, enabled=False):
            return self.objective.criterion(full(outputs), self.targets)

    def outputs(self, forward: Callable[..., Tensor] | None = None) -> Tensor:
        """Outputs of one forward.

        Args:
            forward: default the eager model.

        Raises:
            TypeError: if they are not a tensor.
        """
        forward = self.objective.model if forward is None else forward
        positional, named = arguments(self.inputs)
        with self.objective.region(self.device):
            try:
                outputs = forward(*positional, **named)
            except ValueError as error:
                raise of_part(error, self.share, len(self.targets)) from None
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the model returned {type(outputs).__name__}: an objective needs one tensor of outputs, such as "
                "logits; wrap the model so that it returns them, or use ByClosure"
            )
        return outputs

    def _are_all(self, params: Sequence[Tensor]) -> bool:
        """Whether nothing else can receive a gradient: a reentrant checkpoint lets no backward name its inputs."""
        leaves = {p for module in self.buffers.modules for p in module._parameters.values() if p is not None}
        wanted = {p for p in leaves if p.requires_grad}
        return wanted <= set(params) and not any(x.requires_grad for x in tensors(self.inputs))

    @torch.no_grad()
    def add_decay(self, vector: Vector, direction: Sequence[Tensor], params: Sequence[Tensor] | None = None) -> Vector:
        """Add λ·direction in place: the decay's part of a gradient (direction w) or of a Hessian product (v)."""
        for decay, group in self._by_decay(params or direction).items():
            if decay != 0:
                torch._foreach_add_([vector[i] for i in group], [direction[i] for i in group], alpha=decay)
        return vector

    def _by_decay(self, params: Sequence[Tensor]) -> dict[float, list[int]]:
        groups: dict[float, list[int]] = {}
        for i, p in enumerate(params):
            groups.setdefault(self.objective.weight_decay(p), []).append(i)
        return groups


def take_gradients(params: Sequence[Tensor]) -> tuple[Vector, list[bool]]:
    """Take the gradients out of `p.grad`: zeros where there is none, and where there is one.

    Raises:
        TypeError: if a weight is complex, or a gradient sparse.
    """
    gradients = [p.grad for p in params]
    for p in params:
        p.grad = None
    for p, g in zip(params, gradients, strict=True):
        if p.is_complex():
            raise TypeError(
                f"a weight {list(p.shape)} is complex: rules need real ones, as torch.view_as_real makes them"
            )
        if g is not None and g.layout != torch.strided:
            raise TypeError(
                f"the gradient of a weight {list(p.shape)} is sparse: build its embedding with sparse=False"
            )
    vector = [torch.zeros_like(p) if g is None else g for p, g in zip(params, gradients, strict=True)]
    return vector, [g is not None for g in gradients]


def draw_noise() -> int:
    """A seed for the noise of a batch, from torch's CPU generator."""
    # not item(), which those who look for waits on the device look for: the number is on the host
    return int(torch.randint(2**63 - 1, (1,), device="cpu").numpy()[0])


def reseed(noise: int, device: torch.device) -> None:
    """Make what a pass draws a function of `noise` alone, whatever ran before it."""
    seed = seeds.of_noise(noise)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


def _both(a: T | None, b: T | None, join: Callable[[T, T], T]) -> T | None:
    return None if a is None or b is None else join(a, b)


def full(outputs: Tensor) -> Tensor:
    """Outputs of a reduced-precision pass, in float32 for the loss."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
