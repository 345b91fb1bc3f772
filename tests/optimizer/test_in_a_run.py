"""Rules through the door of a run: what a run sets for them, and what it refuses."""

from pathlib import Path

import pytest
from called import command

from sam_repro import train

SHORT = ("wandb=disabled", "sharpness=none", "epochs=1", "batch_size=200", "dataset.validation.count=800", "device=cpu")

KEEPS = """from sam_repro.optimizer import SGD
class Keeps(SGD):
    def combine(self, g):
        self.kept = [x.clone() for x in g]
        return g
"""
OPTION = "# @package _global_\noptimizer:\n  _target_: rules_of_a_run.Keeps\n  _partial_: true\n"


@pytest.mark.parametrize(("name", "perturb"), [("looksam", "only_norm"), ("sam_direction", "no_norm")])
def test_perturb_in_a_run(tmp_path: Path, name: str, perturb: str) -> None:
    said = command(train.main, tmp_path, f"optimizer={name}", f"optimizer.perturb={perturb}", *SHORT)
    assert (said.code, said.err) == (0, "")
    assert list(tmp_path.rglob("result.json"))


def test_a_run_of_a_rule_with_state_that_nobody_saves_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules_of_a_run.py").write_text(KEEPS)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "keeps.yaml").write_text(OPTION)
    words = ["optimizer=keeps", "checkpoint_every=0", *SHORT]
    said = command(train.main, tmp_path, *words, "--config-dir", str(tmp_path))
    assert said.code == 2
    assert "Keeps.kept: changes during training, and a checkpoint would lose it" in said.err
    assert "Traceback" not in said.err
    assert not list(tmp_path.rglob("result.json"))


def test_a_rule_with_a_memory_of_fewer_examples_than_there_are_is_refused(tmp_path: Path) -> None:
    said = command(train.main, tmp_path, "optimizer=saf", "optimizer.examples=199", *SHORT)
    assert said.code == 2
    assert said.err == ("sam_repro: optimizer.examples = 199: the data have 200 training images; give as many\n")
    assert not list(tmp_path.rglob("run.json"))
