"""How this machine computes: device, precision, threads."""

import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch

from sam_repro.config.schema import Resolved
from sam_repro.errors import UserError
from sam_repro.run import build

COMPILE_FROM = 12_800_000
"""Images in all passes of a run from which on `compile` wins back its time on a GPU: 50 000 passes of 256.

For ResNet-18 at batch 256 on one H200 it saves 1 ms a pass and takes 45 s (scripts/README.md).
"""
_THREADS = torch.get_num_threads()
"""Thread count at start-up, restored for runs without `threads`: an earlier run of the sweep may have changed it."""


def with_numerics(config: Resolved) -> Resolved:
    """The configuration with every "auto" of the numerics resolved for this machine.

    Raises:
        UserError: if the machine lacks what the configuration asks for.
    """
    device = config["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"device = {device}: this machine has no CUDA device; choose device=cpu")
    if ":" in device and int(device.partition(":")[2]) >= torch.cuda.device_count():
        raise UserError(f"device = {device}: this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0 on")
    precision = config["precision"]
    if precision == "auto":
        precision = "bf16" if _multiplies_bfloat16(device) else "fp32"
    if precision == "tf32" and device == "cpu":
        raise UserError("precision = tf32: is for CUDA; on the CPU choose fp32 or bf16")
    if config["graph"] is True and device == "cpu":
        raise UserError("graph = true: needs a GPU; leave graph out")
    if config["parts"] == "branches" and device == "cpu":
        raise UserError("parts = branches: needs a GPU; leave parts out")
    resolved = _with_compile(config | {"device": device, "precision": precision})
    if resolved["compile"] and device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("compile = true: needs a C++ compiler, g++ or what CXX names; leave compile out")
    if resolved["compile"] and device != "cpu" and not any(map(shutil.which, (os.environ.get("CC", "gcc"), "clang"))):
        raise UserError("compile = true: needs a C compiler, gcc, clang or what CC names; add compile=false")
    return resolved


def _with_compile(config: Resolved) -> Resolved:
    """The configuration with `compile`: "auto" is decided by the passes that the rule declares and by the device.

    Nothing of this machine enters but its kind, so that one command has one home.
    """
    if config["compile"] != "auto":
        return config
    if config["device"] == "cpu":
        return config | {"compile": False}
    cost = build.declared_cost(config)
    if cost is None:
        told = "off, because dataset.train_images is not set; add compile=true for a long run"
        return config | {"compile": False, "origin": config["origin"] | {"compile": told}}
    images = cost.passes * config["batch_size"]
    wins = images >= COMPILE_FROM
    enough = f"{COMPILE_FROM / 1e6:.3g} million win it back"
    told = f"{'on' if wins else 'off'}: {images / 1e6:.3g} million images pass, and {enough}"
    return config | {"compile": wins, "origin": config["origin"] | {"compile": told}}


def _multiplies_bfloat16(device: str) -> bool:
    """Whether bfloat16 is the device's own, and not emulated, which is slower than float32."""
    if device != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.11, the oldest that is allowed, may not have it
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _refuse_threads(threads: int | None) -> None:
    cores = os.cpu_count() or 1
    if threads is not None and threads > cores:
        told = f"threads = {threads}: this machine has {cores} cores"
        if threads > 4 * cores:
            raise UserError(f"{told}, and more threads wait for each other; choose threads={cores} or less")
        print(f"threads    {told}, so a step takes longer than with threads={cores}")


def set_numerics(config: Resolved) -> None:
    """Set this process to the run's numerics: TF32 or not, deterministic kernels or the fastest, compiler, threads.

    Raises:
        UserError: if it asks for so many threads that they would only wait for each other.
    """
    _refuse_threads(config["threads"])
    torch.set_num_threads(config["threads"] or _THREADS)
    if config["compile"]:
        torch.compiler.reset()  # it keeps eight forms of a forward for all networks of a sweep, and runs others eagerly
    tf32 = "tf32" if config["precision"] == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = tf32
    torch.backends.cudnn.conv.fp32_precision = tf32  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not config["deterministic"]
    if config["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config["deterministic"])
