"""The oracle: a pass against a plain forward and backward, its parts, and what it refuses."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense import batch, flat, normed, toy
from torch import nn

from sam_repro.oracle import Buffers, Objective

pytestmark = pytest.mark.usefixtures("float64")


def test_gradient_of_a_pass() -> None:
    model = normed()
    params = list(model.parameters())
    inputs, targets = batch(size=8)
    loss = F.cross_entropy(outputs := copy.deepcopy(model)(inputs), targets)
    term = Objective(model, F.cross_entropy)(inputs, targets).gradient(params)
    assert torch.equal(term.loss, loss)
    assert torch.equal(term.outputs, outputs)
    assert not any(tensor.requires_grad for tensor in (term.loss, term.outputs))
    assert all(p.grad is None for p in params)
    assert model[1].num_batches_tracked == 1


# Parts


@pytest.mark.parametrize(
    ("m", "sizes"), [(None, [8]), (8, [8]), (4, [4, 4]), (3, [3, 3, 2]), (7, [7, 1]), (1, [1] * 8)]
)
def test_split(m: int | None, sizes: list[int]) -> None:
    inputs, targets = batch(size=8)
    parts = Objective(normed(), F.cross_entropy)(inputs, targets, noise=3, rows=torch.arange(8)).split(m)
    assert [len(part.targets) for part in parts] == sizes
    assert [part.share for part in parts] == pytest.approx([size / 8 for size in sizes])
    assert torch.equal(torch.cat([part.inputs for part in parts]), inputs)
    assert torch.equal(torch.cat([part.targets for part in parts]), targets)
    assert torch.equal(torch.cat([part.rows for part in parts]), torch.arange(8))
    assert [part.noise for part in parts] == [3 + k for k in range(len(parts))]
    assert {part.shared_noise for part in parts} == {3}


@pytest.mark.parametrize("m", [0, -1, 9, 2.0, 2.5, True, "4"])
def test_m_out_of_range_is_refused(m: Any) -> None:
    with pytest.raises(ValueError, match=r"m = .*: must be an integer >= 1 and <= 8"):
        Objective(normed(), F.cross_entropy)(*batch(size=8)).split(m)


def test_mean_over_parts_is_the_gradient_of_the_batch_without_batch_norm() -> None:
    model = toy()
    params = list(model.parameters())
    oracle = Objective(model, F.cross_entropy)(*batch(size=8))
    terms = [(part.share, part.gradient(params).vector) for part in oracle.parts(3)]
    mean = sum(share * flat(vector) for share, vector in terms)
    torch.testing.assert_close(mean, flat(oracle.gradient(params).vector), rtol=1e-12, atol=1e-15)


# Refusals


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"autocast = float16: not supported.*bfloat16"):
        Objective(normed(), F.cross_entropy, autocast=torch.float16)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_norm_statistics": "last"}, "batch_norm_statistics = last: must be one of mean, first, both"),
        ({"weight_decay": float("nan")}, "weight_decay = nan: must be a finite number >= 0"),
        ({"weight_decay": {"a weight": -1.0}}, r"weight_decay = -1.0: must be a finite number >= 0"),
        ({"same_noise": "no"}, "same_noise = no: must be true or false"),
        ({"compile": "no"}, "compile = no: must be true or false"),
        ({"compiled_examples": 0}, "compiled_examples = 0: must be an integer >= 1"),
    ],
)
def test_bad_settings_of_an_objective_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Objective(normed(), F.cross_entropy, **settings)


# Batch norm


def buffers_of(model: nn.Module) -> Buffers:
    return Objective(model, F.cross_entropy).buffers()


def test_blocks_that_hold_buffers_may_be_nested_and_restore_each_flag() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.BatchNorm1d(6), nn.BatchNorm1d(6, momentum=None))
    model[1].track_running_stats = False
    buffers = buffers_of(model)
    before = copy.deepcopy(model.state_dict())
    flags = [True, False, True]
    inputs, _ = batch(size=8)
    expected = copy.deepcopy(model)(inputs)
    with buffers.held():
        with buffers.held():
            assert torch.equal(model(inputs), expected)
        assert torch.equal(model(inputs), expected)
        assert not any(layer.track_running_stats for layer in model)
    assert [layer.track_running_stats for layer in model] == flags
    with pytest.raises(MemoryError), buffers.held():
        raise MemoryError
    assert [layer.track_running_stats for layer in model] == flags
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [layer.momentum for layer in model] == [0.1, 0.1, None]


def test_held_in_evaluation_mode_normalises_by_the_running_statistics() -> None:
    model = normed()
    model(batch(size=20)[0])
    model.eval()
    inputs, _ = batch(size=8)
    expected = model(inputs)
    with buffers_of(model).held():
        assert torch.equal(model(inputs), expected)


def test_statistics_are_averaged_where_they_lie() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False), nn.SyncBatchNorm(6))
    model.append(model[0])  # once more
    buffers = buffers_of(model)
    assert set(buffers.norms) == {model[0], model[2]}
    assert len(buffers.norms) == 2
    addresses = [value.data_ptr() for value in buffers.values]
    for part in buffers.averaged(Objective(model, F.cross_entropy)(*batch(size=8)).split(2)):
        assert model[0].num_batches_tracked == 0
        model[0](part.inputs)
    assert model[0].num_batches_tracked == 1
    assert [value.data_ptr() for value in buffers.values] == addresses
    assert list(buffers_of(nn.Linear(2, 2)).averaged([])) == []
