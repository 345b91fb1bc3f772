"""Rules that perturb a part of the weights: all but the normalisations, or those alone."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import RHO, batch, flat, normed, our_gradient, sam, toy
from torch import nn

from sam_repro.optimizer import (
    SAM,
    Perturbing,
    SAMRandom,
    parameter_groups,
)

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("perturb", ["no_norm", "only_norm"])
def test_perturbation_of_a_part_by_hand(perturb: str) -> None:
    model = normed()
    twin = copy.deepcopy(model)
    x, y = batch()
    F.cross_entropy(twin(x), y).backward()
    moved = [p for name, p in twin.named_parameters() if name.startswith("1.") == (perturb == "only_norm")]
    length = flat(p.grad for p in moved).norm()
    with torch.no_grad():
        for p in moved:
            p += RHO * p.grad / length
    expected = torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters()))
    torch.testing.assert_close(our_gradient(model, x, y, perturb=perturb), flat(expected), rtol=1e-10, atol=1e-13)


def test_perturb_needs_the_groups_of_its_choice() -> None:
    model = normed(0.3)
    for perturb in ("no_norm", "only_norm"):
        with pytest.raises(ValueError, match=f"perturb = {perturb}: every group of the base needs the flag norm"):
            SAM(torch.optim.SGD(model.parameters(), lr=0.1), RHO, perturb=perturb)
        mixed = [{"params": [model[0].weight], "norm": perturb == "only_norm"}, {"params": [model[1].weight]}]
        with pytest.raises(ValueError, match=f"perturb = {perturb}"):
            SAM(torch.optim.SGD(mixed, lr=0.1), RHO, perturb=perturb)
    with pytest.raises(ValueError, match="one must have True"):
        sam(toy(), perturb="only_norm")
    with pytest.raises(ValueError, match="one must have False"):
        sam(nn.BatchNorm1d(3), perturb="no_norm")


@pytest.mark.parametrize("perturb", ["no_norm", "only_norm"])
def test_perturb_is_kept_by_a_loaded_state(perturb: str) -> None:
    model = normed(0.3)
    rule, fresh = sam(model, perturb=perturb), sam(model, perturb=perturb)
    fresh.load_state_dict(rule.state_dict())
    g = [torch.ones_like(p) for p in rule.params]
    assert torch.equal(flat(fresh.climb(g)), flat(rule.climb(g)))


def test_perturb_is_of_every_rule_that_perturbs(rules: Any) -> None:
    """Each climbs as far with the part that moves alone as if the rest had no gradient."""
    for name, make in rules.items():
        rule = make(torch.optim.SGD(parameter_groups(normed(0.3), 0.0), lr=0.1, momentum=0.9))
        if not isinstance(rule, Perturbing):
            continue
        for perturb in ("no_norm", "only_norm"):
            rule = make(torch.optim.SGD(parameter_groups(normed(0.3), 0.0), lr=0.1, momentum=0.9), perturb=perturb)
            whole = make(torch.optim.SGD(parameter_groups(normed(0.3), 0.0), lr=0.1, momentum=0.9))
            moves = [
                group["norm"] == (perturb == "only_norm") for group in rule.base.param_groups for _ in group["params"]
            ]
            g = [torch.randn_like(p) for p in rule.params]
            with torch.no_grad():
                torch.manual_seed(0)
                epsilon = rule.climb(g)
                torch.manual_seed(0)
                rest = whole.climb([x if moving else 0 * x for x, moving in zip(g, moves, strict=True)])
            for e, r, moving in zip(epsilon, rest, moves, strict=True):
                assert moving or e.abs().sum() == 0, name
                if moving and not isinstance(rule, SAMRandom):
                    assert torch.equal(e, r), name
