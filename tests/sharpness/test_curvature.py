"""Products and gradients of a sample against whole matrices and curvlinops; what is measured is left as it was."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import Net, dense, images, inputs_of, make_subject

from sam_repro.oracle import Objective
from sam_repro.oracle.products import hessian, hvp
from sam_repro.sharpness import Curvature, LambdaMax, Notes, Unmeasurable, undisturbed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from curvlinops import GGNLinearOperator, HessianLinearOperator

BATCHES = [7, 4, 1]  # unequal on purpose


def batches(sizes=BATCHES):
    pixels = images(sum(sizes), 5)
    labels = torch.arange(len(pixels)) % 2
    return list(zip(inputs_of(pixels).split(sizes), labels.split(sizes), strict=True))


def matrix(product, size):
    return torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)], dim=1)


def close(a, b):
    return torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("sizes", [BATCHES, [12]])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_hessian_is_that_of_the_whole_sample(net, mode, sizes):
    with undisturbed(net, mode):
        curvature = Curvature(net, F.cross_entropy, batches(sizes))
        ours = matrix(curvature.hvp, curvature.size)
    net.train(mode == "train")
    close(ours, dense(net, batches(sizes)))


def test_inputs_by_name_are_those_by_position(net):
    with undisturbed(net):
        named = [({"x": x.float()}, y) for x, y in batches()]
        plain = [(x.float(), y) for x, y in batches()]
        v = torch.ones(Curvature(net, F.cross_entropy, plain).size, dtype=torch.float64)
        assert torch.equal(*(Curvature(net, F.cross_entropy, given).hvp(v) for given in (named, plain)))


def test_in_eval_mode_batches_do_not_matter_and_in_train_mode_they_do(net):
    found = {}
    for mode in ("eval", "train"):
        for sizes in (BATCHES, [12]):
            with undisturbed(net, mode):
                curvature = Curvature(net, F.cross_entropy, batches(sizes))
                found[mode, len(sizes)] = matrix(curvature.hvp, curvature.size)
    close(found["eval", 3], found["eval", 1])
    assert (found["train", 3] - found["train", 1]).norm() > 0.1 * found["train", 1].norm()
    assert (found["train", 1] - found["eval", 1]).norm() > 0.1 * found["eval", 1].norm()


def test_against_curvlinops(net):
    params = [p for name, p in net.named_parameters() if name != "unused"]
    data = [(x.double(), y) for x, y in batches()]
    with undisturbed(net):
        curvature = Curvature(net, F.cross_entropy, data, params=params)
        v = torch.randn(curvature.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        for operator, ours in ((HessianLinearOperator, curvature.hvp), (GGNLinearOperator, curvature.ggn_vp)):
            close(ours(v), operator(net, nn.CrossEntropyLoss(), params, data) @ v)


def test_the_gradient_is_that_of_the_whole_sample(net):
    (whole,) = [(torch.cat([x for x, _ in batches()]).double(), torch.cat([y for _, y in batches()]))]
    params = list(net.parameters())
    expected = torch.autograd.grad(F.cross_entropy(net(whole[0]), whole[1]), params, materialize_grads=True)
    with undisturbed(net):
        curvature = Curvature(net, F.cross_entropy, batches())
        close(curvature.gradient(), torch.cat([g.reshape(-1) for g in expected]))
        close(curvature.loss(), F.cross_entropy(net(whole[0]), whole[1]).detach())


def test_some_of_the_weights_are_a_block_of_the_matrix(net):
    for names in (["head.weight", "head.bias"], ["conv.weight"], ["unused"]):
        with undisturbed(net):
            curvature = Curvature(
                net, F.cross_entropy, batches(), params=[p for n, p in net.named_parameters() if n in names]
            )
            close(matrix(curvature.hvp, curvature.size), dense(net, batches(), names))


def test_kept_graph_of_moved_weights_is_not_used_again(net):
    with undisturbed(net):
        curvature = Curvature(net, F.cross_entropy, batches([12]))
        v = torch.ones(curvature.size, dtype=torch.float64)
        at_w = curvature.hvp(v)
        backup = [p.detach().clone() for p in curvature.params]
        with curvature.moved(curvature.flat(backup) + 0.1, backup):
            elsewhere = curvature.hvp(v)
            close(elsewhere, dense(net, batches([12])) @ v)
        close(curvature.hvp(v), at_w)
    assert (elsewhere - at_w).norm() > 0.1 * at_w.norm()
    assert all(torch.equal(p, before) for p, before in zip(curvature.params, backup, strict=True))


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_measuring_leaves_everything_as_it_was(mode):
    model = nn.Sequential(Counting(), Net(), nn.BatchNorm1d(2).double())
    model[1].eval()
    model.train()
    model[1].dropout.eval()
    for i, p in enumerate(model.parameters()):
        p.grad = torch.full_like(p, float(i))
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters()]
    numerics = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measurement = LambdaMax(mode=mode, examples=20)(make_subject(model), Notes())
        assert torch.is_autocast_enabled("cpu")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for p, (gradient, bits) in zip(model.parameters(), gradients, strict=True):
        assert p.grad is gradient
        assert torch.equal(gradient, bits)
    assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision) == numerics
    assert measurement.protocol["mode"] == mode


def test_random_numbers_go_on_as_if_nothing_had_been_measured(net, subject):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    LambdaMax()(subject, Notes())
    assert torch.equal(torch.rand(3), expected)


def test_autocast_of_the_caller_does_not_enter(net, subject):
    plain = LambdaMax()(subject, Notes()).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert LambdaMax()(subject, Notes()).values == plain


def test_all_is_put_back_after_a_failure(net):
    with pytest.raises(Unmeasurable), undisturbed(net, "train"):
        raise Unmeasurable("no")
    assert not net.training


def test_dropout_in_train_mode_is_refused_and_in_eval_mode_is_not():
    model = Net(dropout=0.3)
    LambdaMax()(make_subject(model), Notes())
    with pytest.raises(Unmeasurable, match=r"two passes over the data do not agree .* choose sharpness.mode=eval"):
        LambdaMax(mode="train")(make_subject(model), Notes())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(net, subject, bad):
    with torch.no_grad():
        net.head.bias[0] = bad
    with pytest.raises(Unmeasurable, match="the weights are not finite"):
        LambdaMax()(subject, Notes())


def test_a_loss_that_is_not_finite_is_refused(net, subject):
    with torch.no_grad():
        net.head.weight.mul_(1e308)
    with pytest.raises(Unmeasurable, match="the loss of the sample is"):
        LambdaMax()(subject, Notes())


def test_a_pattern_that_fits_no_parameter_is_refused(subject):
    with pytest.raises(Unmeasurable, match="no weights are chosen"):
        LambdaMax(parameters="transformer")(subject, Notes())


def test_no_data(net):
    with pytest.raises(Unmeasurable, match="no data"):
        Curvature(net, F.cross_entropy, [])


def test_products_of_one_graph_are_those_of_many(net):
    x, y = batches([12])[0]
    oracle = Objective(net, F.cross_entropy)(x.double(), y)
    params = list(net.parameters())
    product = hessian(oracle, params)
    for seed in range(3):
        v = [torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(seed)) for p in params]
        for ours, theirs in zip(product(v), hvp(oracle, params, v), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()
    assert oracle.loss() == F.cross_entropy(net(x.double()), y)
