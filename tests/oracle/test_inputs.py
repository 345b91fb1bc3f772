"""Inputs that are several tensors, and what an objective refuses in one line."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_repro.optimizer import SAM, SGD, SGDHess
from sam_repro.oracle import Objective
from sam_repro.oracle.products import ggn_vp, hvp

pytestmark = pytest.mark.usefixtures("float64")
LEFT, RIGHT, TARGETS = torch.linspace(-1, 1, 24), torch.linspace(2, -3, 16), torch.arange(8) % 3


class Two(nn.Module):
    """Two inputs, or one that is both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(3, 3), nn.Linear(2, 3)
        self.norm, self.dropout = nn.BatchNorm1d(3), nn.Dropout(0.3)

    def forward(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        if right is None:
            left, right = left.split([3, 2], dim=1)
        return self.dropout(self.norm(torch.tanh(self.left(left)) * self.right(right)))


def parts() -> tuple[Tensor, Tensor]:
    return LEFT.view(8, 3).double(), RIGHT.view(8, 2).double()


FORMS: dict[str, Callable[[], Any]] = {
    "mapping": lambda: dict(zip(("right", "left"), reversed(parts()), strict=True)),
    "tuple": parts,
    "list": lambda: list(parts()),
}


@pytest.mark.parametrize("m", [None, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", [SGD, lambda base: SAM(base, rho=0.1), lambda base: SGDHess(base, rho=0.1)])
def test_several_tensors_are_arguments_by_position_or_by_name(rule: Any, form: str, m: int | None) -> None:
    ends = []
    for inputs in (FORMS[form](), torch.cat(parts(), dim=1)):
        model = Two()
        made = rule(torch.optim.SGD(model.parameters(), lr=0.1))
        for step in range(2):
            made.step(Objective(model, F.cross_entropy)(inputs, TARGETS, noise=step), m=m)
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-13, atol=1e-15, msg=name)


@pytest.mark.parametrize(
    ("inputs", "kinds"),
    [
        ({"left": LEFT, "right": "text"}, "a dict of Tensor, str"),
        ((LEFT, {}), "a tuple of Tensor, dict"),
        ([], "nothing"),
    ],
)
def test_inputs_of_another_kind_are_one_line(inputs: Any, kinds: str) -> None:
    with pytest.raises(TypeError, match=rf"inputs: must be a tensor, a sequence .*{kinds} came"):
        Objective(Two(), F.cross_entropy)(inputs, TARGETS)


def test_parts_of_inputs_of_different_sizes_are_one_line() -> None:
    oracle = Objective(Two(), F.cross_entropy)((LEFT.view(8, 3), RIGHT[:2].view(1, 2)), TARGETS)
    with pytest.raises(ValueError, match="m = 4: 8 targets, but inputs with 1 rows"):
        oracle.split(4)


def test_outputs_that_are_no_tensor_are_one_line() -> None:
    model = Two()
    model.dropout = nn.Module()
    model.dropout.forward = lambda x: {"logits": x}
    params = list(model.parameters())
    oracle = Objective(model, F.cross_entropy)(parts(), TARGETS)
    for ask in (oracle.gradient, lambda w: hvp(oracle, w, w), lambda w: ggn_vp(oracle, w, w)):
        with pytest.raises(TypeError, match="the model returned dict: an objective needs one tensor of outputs"):
            ask(params)


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 3, sparse=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.words(inputs).sum(1)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.complex128))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.to(self.weight.dtype) @ self.weight).abs()


@pytest.mark.parametrize("rule", [SGD, lambda base: SAM(base, rho=0.1)])
@pytest.mark.parametrize(
    ("model", "line"),
    [
        (Sparse(), r"the gradient of a weight \[10, 3\] is sparse: .*sparse=False"),
        (Complex(), r"a weight \[3, 3\] is complex: .*view_as_real"),
    ],
)
def test_weights_and_gradients_that_no_rule_takes_are_one_line(model: nn.Module, line: str, rule: Any) -> None:
    before = [p.detach().clone() for p in model.parameters()]
    inputs = torch.arange(24).view(8, 3) % 10
    with pytest.raises(TypeError, match=line):
        rule(torch.optim.SGD(model.parameters(), lr=0.1)).step(Objective(model, F.cross_entropy)(inputs, TARGETS))
    assert all(torch.equal(p, start) and p.grad is None for p, start in zip(model.parameters(), before, strict=True))


def test_each_target_has_a_row_or_none_has() -> None:
    objective = Objective(nn.Linear(2, 2), nn.functional.cross_entropy)
    with pytest.raises(ValueError, match="rows: 1 numbers for 3 targets"):
        objective(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), rows=torch.zeros(1, dtype=torch.int64))
