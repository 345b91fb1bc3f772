"""What a finished run leaves on the disk: its files, its result, and weights that are those of the result."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished import COUNT, NOISE_SEED, RATE, Run
from safetensors.numpy import load_file
from sklearn.datasets import load_digits
from torch import nn

import sam_repro
from sam_repro.config.table_reader import METRICS
from sam_repro.errors import UserError

SCORES = {"error_pct": float, "error_top5_pct": float, "accuracy_pct": float, "loss": float, "epoch": (int, float)}


RESULT = {
    "schema": int,
    "name": str,
    "seed": int,
    "config": dict,
    "cell_hash": str,
    "numerics": dict,
    "inputs": str,
    "rows": {"rows": int, "bytes": int, "sha256": str},
    "overrides": list,
    "cell": (str, type(None)),
    "metrics": {
        "test": {"last": SCORES, "best_validation": (dict, type(None)), "peak": SCORES},
        "validation": {"last": (dict, type(None)), "best": (dict, type(None))},
        "train": {"error_pct": float, "loss": float, "perturbed_loss": (float, type(None))},
    },
    "sharpness": dict,
    "label_noise": (dict, type(None)),
    "cost": {
        "passes": int,
        "forwards": int,
        "products": int,
        "steps": int,
        "seconds": float,
        "examples_per_second": float,
        "peak_memory_bytes": (int, type(None)),
    },
    "weights_sha256": str,
    "sources_sha256": str,
    "bit_exact": bool,
    "environment": dict,
    "git": dict,
}


def assert_has(value: Any, schema: Any, where: str = "result") -> None:
    if not isinstance(schema, dict):
        assert isinstance(value, schema), where
        assert isinstance(value, bool) == (schema is bool), where
        return
    assert schema.keys() <= value.keys(), where
    for key, inner in schema.items():
        assert_has(value[key], inner, f"{where}/{key}")


def test_result_has_the_documented_keys(run: Run) -> None:
    result = run.result
    assert_has(result, RESULT)
    assert result["schema"] == 2
    split = run.settings[-1] != "seed=3"
    for scores in (result["metrics"]["test"]["best_validation"], *result["metrics"]["validation"].values()):
        assert (scores is not None) == split
        if scores is not None:
            assert_has(scores, SCORES)
    assert (result["label_noise"] is not None) == split
    assert (result["metrics"]["train"]["perturbed_loss"] is not None) == split
    assert result["cost"]["peak_memory_bytes"] is None
    assert result["cell"] is None
    assert result["bit_exact"] is True
    assert {"torch", "python", "cpu_threads"} <= result["environment"].keys()
    assert result["git"].keys() == {"commit", "dirty"}


def test_a_table_may_name_each_number_of_a_result_and_no_other(noisy: Run) -> None:
    result = noisy.result
    best = {part: result["metrics"][part][key] for part, key in (("test", "best_validation"), ("validation", "best"))}
    apart = {part: result[part] for part in ("label_noise", "cost")}
    for part, content in {**best, "train": result["metrics"]["train"], **apart}.items():
        numbers = {key for key, value in content.items() if value is None or type(value) in (int, float)}
        assert numbers - {"epoch", "seed"} == set(METRICS[part]), part


def test_result_says_what_ran(plain: Run, noisy: Run) -> None:
    first, second = plain.result, noisy.result
    assert (first["name"], first["seed"], second["name"], second["seed"]) == ("first-try", 3, "main", 0)
    assert (first["overrides"], second["overrides"]) == (plain.settings, noisy.settings)
    assert first["config"]["choices"]["optimizer"] == "sgd"
    assert first["config"]["rho"] is None
    assert (second["config"]["rho"], second["config"]["optimizer"]["rho"]) == (0.1, 0.1)
    assert second["config"]["label_noise"] == {"rate": RATE, "kind": "uniform", "seed": NOISE_SEED}
    assert first["config"]["device"] == "cpu"
    assert first["config"]["precision"] in ("fp32", "bf16")  # what "auto" was on this machine
    assert plain.home.parent.parent.name == "first-try"
    assert plain.home.name == "seed=3"
    assert first["cell_hash"] != second["cell_hash"]


def test_home_holds_what_a_finished_run_keeps(run: Run) -> None:
    other = {"last.safetensors"} if "report=best_validation" in run.settings else {"best.safetensors"}
    kept = {"result.json", "run.json", "metrics.jsonl", "model.safetensors"}
    assert {file.name for file in run.home.iterdir()} - {"uncommitted.diff"} == kept | (
        set() if run.result["label_noise"] is None else other
    )


def test_run_file(run: Run) -> None:
    content = json.loads((run.home / "run.json").read_text())
    result = run.result
    for key in ("config", "overrides", "cell_hash", "schema"):
        assert content[key] == result[key]
    (start,) = content["starts"]
    assert start["step"] == 0
    assert start["argv"] == ["sam_repro", *run.settings]
    assert start["environment"] == result["environment"]
    assert start["sources_sha256"] == result["sources_sha256"]
    assert content["threads"] == start["environment"]["cpu_threads"]


def test_weights_hash_recomputed_from_the_file(run: Run) -> None:
    sha = hashlib.sha256()
    for name, array in sorted(load_file(run.home / "model.safetensors").items()):
        assert array.dtype in (np.float32, np.int64)
        shape = ",".join(str(length) for length in array.shape)
        sha.update(name.encode() + b"\0" + str(array.dtype).encode() + b"\0" + shape.encode() + b"\0")
        sha.update(array.astype(array.dtype.newbyteorder("<")).tobytes(order="C"))
    assert sha.hexdigest() == run.result["weights_sha256"]


def predicted(model: nn.Module, config: dict[str, Any], images: np.ndarray) -> np.ndarray:
    """Classes of digits, straight from scikit-learn's file."""
    mean, std = config["dataset"]["mean"][0], config["dataset"]["std"][0]
    inputs = torch.from_numpy((images / 255 - mean) / std).float().unsqueeze(1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=config["precision"] == "bf16"):
        return model(inputs).argmax(dim=1).numpy()


def test_loaded_model_has_the_recorded_test_error(run: Run) -> None:
    model, config, result = sam_repro.load(run.home)
    assert not model.training
    assert config == result["config"]
    assert result | {"sha256": run.result["sha256"]} == run.result
    digits = load_digits()
    wrong = int((predicted(model, config, digits.images[1000:]) != digits.target[1000:]).sum())
    which = "best_validation" if config["report"] == "best_validation" else "last"
    assert result["metrics"]["test"][which]["error_pct"] == pytest.approx(100 * wrong / 797, abs=1e-12)


def test_report_chooses_which_weights_are_the_runs(noisy: Run, best: Run) -> None:
    """The two runs differ in nothing else, so each holds both sets, the other way round."""
    assert noisy.result["metrics"] == best.result["metrics"]
    assert best.result["metrics"]["validation"]["best"]["epoch"] < 3
    last, chosen = noisy.home / "model.safetensors", noisy.home / "best.safetensors"
    assert last.read_bytes() != chosen.read_bytes()
    assert (best.home / "model.safetensors").read_bytes() == chosen.read_bytes()
    assert (best.home / "last.safetensors").read_bytes() == last.read_bytes()
    assert noisy.result["weights_sha256"] != best.result["weights_sha256"]


def test_label_noise_ledger_recomputed(noisy: Run, best: Run) -> None:
    digits = load_digits()
    clean = digits.target[:1000].astype(np.int64)
    stream = np.random.RandomState(NOISE_SEED)
    selected = stream.permutation(1000)[: round(RATE * 1000)]
    labels = clean.copy()
    labels[selected] = stream.randint(10, size=len(selected), dtype=np.int64)
    flipped = labels != clean
    training = np.ones(1000, dtype=bool)
    training[np.random.RandomState(7).permutation(1000)[:COUNT]] = False
    for run in (noisy, best):
        ledger = run.result["label_noise"]
        model, config, _ = sam_repro.load(run.home)
        classes = np.full(1000, -1)
        classes[training] = predicted(model, config, digits.images[:1000][training])  # one batch, as in training
        assert (ledger["kind"], ledger["rate"], ledger["seed"]) == ("uniform", RATE, NOISE_SEED)
        assert (ledger["selected"], ledger["flipped"]) == (300, flipped.sum())
        assert ledger["achieved_rate"] == flipped.mean()
        for key, mask, truth in (
            ("train_accuracy_clean_pct", training & ~flipped, labels),
            ("train_accuracy_flipped_pct", training & flipped, labels),
            ("train_accuracy_flipped_true_pct", training & flipped, clean),
        ):
            assert ledger[key] == pytest.approx(100 * (classes == truth)[mask].mean(), abs=1e-10), key
    assert noisy.result["label_noise"]["mask_sha256"] == best.result["label_noise"]["mask_sha256"]


@pytest.mark.parametrize("file", ["model.safetensors", "result.json"])
@pytest.mark.parametrize("content", [b"", b"{", None])
def test_loading_what_is_damaged(plain: Run, tmp_path: Path, file: str, content: bytes | None) -> None:
    home = tmp_path / "seed=3"
    home.mkdir()
    for name in ("result.json", "model.safetensors"):
        (home / name).write_bytes((plain.home / name).read_bytes())
    if content is None:
        (home / file).unlink()
    else:
        (home / file).write_bytes(content)
    with pytest.raises(UserError, match=file):
        sam_repro.load(home)
