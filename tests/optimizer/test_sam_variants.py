"""What every variant of SAM keeps: at ρ = 0, where g = 0, over parts, after a step, and as a configuration."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import RHO, batch, flat, normed, our_gradient, sam
from torch import Tensor, nn

from sam_repro.config.checks import check
from sam_repro.config.identity import cell_hash
from sam_repro.config.lines import compose_line
from sam_repro.config.schema1 import modern
from sam_repro.optimizer import (
    SAM,
    SGD,
    Cost,
    SAMBall,
    SAMRandom,
    SAMSecondOrder,
    parameter_groups,
)
from sam_repro.oracle import Objective
from sam_repro.run import build
from sam_repro.run.dry_build import findings

pytestmark = pytest.mark.usefixtures("float64")
VARIANTS: dict[str, dict[str, Any]] = {
    "p = 1.5": {"rule": SAMBall, "p": 1.5},
    "p = 3": {"rule": SAMBall, "p": 3},
    "p = inf": {"rule": SAMBall, "p": "inf"},
    "two steps": {"rule": SAMBall, "ascent_steps": 2, "p": 2},
    "three steps, p = inf": {"rule": SAMBall, "ascent_steps": 3, "p": "inf"},
    "random": {"rule": SAMRandom},
    "second order": {"rule": SAMSecondOrder},
    "no_norm": {"rule": SAM, "perturb": "no_norm"},
    "only_norm": {"rule": SAM, "perturb": "only_norm"},
    "only_norm, second order": {"rule": SAMSecondOrder, "perturb": "only_norm"},
    "no_norm, two steps, p = inf": {"rule": SAMBall, "perturb": "no_norm", "ascent_steps": 2, "p": "inf"},
    "only_norm, random": {"rule": SAMRandom, "perturb": "only_norm"},
}
OPTIONS = {SAM: "sam", SAMBall: "sam_ball", SAMRandom: "sam_random", SAMSecondOrder: "sam_second_order"}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_rho_zero_is_bitwise_sgd(options: dict[str, Any]) -> None:
    models = normed(0.3), normed(0.3)
    rules = sam(models[0], 0.0, **options), SGD(torch.optim.SGD(models[1].parameters(), lr=0.1))
    for step in range(3):
        for model, rule in zip(models, rules, strict=True):
            torch.manual_seed(step)
            rule.step(Objective(model, F.cross_entropy)(*batch(seed=step)))
    assert torch.equal(flat(models[0].parameters()), flat(models[1].parameters()))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_gradient_climbs_nowhere_and_gives_no_nan(options: dict[str, Any], dtype: torch.dtype) -> None:
    model = normed(0.3).to(dtype)
    before = flat(model.parameters())
    rule = sam(model, **options)
    rule.step(Objective(model, lambda outputs, _: 0 * outputs.square().sum())(batch()[0].to(dtype), batch()[1]))
    assert torch.equal(flat(model.parameters()), before)
    if not isinstance(rule, SAMRandom):
        assert flat(rule.ascent([torch.zeros_like(p) for p in rule.params], rule.params)).abs().max() == 0


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_two_halves_are_the_mean_of_two_batches(options: dict[str, Any]) -> None:
    x, y = batch()
    halves = []
    for part in range(2):
        model = normed(0.3)
        mine = slice(6 * part, 6 * part + 6)
        sam(model, **options).backward(Objective(model, F.cross_entropy)(x[mine], y[mine], noise=3 + part))
        halves.append(flat(p.grad for p in model.parameters()))
    torch.testing.assert_close(our_gradient(normed(0.3), x, y, 6, **options), sum(halves) / 2, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("m", [None, 6])
def test_declared_cost_is_the_counted_one(options: dict[str, Any], m: int | None) -> None:
    model = normed(0.3)
    rule = sam(model, **options)
    examples = 0

    def count(_: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal examples
        examples += len(inputs[0])

    model.register_forward_pre_hook(count)
    rule.backward(Objective(model, F.cross_entropy)(*batch()), m=m)
    cost = rule.cost(0)
    assert cost == Cost(passes=options.get("ascent_steps", 1) + 1, products=isinstance(rule, SAMSecondOrder))
    assert examples == 12 * (cost.passes + cost.products)  # a product has one forward


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_weights_come_back_and_statistics_move_once(options: dict[str, Any]) -> None:
    model = normed(0.3)
    twin = copy.deepcopy(model)
    before = flat(model.parameters())
    torch.manual_seed(3)
    twin(batch()[0])
    our_gradient(model, *batch(), **options)
    assert torch.equal(flat(model.parameters()), before)
    assert torch.equal(flat(model.buffers()), flat(twin.buffers()))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_channels_last_with_a_fused_base_equals_contiguous(options: dict[str, Any]) -> None:
    ends = []
    for layout, fused in ((torch.contiguous_format, False), (torch.channels_last, True)):
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(20, 3)]
        model = nn.Sequential(*body).to(memory_format=layout)
        made = {key: value for key, value in options.items() if key != "rule"}
        rule = options["rule"](torch.optim.SGD(parameter_groups(model, 0.0), lr=0.1, fused=fused), RHO, **made)
        images = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
        for step in range(2):
            torch.manual_seed(step)
            rule.step(Objective(model, F.cross_entropy)(images, batch(size=6)[1]), m=3 if step else None)
        assert all(p.grad.stride() == p.stride() for p in model.parameters())
        ends.append(flat(model.parameters()))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


def configured(options: dict[str, Any]) -> Any:
    words = [f"optimizer.{key}={value}" for key, value in options.items() if key != "rule"]
    return compose_line([f"optimizer={OPTIONS[options['rule']]}", *words])


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_good_configurations_are_not_refused(options: dict[str, Any]) -> None:
    config = configured(options)
    assert check(config) == findings([config]) == []
    assert type(build.make_rule(config, normed(0.3))) is options["rule"]


def test_the_variants_are_other_cells_and_what_they_were_as_keys_of_sam() -> None:
    hashes = [cell_hash(configured(options)) for options in VARIANTS.values()]
    assert len({*hashes, cell_hash(compose_line([]))}) == len(VARIANTS) + 1
    plain = compose_line([])
    keys = {"p": 2, "ascent_steps": 1, "ascent": "gradient", "second_order": False, "perturb": "all"}
    for cell, options in zip(hashes, VARIANTS.values(), strict=True):
        then = {key: value for key, value in options.items() if key != "rule"}
        then |= {"ascent": "random"} if options["rule"] is SAMRandom else {}
        then |= {"second_order": True} if options["rule"] is SAMSecondOrder else {}
        old = plain | {"optimizer": plain["optimizer"] | keys | then}
        assert cell_hash(modern(old)) == cell
    assert cell_hash(modern(plain | {"optimizer": plain["optimizer"] | keys})) == cell_hash(plain)
