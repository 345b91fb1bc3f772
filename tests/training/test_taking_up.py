"""A run that ends before its last step, and the one that takes it up: checkpoints, signals, the clock."""

import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import (
    LR,
    STEPS,
    Died,
    Listener,
    Net,
    assert_bitwise,
    assert_same,
    augmented_validation,
    dataset,
    final,
    numbers,
    random_parts,
    sam,
    trainer,
)
from torch import Tensor, nn

from sam_repro.schedule import Constant
from sam_repro.training import checkpoint, evaluation
from sam_repro.training.diagnostics import Diagnostics
from sam_repro.training.trainer import Interrupted


def test_each_step_can_be_taken_up(tmp_path: Path) -> None:
    """Each trainer dies in its second step, and the next one takes up what it saved after the first."""
    data, whole, rows = augmented_validation(), Listener(), []
    ours = final(tmp_path, whole, data=data, record_every=3, diagnostics=Diagnostics("drift", every=2, period=2))

    for start in range(STEPS):

        def die(done: int, start: int = start) -> None:
            if done == start + 2:
                raise Died

        parts = random_parts(model=Net(dropout=0.3), data=data, record_every=3)
        piece = trainer(tmp_path, **parts, diagnostics=Diagnostics("drift", every=2, period=2), checkpoint_every=0)
        assert piece.resume() == start
        listener = Listener(die)
        with nullcontext() if start == STEPS - 1 else pytest.raises(Died):
            piece.run(listener)
        rows += listener.rows
    assert_bitwise(ours, parts["model"].state_dict())
    assert numbers(rows) == numbers(whole.rows)
    assert "epoch/drift_g_v" in rows[-1]


def test_rate_and_options_are_the_trainers_own_after_loading(tmp_path: Path) -> None:
    saved = trainer(tmp_path, fused=False, max_steps=7)
    saved.run(Listener())
    saved.save()
    loaded = trainer(tmp_path, fused=True, schedule=Constant())
    rates = [group["lr"] for group in loaded.rule.base.param_groups]
    assert loaded.resume() == 7
    for group, rate in zip(loaded.rule.base.param_groups, rates, strict=True):
        assert group["lr"] is rate
        assert group["fused"] is True
    for p, q in zip(saved.rule.params, loaded.rule.params, strict=True):
        assert torch.equal(saved.rule.base.state[p]["momentum_buffer"], loaded.rule.base.state[q]["momentum_buffer"])
    listener = Listener()
    loaded.run(listener)
    assert {row["lr"] for row in listener.rows if row["kind"] == "train"} == {LR}
    assert all(float(rate) == LR for rate in rates)


def test_checkpoint_loads_with_the_default_of_torch(tmp_path: Path) -> None:
    saved = trainer(tmp_path, rule=sam, data=dataset(validation=7))
    saved.run(Listener())
    saved.save()
    state = torch.load(saved.path)
    assert state["rule"]["steps"] == STEPS
    assert_bitwise(state["model"], saved.model.state_dict())


def test_clock_counts_training_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("sam_repro.training.clock.time.perf_counter", lambda: now[0])

    def pass_time(module: nn.Module, inputs: Any) -> None:
        now[0] += 1.0 if module.training else 1000.0

    model = Net()
    model.register_forward_pre_hook(pass_time)
    listener = Listener()
    trained = trainer(tmp_path, model, sam, data=dataset(validation=7), checkpoint_every=0, max_steps=8)
    trained.run(listener)
    assert trained.clock.seconds == 16
    assert [row["seconds"] for row in listener.epochs()] == [10, 16]

    def die(done: int) -> None:
        if done == 13:
            raise Died

    for listener, end in ((Listener(die), pytest.raises(Died)), (Listener(), nullcontext())):
        again = trainer(tmp_path, Net(), sam, data=dataset(validation=7), checkpoint_every=0)
        again.resume()
        again.model.register_forward_pre_hook(pass_time)
        with end:
            again.run(listener)
    assert again.clock.seconds == 2 * STEPS


def test_checkpoints_come_every_so_many_seconds_and_are_told_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("sam_repro.training.trainer.time.monotonic", lambda: now[0])

    def pass_time(done: int) -> None:
        now[0] += 1.0

    def on_disk() -> int:
        return checkpoint.read(trained.path)["rule"]["steps"] if trained.path.exists() else 0

    told, listener = [], Listener(pass_time)
    listener.saving = lambda: told.append((on_disk(), trained.step))
    trained = trainer(tmp_path, checkpoint_every=4)
    trained.run(listener)
    assert told == [(0, 4), (4, 8), (8, 12)]
    assert on_disk() == 12


def test_the_first_signal_stops_a_run_after_its_step(tmp_path: Path) -> None:
    def send(done: int) -> None:
        if done == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)

    trained = trainer(tmp_path)
    with pytest.raises(Interrupted) as stop:
        trained.run(Listener(send))
    assert (stop.value.signal, stop.value.steps) == (signal.SIGINT, 7)
    assert checkpoint.read(trained.path)["rule"]["steps"] == 7


class Signalled(Net):
    """Gets a signal in the forward of this number."""

    at = 0

    def forward(self, images: Tensor) -> Tensor:
        self.at -= 1
        if not self.at:
            signal.raise_signal(signal.SIGTERM)
        return super().forward(images)


@pytest.mark.parametrize("at", [6, 7, 8])
def test_a_signal_ends_an_evaluation_which_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The first epoch has the forwards 1 to 5, then come two batches of validation and three of the test set."""
    monkeypatch.setattr(evaluation, "BATCH", 4)
    data = dataset(validation=7)
    whole, left, rest = Listener(), Listener(), Listener()
    undisturbed, again = (trainer(tmp_path / name, data=data, record_every=2) for name in ("whole", "left"))
    undisturbed.run(whole)
    model = Signalled()
    model.at = at
    stopped = trainer(tmp_path / "left", model, data=data, record_every=2)
    stopped.path.parent.mkdir()
    with pytest.raises(Interrupted) as stop:
        stopped.run(left)
    assert (stop.value.steps, model.at, left.epochs()) == (5, 0, [])
    assert again.resume() == 5
    again.run(rest)
    told = [{key: row[key] for key in row if key != "seconds"} for row in (*left.rows, *rest.rows)]
    assert told == [{key: row[key] for key in row if key != "seconds"} for row in whole.rows]
    assert_same(again.model, undisturbed.model, 0)
