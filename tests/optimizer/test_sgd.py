"""SGD against a plain loop around torch.optim."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sam_repro.optimizer import SGD
from sam_repro.oracle import Objective


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"lr": 0.1}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "fused": True}),
        (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    ],
)
def test_equals_torch_exactly(
    optimizer: type[torch.optim.Optimizer], options: dict[str, Any], dtype: torch.dtype
) -> None:
    ours, theirs = network(dtype), network(dtype)
    rule, plain = SGD(optimizer(ours.parameters(), **options)), optimizer(theirs.parameters(), **options)
    objective = Objective(ours, F.cross_entropy)
    for _ in range(10):
        inputs, targets = torch.randn(12, 6, dtype=dtype), torch.randint(3, (12,))
        loss = rule.step(objective(inputs, targets))
        plain.zero_grad()
        expected = F.cross_entropy(theirs(inputs), targets)
        expected.backward()
        plain.step()
        assert torch.equal(loss, expected)
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b)
