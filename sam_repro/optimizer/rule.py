"""What a rule is: it turns one batch into one gradient, and a stock optimizer does the rest."""

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_repro import limits
from sam_repro.errors import UserError
from sam_repro.optimizer.cost import Cost
from sam_repro.optimizer.left import Left, taken_by
from sam_repro.optimizer.refusals import (
    missing,
    refuse_base,
    refuse_decay,
    refuse_frozen,
    refuse_no_gradient,
    refuse_other_than_oracles,
    refuse_scaler,
    refuse_second_backward,
    refuse_without_rows,
)
from sam_repro.optimizer.state import Memory, Watch, followed, grow, layout, shapes_of, tensors_of
from sam_repro.optimizer.terms import Terms, added, averaged, loss_of
from sam_repro.oracle import Branches, Joint, Mean, Oracle
from sam_repro.vectors import Vector

OF_NOW = ("_params", "_layout", "_watch", "_left", "_is_updating")
"""Attributes of a rule that are of its parameters of now, and of a step that is not done: no copy has them."""


class Rule(ABC):
    """Turns one batch into the gradient that the base optimizer takes (abstract).

    A subclass says what it asks the oracle (`terms`), how the answers become one gradient (`combine`), and what that
    costs (`cost`). What lasts from step to step is made in the constructor as an entry of `memory`, a tensor or one
    tensor per parameter, and written in `remember`. Scratch lies in `room`, which lasts from `backward` to `update`. No
    other attribute may change after the construction: nobody would save it.

    Args:
        base: any `torch.optim` optimizer; its parameters that require a gradient are the rule's.
    """

    is_base_at_rho_zero: bool = True
    """With rho = 0 every step is bitwise the base's."""
    first_loss_is_clean: bool = True
    """The loss that `backward` returns is L(w)."""
    reads_base_state: bool = False
    """Reads the base's state, such as its momentum."""
    needs_rows: bool = False
    """Remembers something of each example: asks which examples are in the batch."""
    examples: int = 0
    """How many examples a rule that needs rows can number, from 0."""
    allows_decay_in_loss: bool = True
    """Its gradients may hold weight decay that is a part of the loss."""
    capturable: bool = True
    """A CUDA graph can hold its steps."""
    rho: Tensor | None = None
    _watch: Watch | None = None
    _left: Left | None = None  # by backward, for the update
    _is_updating: bool = False

    def __init__(self, base: Optimizer) -> None:
        refuse_base(base, [name for name in inspect.signature(type(self)).parameters if name != "base"])
        self.base = base
        refuse_frozen(self.params)
        self.steps = 0
        self.memory: Memory = {}
        self.room: dict[str, Vector] = {}
        self._begin()

    @abstractmethod
    def terms(self, oracle: Oracle, phase: str) -> Terms:
        """The vectors of one part of the batch by name; each is averaged over parts and ranks.

        Every part gives the same names in the same order, and a term says where it was taken (`Term.at`).
        """

    @abstractmethod
    def combine(self, **vectors: Vector) -> Vector:
        """The gradient for the base, from the averaged vectors of `terms`; it writes nothing."""

    def remember(self, **vectors: Vector) -> None:
        """Write into `memory` in place, once an update and before the weights move; default nothing.

        Of a batch whose gradient is dropped nothing is remembered. The vectors are those of `combine` whose names it
        takes; they are kept until then.
        """
        return

    def remember_examples(self, rows: Tensor, outputs: Tensor) -> None:
        """Write into `memory` what lasts of each example; called after `remember` where the rule `needs_rows`.

        Args:
            rows: numbers [B] of the batch's examples.
            outputs: [B, …] of the first term, one of `gradient`.
        """
        return

    def cost(self, step: int) -> Cost:
        """What this step costs, default one pass."""
        return Cost()

    @property
    def cycle(self) -> int:
        """Steps after which the costs repeat; a class that has its own `cost` says so, or every step is summed."""
        return 1

    def phase(self, step: int) -> str:
        """What kind of step this is, a pure function of the step, counted from 0."""
        return "full"

    def move(self) -> None:
        """Move the weights by the gradient in `p.grad`, default the base's step."""
        self.base.step()

    def update(self) -> None:
        """Take the gradient of `backward`: remember, move the weights, and count the step.

        A step of the base alone does the same, unless the rule moves more than its base. A replayed graph does not
        count.
        """
        self._is_updating = True
        try:
            self._remember()
            self.move()
            self._count()
        finally:
            self._is_updating = False

    @property
    def params(self) -> list[Tensor]:
        """The base's parameters that require a gradient."""
        return [p for group in self.base.param_groups for p in group["params"] if p.requires_grad]

    def backup(self) -> Vector:
        """Where the weights are kept while they are moved: made once, so that addresses stay."""
        if "w" not in self.room:
            self.room["w"] = [torch.empty_like(p, requires_grad=False) for p in self.params]
        return self.room["w"]

    def backward(
        self,
        *oracles: Oracle,
        m: int | None = None,
        mean: Mean | None = None,
        observe: Callable[[Terms], None] | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """Leave the rule's gradient in `p.grad` and the weights bitwise as they were.

        Args:
            oracles: the batch, or the pieces of one batch: the perturbation is of the mean loss over all examples.
            m: examples that share one perturbation, default the whole batch. The terms of the parts are averaged,
                weighted by size, and combined once.
            mean: averages a list of tensors over ranks; nothing on one process.
            observe: called once with the averaged terms, before they are combined.
            branches: asks the parts of `m` examples side by side, default one after the other.

        Returns:
            The mean loss of the first term at w, else of the first term: a fresh 0-dim tensor on the device.

        Raises:
            ValueError: if weight decay is a part of the loss and the rule takes its gradients without; if the rule
                `needs_rows` and has none, or there are several ranks; if the loss depends on no parameter of the base.
            TypeError: if one of `oracles` is no oracle, such as an m without its name, a tensor or a closure.
            RuntimeError: if the gradient of the last call is still there, which no step has taken.
        """
        refuse_other_than_oracles(oracles)
        oracle = oracles[0] if len(oracles) == 1 else cast(Oracle, Joint(oracles))
        if not self.allows_decay_in_loss:
            refuse_decay(type(self).__name__, oracle.objective, self.params)
        if self.needs_rows:
            refuse_without_rows(type(self).__name__, oracle, mean)
        refuse_second_backward(self._is_left)
        self._follow()
        self._left = None
        if self._watch is None:
            self._watch = Watch(self._attributes(), self._declared())
        terms: Terms = {}
        for part, answer in self._answered(oracle, m, mean, branches):
            terms = added(terms, answer, part.share)
            del answer  # its memory is free for the next part
        if mean is not None:
            terms = averaged(terms, mean)
        if observe is not None:
            observe(terms)
        given = [any(flags) for flags in zip(*(term.given for term in terms.values() if term.given), strict=True)]
        refuse_no_gradient(given)
        vectors = {name: term.vector for name, term in terms.items()}
        with torch.no_grad():
            gradient = self.combine(**vectors)
        decays = [oracle.objective.weight_decay(p) != 0 for p in self.params]
        given = [has or decay for has, decay in zip(given, decays, strict=True)]
        self._leave(gradient, given, self._left_of(oracle, terms))
        return loss_of(terms)

    def _answered(
        self, oracle: Oracle, m: int | None, mean: Mean | None, branches: Branches | None
    ) -> Iterator[tuple[Oracle, Terms]]:
        """The parts of the batch, each with its terms."""
        phase = self.phase(self.steps)
        if branches is None or m is None:
            return ((part, self.terms(part, phase)) for part in oracle.parts(m, mean))

        def ask(part: Oracle) -> Terms:
            self.room.clear()  # it is of the part before, which may still be at work
            return self.terms(part, phase)

        return branches.answered(oracle, m, self.params, ask, mean)

    def step(self, *oracles: Oracle, m: int | None = None) -> Tensor:
        """One update: `backward` and `update`. Returns the loss that `backward` returns."""
        loss = self.backward(*oracles, m=m)
        self.update()
        return loss

    def total_cost(self, steps: int) -> Cost:
        """What the first `steps` steps of a run cost."""
        says = [next(c for c in type(self).__mro__ if name in vars(c)) for name in ("cycle", "cost")]
        cycles, rest = divmod(steps, self.cycle) if issubclass(*says) else (0, steps)
        return self._first(self.cycle if cycles else 0).times(cycles) + self._first(rest)

    def _first(self, steps: int) -> Cost:
        return sum(map(self.cost, range(steps)), Cost(passes=0))

    def state_dict(self) -> dict[str, Any]:
        """Counter, radius, memory and the base's state: all that the next step depends on besides the weights.

        Raises:
            UserError: if the rule has state that is not in `memory`.
        """
        self.refuse_undeclared_state()
        self._follow()
        return {"steps": self.steps, "rho": self.rho, "memory": self.memory, "base": self.base.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave.

        Raises:
            ValueError: if it was written by another rule or for other parameters.
        """
        if "param_groups" in state:
            raise ValueError("state: is that of an optimizer and not of a rule; load it by rule.base.load_state_dict")
        self._follow()
        grow(self.memory, state.get("memory"))
        if shapes_of(state.get("memory")) != shapes_of(self.memory):
            kept = ", ".join(self.memory) or "nothing"
            raise ValueError(
                f"state: its memory does not fit {type(self).__name__}, which keeps {kept}: it is of another rule, of "
                "other parameters or of an older version; load the state of this rule, or start anew"
            )
        self.base.load_state_dict(state["base"])
        self.steps = state["steps"]
        with torch.no_grad():
            for own, saved in zip(tensors_of(self.memory), tensors_of(state["memory"]), strict=True):
                own.copy_(saved)
            if self.rho is not None and state.get("rho") is not None:  # a state from before has none
                self.rho.copy_(state["rho"])

    def refuse_undeclared_state(self) -> None:
        """Refuse a rule that keeps something from step to step which nobody saves.

        Raises:
            UserError: naming the attributes.
        """
        if self._watch and (changed := self._watch.changed(self._attributes(), self._declared())):
            raise UserError(
                f"{type(self).__name__}.{', '.join(changed)}: changes during training, and a checkpoint would lose it; "
                "make it a tensor in self.memory in the constructor and write it by copy_ in remember(), or keep "
                "scratch in self.room"
            )

    def _leave(self, gradient: Vector, given: list[bool], left: Left) -> None:
        """Put the gradient into `p.grad`; no other parameter of the base keeps an older one, which it would take."""
        for group in self.base.param_groups:
            for p in group["params"]:
                p.grad = None
        kept = {id(x) for vector in left.vectors.values() for x in vector}
        if any(id(u) in kept for u in gradient):  # p.grad may be clipped in place
            own = list(map(torch.empty_like, gradient))
            torch._foreach_copy_(own, gradient)
            gradient = own
        for p, u, g in zip(self.params, gradient, given, strict=True):
            p.grad = _laid_out_as(p, u) if g else None
        self._left = left

    def _left_of(self, oracle: Oracle, terms: Terms) -> Left:
        remembers = type(self).remember is not Rule.remember
        vectors = taken_by(self.remember, {name: term.vector for name, term in terms.items()}) if remembers else {}
        outputs = next(iter(terms.values())).outputs
        rows = oracle.rows if self.needs_rows else None
        return Left(self.steps, vectors, None if rows is None or outputs is None else (rows, outputs))

    @property
    def _is_left(self) -> bool:
        """Whether the gradient of `backward` is still there: not dropped, nor taken by a loop that counts by itself."""
        left = self._left is not None and self._left.step == self.steps
        return left and any(p.grad is not None for p in self.params)

    @torch.no_grad()
    def _remember(self) -> None:
        if self._left and self._is_left:
            if self._left.vectors:
                self.remember(**self._left.vectors)
            if self._left.examples:
                self.remember_examples(*self._left.examples)

    def _count(self) -> None:
        self.steps += self._is_left
        self._left = None

    def _before_base(self, *_: Any) -> None:
        """Whoever steps the base alone takes the gradient all the same."""
        if self._is_updating or not self._is_left:
            return
        refuse_scaler(self.base)
        if type(self).move is not Rule.move:
            raise RuntimeError(
                f"{type(self).__name__} moves more than its base: write rule.update() for rule.base.step()"
            )
        self._remember()

    def _after_base(self, *_: Any) -> None:
        if not self._is_updating:
            self._count()

    def _begin(self) -> None:
        """What is known of the parameters, and nothing of the steps before."""
        self._params = self.params
        self._layout = layout(self._params)
        self._watch = None
        self._left = None
        self.base.register_step_pre_hook(self._before_base)
        self.base.register_step_post_hook(self._after_base)

    def _follow(self) -> None:
        """Make memory and room those of the parameters of now, which may have been frozen, added or moved."""
        params = self.params
        now = layout(params)
        if now == self._layout:
            return
        refuse_frozen(params)
        device = params[0].device
        for name, value in self.memory.items():
            is_vector = isinstance(value, list)
            self.memory[name] = followed(value, self._params, params) if is_vector else value.to(device)
        if self.rho is not None:
            self.rho = self.rho.to(device)
        self.room.clear()
        self._params, self._layout = params, now

    def _attributes(self) -> dict[str, Any]:
        """What may not change, but for the names in `memory`: an entry that is made later is not loaded."""
        own = ("base", "steps", "rho", "memory", "room", *OF_NOW)
        rest = {name: value for name, value in vars(self).items() if name not in own}
        return rest | {f"memory[{name!r}]": type(value) for name, value in self.memory.items()}

    def _declared(self) -> list[Tensor]:
        """Tensors that may change: the network's, the base's and the rule's own, which somebody saves; and scratch."""
        weights = [p for group in self.base.param_groups for p in group["params"]]
        slots = [x for state in self.base.state.values() for x in state.values() if isinstance(x, Tensor)]
        scratch = [x for vector in self.room.values() for x in vector]
        radius = [] if self.rho is None else [self.rho]
        return weights + slots + scratch + radius + list(tensors_of(self.memory))

    def __setattr__(self, name: str, value: Any) -> None:
        """A number as `rho` fills the tensor, which a graph and a schedule know."""
        if name == "rho" and self.rho is not None and not isinstance(value, Tensor):
            limits.radius("rho", value)
            self.rho.fill_(value)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(missing(type(self).__name__, name, vars(self).get("base")))

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # a scheduler asks by isinstance alone, and its own refusal would not say what to give it
        if sys._getframe(1).f_globals.get("__name__") == "torch.optim.lr_scheduler":
            raise TypeError(missing(type(self).__name__, "param_groups", self.base))
        return type(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in OF_NOW}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()


def _laid_out_as(p: Tensor, u: Tensor) -> Tensor:
    """`u` with the strides of `p`: a fused base walks through both as they lie in memory."""
    return u if u.stride() == p.stride() else torch.empty_like(p, requires_grad=False).copy_(u)
