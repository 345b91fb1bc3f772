"""The mean loss of a fixed sample as a function of chosen weights: value, gradient, Hessian and Gauss–Newton products.

Whoever measures first enters `undisturbed`, which leaves the model and torch as they were found.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from sam_repro import limits
from sam_repro.oracle import Criterion, Objective, Oracle, products
from sam_repro.oracle.inputs import Inputs, mapped
from sam_repro.sharpness.measurement import Unmeasurable
from sam_repro.vectors import Vector

Batch = tuple[Inputs, Tensor]
Product = Callable[[Tensor], Tensor]

MODES = ("eval", "train")
NOISES = (0, 1)  # two passes that agree under both have no noise of their own


class Curvature:
    """The mean loss L(w) = Σ_b (n_b/n)·L_b(w) of batches b of n_b examples, as a function of some of the weights.

    Vectors are flat, [N], in the order of `params` and the dtype of the weights.

    Args:
        model: the network, in the mode that the loss shall have.
        criterion: (outputs [n_b, …], targets [n_b]) → mean loss over the batch, a 0-dim tensor.
        batches: (inputs, targets) as an `Objective` takes them, each as large as memory takes for a product; the same
            in every pass.
        params: the weights w, default all that require a gradient; the others stand still.

    Raises:
        Unmeasurable: if there are no such weights or no batches, if weights or loss are not finite, or if two passes
            over the data do not agree.

    Example:
        The loss ½·mean((wx)²) at x = 1, 3 has the second derivative (1 + 9)/2.

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> half_square = lambda outputs, targets: outputs.square().mean() / 2
        >>> batch = torch.tensor([[1.0], [3.0]]), torch.zeros(2)
        >>> with undisturbed(model):
        ...     print(Curvature(model, half_square, [batch]).hvp(torch.ones(1)))
        tensor([5.])
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        batches: Sequence[Batch],
        *,
        params: Sequence[Tensor] | None = None,
    ) -> None:
        trained = (p for p in model.parameters() if p.requires_grad)
        self.params: list[Tensor] = list(trained if params is None else params)
        if not self.params:
            raise Unmeasurable("no weights are chosen; see the pattern in sharpness.parameters")
        if not batches:
            raise Unmeasurable("there are no data to measure on")
        _refuse_non_finite(model)
        self.dtype, self.device = self.params[0].dtype, self.params[0].device
        self.size = sum(p.numel() for p in self.params)
        self.examples = sum(len(targets) for _, targets in batches)
        objective = Objective(model, criterion)
        self._parts = [self._part(objective, batch, NOISES[0]) for batch in batches]
        self._product: Callable[[Sequence[Tensor]], Vector] | None = None
        self.clean_loss = self._agreed([self._part(objective, batch, NOISES[1]) for batch in batches])

    def loss(self) -> Tensor:
        """L at the weights now in the model, a float64 0-dim tensor: one forward over the sample."""
        return _mean_loss(self._parts)

    def gradient(self) -> Tensor:
        """∇L: one pass over the sample."""
        return self._summed(lambda part: part.gradient(self.params, update_statistics=False).vector)

    def hvp(self, v: Tensor) -> Tensor:
        """Hessian product Hv: about 3.5 gradients, or 2.4 for a sample of one batch, whose graph is kept."""
        pieces = self.unflat(v)
        if len(self._parts) > 1:
            return self._summed(lambda part: products.hvp(part, self.params, pieces))
        self._product = self._product or products.hessian(self._parts[0], self.params)
        return self.flat(self._product(pieces))

    def ggn_vp(self, v: Tensor) -> Tensor:
        """Gauss–Newton product Gv, G = Σ_b (n_b/n)·Jᵀ(∇²ℓ)J: J of the outputs, ∇²ℓ of the criterion."""
        pieces = self.unflat(v)
        return self._summed(lambda part: products.ggn_vp(part, self.params, pieces))

    @contextmanager
    def moved(self, point: Tensor, backup: Sequence[Tensor]) -> Iterator[None]:
        """Inside the block the weights stand at `point` [N]; after it they are, bitwise, `backup`."""
        self._product = None  # its graph is of other weights
        try:
            with torch.no_grad():
                torch._foreach_copy_(self.params, self.unflat(point))
            yield
        finally:
            self._product = None
            with torch.no_grad():
                torch._foreach_copy_(self.params, list(backup))

    @staticmethod
    def flat(vector: Vector) -> Tensor:
        """A vector, a list of tensors, as one tensor [N]."""
        return torch.cat([x.reshape(-1) for x in vector])

    def unflat(self, v: Tensor) -> Vector:
        """The other way round: views of v."""
        pieces = v.split([p.numel() for p in self.params])
        return [piece.view(p.shape) for piece, p in zip(pieces, self.params, strict=True)]

    def _part(self, objective: Objective, batch: Batch, noise: int) -> Oracle:
        inputs, targets = batch
        cast = mapped(inputs, lambda x: x.to(self.dtype) if x.is_floating_point() else x)
        return replace(objective(cast, targets, noise), share=len(targets) / self.examples)

    def _agreed(self, other: list[Oracle]) -> Tensor:
        """The loss, if it is finite and the same under another noise."""
        first, second = self.loss(), _mean_loss(other)
        if not first.isfinite():
            raise Unmeasurable(f"the loss of the sample is {first.item()}: sharpness has no meaning there")
        if (first - second).abs() > 100 * torch.finfo(self.dtype).eps * first.abs().clamp(min=1):
            raise Unmeasurable(
                f"two passes over the data do not agree ({first.item():.8g} and {second.item():.8g}): the network is "
                "random in this mode, as with dropout; choose sharpness.mode=eval"
            )
        return first

    def _summed(self, vector: Callable[[Oracle], Vector]) -> Tensor:
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for part in self._parts:
            total.add_(self.flat(vector(part)), alpha=part.share)
        return total


@contextmanager
def undisturbed(model: nn.Module, mode: str = "eval") -> Iterator[None]:
    """Inside the block the model is in `mode`, without autocast and TF32; after it all is bitwise as it was.

    Put back: the mode of each module, gradients, buffers, torch's random numbers, numerics.
    """
    limits.choice("mode", mode, MODES)
    modes = {module: module.training for module in model.modules()}
    gradients = [(p, p.grad) for p in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
    kinds = {p.device.type for p in model.parameters()} | {"cpu"}
    model.train(mode == "train")
    try:
        with torch.random.fork_rng(devices), _full_precision(kinds):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):  # a copy would break a graph of the caller's
                    buffer.copy_(before)


@contextmanager
def _full_precision(kinds: set[str]) -> Iterator[None]:
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, convolution.fp32_precision
    matmul.fp32_precision = convolution.fp32_precision = "ieee"
    try:
        with ExitStack() as stack:
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        matmul.fp32_precision, convolution.fp32_precision = before


def _mean_loss(parts: list[Oracle]) -> Tensor:
    return torch.stack([part.loss().double() * part.share for part in parts]).sum()


def _refuse_non_finite(model: nn.Module) -> None:
    weights = (value for value in model.state_dict().values() if value.is_floating_point())
    if not torch.stack([value.isfinite().all() for value in weights]).all():
        raise Unmeasurable("the weights are not finite: sharpness has no meaning there")
