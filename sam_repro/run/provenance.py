"""What made a number: the sources, the machine, the versions, and the weights themselves."""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torchvision", "hydra-core", "omegaconf", "wandb", "numpy", "timm")
DIFF_LIMIT = 1_000_000  # bytes
GIT_SECONDS = 10


def sources(targets: Sequence[str] = ()) -> dict[str, str]:
    """SHA-256 of every Python file of this package, by its path in the package, sorted by path.

    Args:
        targets: dotted names of what a run builds, default none; the files of those that belong to no installed
            package, such as a rule of one's own, are hashed too, under the name of the module.
    """
    files = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
    files |= {module: file for target in targets if (file := _own_file(module := target.rpartition(".")[0]))}
    return {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in sorted(files)}


def digest(sources: Mapping[str, str]) -> str:
    """SHA-256 over a line `<hash>  <path>` for each of the sources, sorted by path: what `sha256sum` prints, hashed."""
    lines = "".join(f"{sources[name]}  {name}\n" for name in sorted(sources))
    return hashlib.sha256(lines.encode()).hexdigest()


def describe_changed(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Three of the files that differ, appeared or disappeared, one's own first, and how many more; empty for none."""
    names = {name for name, _ in old.items() ^ new.items()}
    files = [_file_of(name) for name in sorted(names, key=lambda name: (name.endswith(".py"), name))]
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def _file_of(source: str) -> str:
    """The file of a source, as it is called: a module of one's own is known by its dotted name."""
    return source if source.endswith(".py") else f"{source.replace('.', '/')}.py"


def environment(device: "torch.device") -> dict[str, Any]:
    """The machine, the versions and the switches that can move a number.

    Args:
        device: where the run computes.

    Returns:
        Plain values for JSON; None for what this machine or installation does not have, and for all that belongs to a
        GPU when `device` is the CPU.
    """
    import torch

    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "driver": _text("/sys/module/nvidia/version") if on_gpu else None,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "torch": str(torch.__version__),
        **{library: _version(library) for library in LIBRARIES},
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        # not allow_tf32: reading it raises where these were set
        "matmul_fp32_precision": torch.backends.cuda.matmul.fp32_precision,
        "convolution_fp32_precision": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def git() -> dict[str, Any]:
    """Commit of the checkout that holds this package, and whether its tracked files differ from it.

    Returns:
        `commit` and `dirty`, both None where the package lies in no checkout (installed, not tracked) or git is absent.
    """
    commit = _git("rev-parse", "HEAD") if _is_tracked() else None
    status = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit and commit.decode().strip(), "dirty": None if status is None else bool(status)}


def git_diff() -> str | None:
    """The uncommitted change of tracked files, with a last line that says so where it is cut at `DIFF_LIMIT` bytes.

    Returns:
        The text, or None where nothing is changed or there is no checkout.
    """
    diff = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv") if _is_tracked() else None
    if not diff:
        return None
    text = diff[:DIFF_LIMIT].decode(errors="replace")
    return text if len(diff) <= DIFF_LIMIT else f"{text}\n[cut: the first {DIFF_LIMIT} of {len(diff)} bytes]\n"


def _own_file(module: str) -> Path | None:
    """The file of a module, unless it belongs to this package, an installed one or Python."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    file = Path(spec.origin)
    elsewhere = PACKAGE in file.parents or "site-packages" in file.parts
    return None if elsewhere else file


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's model where Linux knows it, else its architecture."""
    lines = (_text("/proc/cpuinfo") or "").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def _is_tracked() -> bool:
    """Whether git knows this package: an installed copy may lie inside somebody else's checkout."""
    return _git("ls-files", "--error-unmatch", "__init__.py") is not None


def _git(*arguments: str) -> bytes | None:
    """What git answers about this package's folder; None if it fails, hangs or is not there.

    The variables that a hook of git sets would point it elsewhere, and its lock could fail somebody's commit.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments],
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
