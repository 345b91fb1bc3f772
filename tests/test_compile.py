"""A compiled forward against the eager one: gradients, statistics, noise, names, and a run that is taken up."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

from sam_repro.config.lines import compose_line
from sam_repro.errors import UserError
from sam_repro.optimizer import SAM
from sam_repro.oracle import Objective
from sam_repro.run import build
from sam_repro.run.numerics import set_numerics, with_numerics
from sam_repro.training.trainer import Trainer

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler for the CPU")


class Net(nn.Module):
    """A convolution, batch norm, and dropout if asked for."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(48, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(self.conv(images)).relu().flatten(1)))


def after_steps(compile: bool, autocast: torch.dtype | None = None) -> tuple[nn.Module, list[Tensor], Tensor]:
    """The model after two steps of SAM, and gradient and loss of the last."""
    model = Net()
    objective = Objective(model, F.cross_entropy, autocast=autocast, compile=compile)
    rule = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True), rho=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        images, labels = torch.randn(8, 1, 4, 4, generator=generator), torch.randint(3, (8,), generator=generator)
        loss = rule.step(objective(images, labels))
    return model, [p.grad for p in rule.params if p.grad is not None], loss


@pytest.mark.parametrize(("autocast", "tolerance"), [(None, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_compiled_step_is_the_eager_one(autocast: torch.dtype | None, tolerance: float) -> None:
    """Within rounding: fused kernels keep intermediate results that eager ones round."""
    ours, gradient, loss = after_steps(True, autocast)
    theirs, expected, clean = after_steps(False, autocast)
    torch.testing.assert_close(loss, clean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance)
    assert list(ours.state_dict()) == list(theirs.state_dict())  # no _orig_mod
    for name, value in ours.state_dict().items():  # running statistics: moved once a step, in pass 1
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=tolerance, atol=tolerance, msg=name)
    assert ours.norm.num_batches_tracked == 2


def test_both_passes_of_a_compiled_step_draw_the_same_noise() -> None:
    """With ρ = 0 the second pass is the first: with other masks its loss would be another."""
    model = Net(dropout=0.5)
    objective = Objective(model, F.cross_entropy, compile=True)
    rule = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.0)
    losses: list[list[Tensor]] = []
    for _ in range(2):
        oracle = objective(torch.ones(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64))
        rule.backward(oracle, observe=lambda seen: losses.append([term.loss for term in seen.values()]))
        rule.base.zero_grad()
    assert all(first == second for first, second in losses)
    assert losses[0][0] != losses[1][0]


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no such compiler")
    with pytest.raises(UserError, match=r"compile = true: needs a C\+\+ compiler"):
        with_numerics(compose_line(["compile=true", "device=cpu"]))


def trained(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """The weights of a compiled run on the digits."""
    folder.mkdir(exist_ok=True)
    settings = ["compile=true", "max_steps=4", "batch_size=32"]
    config = with_numerics(compose_line(settings)) | changes
    data = build.make_data(config)
    model = build.make_model(config, build.shape_of(data))
    trainer = Trainer(
        build.make_objective(config, model),
        build.make_rule(config, model),
        build.make_schedule(config),
        data,
        build.make_plan(config),
        build.make_diagnostics(config),
        folder,
    )
    trainer.resume()
    trainer.run(Quiet())
    trainer.save()
    return {name: value.clone() for name, value in model.state_dict().items()}


class Quiet:
    def step(self, done: int) -> None:
        pass

    def row(self, row: dict[str, Any]) -> None:
        pass

    def saving(self) -> None:
        pass


@pytest.mark.usefixtures("without_inductor")
def test_a_compiled_run_is_taken_up(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    trained(tmp_path / "parts", max_steps=2)
    parts = trained(tmp_path / "parts")
    assert list(whole) == list(parts)
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


@pytest.mark.usefixtures("without_inductor")
def test_the_last_smaller_batch_runs_the_eager_model() -> None:
    """Graphs are made for the size that is told, in both states of the statistics, and for no other."""
    model = Net()
    objective = Objective(model, F.cross_entropy, compile=True, compiled_examples=8)
    rule = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1)
    counters.clear()
    for examples in (8, 8, 3, 8):
        rule.step(objective(torch.ones(examples, 1, 4, 4), torch.zeros(examples, dtype=torch.int64)))
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize(("settings", "examples"), [((), 32), (("micro_batch=16",), 16), (("m=8",), 8)])
def test_a_run_compiles_the_passes_over_its_usual_size(settings: tuple[str, ...], examples: int) -> None:
    config = with_numerics(compose_line(["compile=true", "batch_size=32", *settings]))
    objective = build.make_objective(config, Net())
    assert objective.forward(examples) is not objective.model
    assert objective.forward(examples - 1) is objective.model


@pytest.mark.usefixtures("without_inductor")
def test_each_run_of_a_sweep_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's limit on the forms of one forward is for a run, and not for all runs of a process."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    for seed in range(3):
        set_numerics(with_numerics(compose_line(["compile=true", "threads=1"])))
        counters.clear()
        trained(tmp_path / str(seed), max_steps=2, batch_size=16 + seed)
        assert counters["stats"]["unique_graphs"] == 2, seed
