"""What a pass moves: buffers of every kind once a step, also where autograd repeats a forward."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from buffered import LAYERS, Centred, Net, batch
from torch import Tensor, nn

from sam_repro.optimizer import SAM, SGD, ByClosure, LookSAM, Rule, SGDHess
from sam_repro.oracle import Objective, reseed
from sam_repro.oracle.products import ggn_diagonal, ggn_vp, hessian, hvp

pytestmark = pytest.mark.usefixtures("float64")

RULES: dict[str, Callable[..., Rule]] = {
    "sam": SAM,
    "looksam": partial(LookSAM, period=2),
    "gauss_newton": SGDHess,
    "hessian": partial(SGDHess, curvature="hessian"),
    "hutchinson_abs": partial(SGDHess, curvature="hutchinson_abs"),
}


def base(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def trained(rule: Callable[..., Rule], model: nn.Module, m: int | None = None, **options: Any) -> dict[str, Tensor]:
    """The state after three steps."""
    objective, made = Objective(model, F.cross_entropy, **options), rule(base(model))
    for step in range(3):
        made.step(objective(*batch(step), noise=step), m=m)
    return model.state_dict()


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def after_one_forward(model: nn.Module, inputs: Tensor, noise: int = 0) -> dict[str, Tensor]:
    """The buffers that one forward of a copy leaves."""
    twin = copy.deepcopy(model)
    reseed(noise, torch.device("cpu"))
    twin(inputs)
    return dict(twin.named_buffers())


def gradients(model: nn.Module, passes: int = 2) -> list[list[Tensor]]:
    """The gradients of the passes over one batch, at one point."""
    oracle, params = Objective(model, F.cross_entropy)(*batch(), noise=1), list(model.parameters())
    return [oracle.gradient(params, update_statistics=k == 0).vector for k in range(passes)]


def plain(model: nn.Module) -> dict[str, Tensor]:
    """The state after three steps of torch alone."""
    optimizer = base(model)
    for step in range(3):
        inputs, targets = batch(step)
        reseed(step, torch.device("cpu"))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_step_of_sgd_is_torchs(layer: str) -> None:
    assert_same(trained(SGD, Net(layer)), plain(Net(layer)))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", RULES)
def test_without_a_radius_every_rule_is_sgd(layer: str, rule: str) -> None:
    assert_same(trained(partial(RULES[rule], rho=0.0), Net(layer)), trained(SGD, Net(layer)))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reentrant", [None, False])
def test_buffers_move_as_in_one_forward(layer: str, rule: str, reentrant: bool | None) -> None:
    model = Net(layer, reentrant)
    expected = after_one_forward(model, batch()[0])
    RULES[rule](base(model), rho=0.5).step(Objective(model, F.cross_entropy)(*batch(), noise=0))
    assert_same(dict(model.named_buffers()), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_both_passes_are_of_one_function(layer: str) -> None:
    first, second, third = gradients(Net(layer), 3)
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("layer", LAYERS)
def test_products_are_of_the_function_of_the_passes(layer: str) -> None:
    """After a pass that moved the buffers, they are what they were before it."""
    model = Net(layer)
    params = list(model.parameters())
    oracle = Objective(model, F.cross_entropy)(*batch(), noise=1)
    v = [torch.linspace(-1, 1, p.numel()).view_as(p) for p in params]

    def products() -> list[list[Tensor]]:
        found = [hvp(oracle, params, v), hessian(oracle, params)(v), ggn_vp(oracle, params, v)]
        return [*found, ggn_diagonal(oracle, params), [oracle.loss()]]

    before, expected = copy.deepcopy(model.state_dict()), products()
    assert_same(model.state_dict(), before)
    oracle.gradient(params)
    moved = copy.deepcopy(model.state_dict())
    for ours, theirs in zip(products(), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert_same(model.state_dict(), moved)


# Checkpointed blocks


@pytest.mark.parametrize("by_method", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_block_changes_nothing(layer: str, reentrant: bool, by_method: bool) -> None:
    for rule in (SGD, partial(SAM, rho=0.1), partial(LookSAM, rho=0.1, period=2)):
        assert_same(trained(rule, Net(layer, reentrant, by_method)), trained(rule, Net(layer)))


@pytest.mark.parametrize("layer", LAYERS)
def test_products_through_a_checkpointed_block(layer: str) -> None:
    for curvature in ("gauss_newton", "hessian", "gauss_newton_diagonal", "hutchinson_abs"):
        rule = partial(SGDHess, rho=0.1, curvature=curvature)
        ours, theirs = trained(rule, Net(layer, reentrant=False)), trained(rule, Net(layer))
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-10, atol=1e-12, msg=name)


def test_one_graph_serves_several_products_through_a_checkpointed_block() -> None:
    model = Net("nested", reentrant=False)
    params = list(model.parameters())
    oracle = Objective(model, F.cross_entropy)(*batch(), noise=1)
    v = [torch.ones_like(p) for p in params]
    product = hessian(oracle, params)
    for _ in range(2):
        for ours, theirs in zip(product(v), hvp(oracle, params, v), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_torch_refuses_products_through_a_reentrant_checkpoint() -> None:
    model = Net("batch norm", reentrant=True)
    for curvature in ("gauss_newton", "hessian"):
        before = copy.deepcopy(model.state_dict())
        before["block.1.num_batches_tracked"] += 1
        with pytest.raises(RuntimeError, match="use_reentrant"):
            SGDHess(base(model), 0.1, curvature).step(Objective(model, F.cross_entropy)(*batch()))
        assert model.block[1].num_batches_tracked == before["block.1.num_batches_tracked"]
        assert model.block[1].track_running_stats


def test_another_leaf_that_requires_a_gradient_gets_none() -> None:
    inputs, targets = batch()
    model, criterion = Net("batch norm"), nn.Module()
    criterion.scale = nn.Parameter(torch.ones(()))
    criterion.forward = lambda outputs, targets: F.cross_entropy(criterion.scale * outputs, targets)
    inputs.requires_grad_()
    model.first.weight.grad = kept = torch.ones(4, 5)
    Objective(model, criterion)(inputs, targets).gradient(list(model.last.parameters()))
    Objective(model, criterion)(inputs, targets).gradient([p for p in model.parameters() if p.grad is None])
    assert model.first.weight.grad is kept
    assert torch.equal(kept, torch.ones(4, 5))
    assert inputs.grad is criterion.scale.grad is None


# Layers that are put in later


def converted(model: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def replaced(model: nn.Module) -> nn.Module:
    model.block[1] = nn.BatchNorm1d(4)
    return model


def appended(model: nn.Module) -> nn.Module:
    model.block.append(nn.Sequential(nn.BatchNorm1d(4), Centred()))
    return model


@pytest.mark.parametrize(
    ("change", "compile"), [(converted, False), (replaced, False), (replaced, True), (appended, False)]
)
@pytest.mark.usefixtures("without_inductor")
def test_layers_are_those_of_now(change: Callable[[nn.Module], nn.Module], compile: bool) -> None:
    ours, theirs = Net("batch norm"), change(Net("batch norm"))
    objective = Objective(ours, F.cross_entropy, compile=compile)
    SGD(base(ours)).backward(objective(*batch(), noise=0))
    theirs.load_state_dict(change(ours).state_dict())
    expected = after_one_forward(theirs, batch(1)[0], noise=1)
    SAM(base(ours), rho=0.5).step(objective(*batch(1), noise=1))
    assert_same(dict(ours.named_buffers()), expected)


# Compiled


@pytest.mark.parametrize(
    ("layer", "reentrant"),
    [("batch norm", False), ("batch norm", True)]
    + [(layer, None) for layer in ("instance norm", "own batch norm", "spectral norm", "own buffers")],
)
@pytest.mark.usefixtures("without_inductor")
def test_compiled_passes_move_what_eager_ones_do(layer: str, reentrant: bool | None) -> None:
    rule = partial(SAM, rho=0.1)
    models = Net(layer, reentrant), Net(layer, reentrant)
    for model in models:
        model.block[3] = nn.Identity()  # a graph draws other masks
    assert_same(trained(rule, models[0], compile=True), trained(rule, models[1]))


# Parts


@pytest.mark.parametrize("statistics", ["mean", "first", "both"])
@pytest.mark.parametrize("layer", ["own batch norm", "instance norm"])
def test_running_statistics_of_any_norm_are_those_of_batch_norm(layer: str, statistics: str) -> None:
    """The mean over the parts of what each part makes of the start."""
    model = Net(layer)
    norm = next(module for module in model.modules() if hasattr(module, "running_mean"))
    halves = [after_one_forward(model, half) for half in batch()[0].split(4)]
    name = next(name for name in halves[0] if name.endswith("running_var"))
    expected = halves[0][name] if statistics == "first" else (halves[0][name] + halves[1][name]) / 2
    objective = Objective(model, F.cross_entropy, batch_norm_statistics=statistics)
    (SGD if statistics == "both" else partial(SAM, rho=0.5))(base(model)).step(objective(*batch(), noise=0), m=4)
    torch.testing.assert_close(norm.running_var, expected, rtol=1e-14, atol=0)


def test_own_buffers_move_in_the_first_part_alone() -> None:
    model = Net("own buffers")
    expected = after_one_forward(model, batch()[0][:3])
    SAM(base(model), rho=0.5).step(Objective(model, F.cross_entropy)(*batch(), noise=0), m=3)
    assert_same(dict(model.named_buffers()), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_pieces_of_one_batch_move_what_its_parts_do(layer: str) -> None:
    models = Net(layer), Net(layer)
    halves = zip(*(tensor.split(4) for tensor in batch()), strict=True)
    objectives = [Objective(model, F.cross_entropy) for model in models]
    SGD(base(models[0])).step(objectives[0](*batch(), noise=0), m=4)
    SAM(base(models[1]), rho=0.0).step(*(objectives[1](*half, noise=k) for k, half in enumerate(halves)))
    for (name, ours), theirs in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15, msg=name)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_closure_moves_what_an_objective_does(layer: str) -> None:
    ours, theirs = Net(layer), Net(layer)
    inputs, targets = batch()
    closures, plain = ByClosure(SAM(base(ours), rho=0.5), ours), SAM(base(theirs), rho=0.5)

    def closure() -> Tensor:
        loss = F.cross_entropy(ours(inputs), targets)
        loss.backward()
        return loss

    for seed in range(2):
        torch.manual_seed(seed)
        closures.step(closure)
        torch.manual_seed(seed)
        plain.step(Objective(theirs, F.cross_entropy)(inputs, targets))
    assert_same(ours.state_dict(), theirs.state_dict())


def test_where_both_passes_move_the_statistics_they_move_all_buffers() -> None:
    model = Net("own buffers")
    SAM(base(model), rho=0.5).step(Objective(model, F.cross_entropy, batch_norm_statistics="both")(*batch()))
    assert model.block[1].calls == 2


def test_a_failing_pass_puts_every_buffer_back() -> None:
    model = Net("nested")
    buffers = dict(model.named_buffers())
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError

    model.last.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        SAM(base(model), rho=0.5).step(Objective(model, F.cross_entropy)(*batch()))
    after = dict(model.named_buffers())
    assert all(after[name] is buffer for name, buffer in buffers.items() if not name.endswith("calls"))
    assert all(layer.track_running_stats for layer in model.modules() if isinstance(layer, nn.BatchNorm1d))
