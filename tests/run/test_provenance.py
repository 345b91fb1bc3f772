"""Provenance: hashes that a stranger can recompute, and what git and the machine say."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from sam_repro.run import provenance
from sam_repro.vectors import tensors_sha256

CPU = torch.device("cpu")


def test_sources_are_what_sha256sum_prints():
    names = sorted(provenance.sources())
    assert {"__init__.py", "run/provenance.py", "optimizer/sam.py"} <= set(names)
    printed = subprocess.run(
        ["sha256sum", *names], cwd=provenance.PACKAGE, capture_output=True, text=True, check=True
    ).stdout
    sources = {line.split("  ")[1]: line.split("  ")[0] for line in printed.splitlines()}
    assert list(provenance.sources().items()) == list(sources.items())
    assert provenance.digest(sources) == hashlib.sha256(printed.encode()).hexdigest()
    assert provenance.digest(dict(reversed(sources.items()))) == provenance.digest(sources)


def test_sources_cover_the_folder_at_any_depth_and_python_only(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("z.py", "b/a.py", "b/c/a.py", "b/c/a.yaml", "b/c/a.pyc"):
        (tmp_path / name).write_text(name)
    assert list(provenance.sources()) == ["b/a.py", "b/c/a.py", "z.py"]


def test_what_differs_appeared_or_disappeared_is_named_shortly_and_ones_own_first():
    old = {"a/same.py": "1", "a/edited.py": "1", "a/gone.py": "1", "package.mine": "1"}
    new = old | {"a/edited.py": "2", "package.mine": "2"}
    assert provenance.describe_changed(old, old) == ""
    assert provenance.describe_changed(old, new) == "package/mine.py, a/edited.py"
    del new["a/gone.py"]
    assert provenance.describe_changed(old, new) == "package/mine.py, a/edited.py, a/gone.py"
    new |= {"a/here.py": "1", "a/there.py": "1"}
    assert provenance.describe_changed(old, new) == "package/mine.py, a/edited.py, a/gone.py and 2 more"
    assert provenance.digest(old) != provenance.digest(new)


def recomputed(arrays):
    """The hash from its documented layout, by numpy: (key, dtype, array whose bytes are the elements)."""
    content = b"".join(
        key.encode()
        + b"\0"
        + dtype.encode()
        + b"\0"
        + ",".join(str(n) for n in array.shape).encode()
        + b"\0"
        # written out by hand: C order, little-endian
        + b"".join(array[index].astype(array.dtype.newbyteorder("<")).tobytes() for index in np.ndindex(array.shape))
        for key, dtype, array in arrays
    )
    return hashlib.sha256(content).hexdigest()


def test_weights_hash_by_its_documented_layout():
    values = np.arange(-12, 12).reshape(2, 3, 2, 2) / 4
    half = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)  # exact: bfloat16 is its upper half
    arrays = [
        ("0.bias", "float64", np.array(1 / 3)),
        ("0.weight", "float32", values.astype(np.float32)),
        ("Z", "bfloat16", half),
        ("a.empty", "float32", np.zeros((0, 4), np.float32)),
        ("a.half", "float16", values.astype(np.float16)),
        ("a.mask", "bool", values[0, 0] > 0),
        ("a.steps", "int64", np.array(2**40 + 1)),
        ("ρ", "int32", np.array([-1, 258], np.int32)),
    ]
    weights = {
        "ρ": torch.tensor([-1, 258], dtype=torch.int32),
        "a.steps": torch.tensor(2**40 + 1),
        "a.mask": torch.from_numpy(values[0, 0] > 0),
        "a.half": torch.from_numpy(values).half(),
        "a.empty": torch.zeros(0, 4),
        "Z": torch.from_numpy(values).bfloat16(),
        "0.weight": torch.nn.Parameter(torch.from_numpy(values).float()),
        "0.bias": torch.tensor(1 / 3, dtype=torch.float64),
    }
    assert tensors_sha256(weights) == recomputed(arrays)


def test_weights_hash_of_old_results_stays():
    assert tensors_sha256({"w": torch.tensor([[1.0, -0.5]]), "n": torch.tensor(3)}) == (
        # printf 'n\0int64\0\0\3\0\0\0\0\0\0\0w\0float32\0001,2\0\0\0\200\77\0\0\0\277' | sha256sum
        "20e20246a7c49fbb81bbf6fd1f46b3334d2edfef150314bfe846d67f85899eeb"
    )


def test_weights_hash_sees_values_and_not_how_they_lie_in_memory():
    kernel = torch.randn(4, 3, 5, 2)
    expected = tensors_sha256({"w": kernel})
    padded = torch.full((4, 3, 5, 4), torch.nan)
    padded[..., ::2] = kernel
    for same in (
        kernel.to(memory_format=torch.channels_last),
        kernel.transpose(0, 3).contiguous().transpose(0, 3),
        padded[..., ::2],
        torch.nn.Parameter(kernel),
    ):
        assert tensors_sha256({"w": same}) == expected
    assert tensors_sha256({"w": torch.ones(1).expand(3)}) == tensors_sha256({"w": torch.ones(3)})


def test_weights_hash_sees_every_difference():
    ulp = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    variants = [
        {"a": torch.zeros(2), "b": torch.ones(2)},
        {"a": torch.zeros(2), "b": torch.stack([torch.tensor(1.0), ulp])},
        {"a": torch.ones(2), "b": torch.zeros(2)},
        {"a": torch.zeros(2), "c": torch.ones(2)},
        {"a": torch.zeros(2), "b": torch.ones(1, 2)},
        {"a": torch.zeros(2), "b": torch.ones(2, 1)},
        {"a": torch.zeros(2), "b": torch.ones(2).view(torch.int32)},
        {"a": -torch.zeros(2), "b": torch.ones(2)},
        {"a": torch.zeros(1), "b": torch.tensor([0.0, 1.0, 1.0])},
        {"a": torch.zeros(2)},
        {"a": torch.zeros(2), "b": torch.ones(2), "c": torch.zeros(0)},
    ]
    assert len({tensors_sha256(weights) for weights in variants}) == len(variants)


@pytest.mark.gpu
def test_weights_hash_is_the_same_on_a_gpu():
    weights = {"w": torch.randn(4, 3, 5, 5), "b": torch.randn(7).bfloat16(), "n": torch.tensor(3)}
    on_gpu = {name: value.cuda() for name, value in weights.items()}
    on_gpu["w"] = on_gpu["w"].to(memory_format=torch.channels_last)
    assert tensors_sha256(on_gpu) == tensors_sha256(weights)


@pytest.mark.gpu
def test_environment_names_the_gpu():
    environment = provenance.environment(torch.device("cuda"))
    assert environment["gpu"] == torch.cuda.get_device_name()
    assert environment["cuda"]
    assert environment["cudnn"]


def test_environment_is_plain_and_says_nothing_of_a_gpu_on_the_cpu():
    environment = provenance.environment(CPU)
    assert json.loads(json.dumps(environment, allow_nan=False)) == environment
    assert {environment[key] for key in ("gpu", "driver", "cuda", "cudnn")} == {None}
    assert environment["torch"] == str(torch.__version__)
    assert environment["numpy"] == np.__version__
    assert environment["python"] == sys.version.split()[0]
    assert environment["cpu"]
    assert all(environment[library] for library in provenance.LIBRARIES)


def test_environment_follows_the_switches(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # runs of this process may have left it on
    before = provenance.environment(CPU)
    assert not before["deterministic_algorithms"]
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads = torch.get_num_threads()
    try:
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(threads + 1)
        after = provenance.environment(CPU)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert {key for key in before if before[key] != after[key]} == {
        *("deterministic_algorithms", "cudnn_deterministic", "cudnn_benchmark", "cublas_workspace", "cpu_threads")
    }


@pytest.mark.parametrize(
    "switch",
    [
        "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True",
        "torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    ],
)
def test_tf32_is_read_whichever_way_it_was_set(switch):
    program = f"""
import sys, torch, warnings
from sam_repro.run import provenance
{switch}
warnings.simplefilter("error")
environment = provenance.environment(torch.device("cpu"))
assert environment["matmul_fp32_precision"] == environment["convolution_fp32_precision"] == "tf32", environment
assert not {{"torchvision", "timm", "wandb", "hydra"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_import_is_instant():
    program = (
        "import sys, sam_repro.run.provenance, sam_repro.run.metrics; assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout that holds a package, and the function that runs git in it."""
    for variable, value in (("HOME", tmp_path), ("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_AUTHOR_DATE", "2020-01-01T00:00")):
        monkeypatch.setenv(variable, str(value))
    root = tmp_path / "checkout"
    package = root / "package"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "PACKAGE", package)

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init")
    (package / "__init__.py").write_text("first = 1\n")
    (root / "README").write_bytes(b"caf\xe9\n")
    git("add", ".")
    return root, git


def test_git_tells_commit_and_change(checkout):
    root, git = checkout
    assert provenance.git() == {"commit": None, "dirty": None}, "nothing is committed yet"
    assert provenance.git_diff() is None
    git("commit", "-m", "first")
    first = git("rev-parse", "HEAD")
    assert provenance.git() == {"commit": first, "dirty": False}
    (root / "package" / "new.py").write_text("not tracked: the sources' hashes see it\n")
    assert provenance.git() == {"commit": first, "dirty": False}
    assert provenance.git_diff() is None
    (root / "package" / "__init__.py").write_text("first = 2\n")
    git("add", "package/__init__.py")
    (root / "README").write_text("elsewhere\n")
    assert provenance.git() == {"commit": first, "dirty": True}
    diff = provenance.git_diff()
    assert "-first = 1\n+first = 2\n" in diff
    assert "-caf\ufffd\n+elsewhere\n" in diff


def test_git_diff_applies_whatever_the_users_settings(checkout, tmp_path):
    root, git = checkout
    git("commit", "-m", "first")
    git("config", "color.ui", "always")
    git("config", "diff.external", "false")
    (root / "package" / "__init__.py").write_text("first = 2\n")
    (tmp_path / "uncommitted.diff").write_text(provenance.git_diff())
    git("checkout", "--", ".")
    git("apply", str(tmp_path / "uncommitted.diff"))
    assert (root / "package" / "__init__.py").read_text() == "first = 2\n"


def test_a_long_diff_is_cut_and_says_so(checkout, monkeypatch):
    root, git = checkout
    git("commit", "-m", "first")
    (root / "package" / "__init__.py").write_text("x = 1\n" * 1000)
    whole = provenance.git_diff()
    monkeypatch.setattr(provenance, "DIFF_LIMIT", len(whole))
    assert provenance.git_diff() == whole
    monkeypatch.setattr(provenance, "DIFF_LIMIT", 300)
    assert provenance.git_diff() == whole[:300] + f"\n[cut: the first 300 of {len(whole)} bytes]\n"


def test_an_installed_copy_inside_a_checkout_is_not_that_checkout(checkout, monkeypatch):
    root, git = checkout
    (root / ".gitignore").write_text(".venv\n")
    git("add", ".")
    git("commit", "-m", "first")
    installed = root / ".venv" / "site-packages" / "package"
    shutil.copytree(root / "package", installed)
    (root / "README").write_text("changed\n")
    monkeypatch.setattr(provenance, "PACKAGE", installed)
    assert provenance.git() == {"commit": None, "dirty": None}
    assert provenance.git_diff() is None


def test_a_git_hook_does_not_point_elsewhere(checkout, tmp_path, monkeypatch):
    _, git = checkout
    git("commit", "-m", "first")
    expected = {"commit": git("rev-parse", "HEAD"), "dirty": False}
    subprocess.run(["git", "init", str(tmp_path / "other")], capture_output=True, check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert provenance.git() == expected


def test_git_that_hangs_or_is_absent_says_nothing(checkout, tmp_path, monkeypatch):
    _, git = checkout
    git("commit", "-m", "first")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.1)
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    assert provenance.git() == {"commit": None, "dirty": None}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert provenance.git() == {"commit": None, "dirty": None}
    assert provenance.git_diff() is None


def test_pythons_own_modules_are_no_sources():
    """They differ from one Python to the next, and `sharpness=none` builds a type of theirs."""
    assert provenance.sources(["types.NoneType", "collections.abc.Mapping"]) == provenance.sources()
