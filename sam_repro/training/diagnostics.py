"""Numbers about each step of a run, made from the vectors that a rule has anyway."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sam_repro import limits
from sam_repro.optimizer import Terms
from sam_repro.optimizer.sam_masked import ratio_classes
from sam_repro.vectors import Vector, dot, norm, ratio


class Diagnostics:
    """Numbers of a step, 0-dim tensors on the device; nothing is read by the host.

    "loss": the mean loss at w and, after a second pass, at w + ε; the training error of the first pass in percent. A
    rule whose only pass is at w + ε has both there.
    "standard", besides: ‖w‖, ‖g‖, and after a second pass ‖g_s‖, cos(g, g_s), the rise L(w + ε) − L(w), whether
    ‖g_s‖ > ‖g‖ (in percent of the steps), and every `every` steps the shares of `element_shares`.
    "drift", besides, for rules with a second pass at every step: how far g, g_s and its parts along and across g have
    moved since `period` steps ago (Liu et al. 2022, Figure 2). It keeps four vectors.

    Args:
        level: "standard" (default), "loss" or "drift".
        every: steps between two looks at the single elements, default 100; None for never.
        period: steps over which drift is measured, default 5.
    """

    def __init__(self, level: str = "standard", every: int | None = 100, period: int = 5) -> None:
        limits.diagnostics("diagnostics", level)
        limits.positive("diagnose_every", every, optional=True)
        limits.positive("period", period)
        self.level = level
        self.every = every
        self.period = period
        self._before: dict[str, Vector] = {}

    @torch.no_grad()
    def __call__(self, step: int, seen: Terms, labels: Tensor, w: Sequence[Tensor]) -> dict[str, Tensor]:
        """The numbers of one step, counted from 0, at the weights `w` from which it starts."""
        first = next(term for term in seen.values() if term.loss is not None)
        g, g_s = seen.get("g"), seen.get("g_s")
        assert first.loss is not None
        assert first.outputs is not None
        numbers = {"loss": first.loss, "error_pct": 100 * (first.outputs.argmax(dim=1) != labels).double().mean()}
        if g_s is not None and g_s.loss is not None:
            numbers["perturbed_loss"] = g_s.loss
        if self.level == "loss":
            return numbers
        numbers["weight_norm"] = norm(w)
        if g is not None:
            numbers["gradient_norm"] = norm(g.vector)
            if g_s is not None:
                numbers |= self._pair(step, numbers, g.vector, g_s.vector)
        return numbers

    def closely(self, step: int) -> bool:
        """Whether this step looks at the single elements."""
        return self.level != "loss" and self.every is not None and step % self.every == 0

    def state_dict(self) -> dict[str, Any]:
        """What the next numbers depend on: the vectors of a step before, if drift is measured."""
        return {"before": self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._before = state["before"]

    def _pair(self, step: int, numbers: dict[str, Tensor], g: Vector, g_s: Vector) -> dict[str, Tensor]:
        length, length_s = numbers["gradient_norm"], norm(g_s)
        product = dot(g, g_s)
        pair = {
            "perturbed_gradient_norm": length_s,
            "gradient_cosine": ratio(product, length * length_s),
            "loss_rise": numbers["perturbed_loss"] - numbers["loss"],
            "perturbed_gradient_longer_pct": 100 * (length_s > length).double(),
        }
        if self.closely(step):
            pair |= element_shares(g, g_s)
        if self.level == "drift" and step % self.period == 0:
            pair |= self._drift(g, g_s, ratio(product, length**2))
        return pair

    def _drift(self, g: Vector, g_s: Vector, along: Tensor) -> dict[str, Tensor]:
        """‖x(t) − x(t − period)‖ for g, g_s, the part of g_s along g, and the part across."""
        parallel = [along.to(x.dtype) * x for x in g]
        across = list(torch._foreach_sub(g_s, parallel))
        now = {"g": g, "g_s": g_s, "g_h": parallel, "g_v": across}
        before, self._before = self._before, {name: [x.clone() for x in vector] for name, vector in now.items()}
        if not before:
            return {}
        here = g[0].device
        return {
            f"drift_{name}": norm(torch._foreach_sub(vector, [x.to(here) for x in before[name]]))
            for name, vector in now.items()
        }


def element_shares(g: Vector, g_s: Vector) -> dict[str, Tensor]:
    """Shares of the elements in percent, by r = g_s/g: |r| > 1, r > 0, and the classes of Luong 2024.

    Class 1: r > 1, 2: 0 < r < 1, 3: r < −1, 4: −1 < r < 0. Of the elements with g ≠ 0; nothing is added to g to avoid
    a division, as the study's own code did: sizes and signs are compared.
    """
    counts: Tensor | int = 0
    for x, y in zip(g, g_s, strict=True):
        some = x != 0
        masks = [(y.abs() > x.abs()) & some, x.sign() * y.sign() > 0, *ratio_classes(x, y).values(), some]
        counts = counts + torch.stack([mask.sum() for mask in masks])
    assert isinstance(counts, Tensor)
    shares = 100 * ratio(counts[:-1].double(), counts[-1].double())
    names = ["elements_larger_pct", "elements_same_sign_pct", *(f"elements_class_{k}_pct" for k in (1, 2, 3, 4))]
    return dict(zip(names, shares, strict=True))
