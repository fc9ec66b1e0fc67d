"""A look at the machine: versions, threads, devices, what is missing, and a bug of torch to know about."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata

EXTRAS = {
    "": ("torch", "numpy", "gymnasium", "scikit-learn"),
    "agent": ("torchrl", "tensordict", "tyro", "rich", "tensorboard"),
    "compat": ("stable-baselines3", "sb3-contrib"),
    "render": ("pillow",),
    "examples": ("minari", "optuna", "moviepy"),
    "ray": ("ray",),
}
"""Packages that each extra brings; those of the empty name come with Esper itself."""

LOGGERS = ("wandb", "mlflow")

GROUP_NORM_BACKWARD = """
import torch
x = torch.randn(4, 8, 6, 6).contiguous(memory_format=torch.channels_last)
norm = torch.nn.GroupNorm(2, 8)
norm(x).square().sum().backward()
"""


def version(package: str) -> str | None:
    """The installed version, None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """How to get the package that was not found; None where no extra brings it."""
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if extra and package in packages), None)
    return extra and f"{package} is not installed; to have it: pip install 'esper[{extra}]'"


def group_norm_crashes() -> bool:
    """Does the backward of GroupNorm end the process when its channels_last input needs no gradient?"""
    result = subprocess.run([sys.executable, "-c", GROUP_NORM_BACKWARD], capture_output=True, check=False)
    return result.returncode != 0


def examine() -> tuple[str, bool]:
    """What there is to report, and whether Esper and its agent can run."""
    lines = [f"Python {platform.python_version()} on {platform.system()} {platform.machine()}", ""]
    lines += [f"{package:<18}{version(package) or 'missing'}" for extra in EXTRAS.values() for package in extra]
    lines += [f"{package:<18}{version(package) or 'missing (a logger)'}" for package in LOGGERS]
    missing = {extra: [p for p in packages if version(p) is None] for extra, packages in EXTRAS.items()}
    lines += ["", *_machine(), ""] if not missing[""] else [""]
    for extra, packages in missing.items():
        if packages:
            name = f"esper[{extra}]" if extra else "esper"
            lines.append(f"Missing: {', '.join(packages)}. To have them: pip install '{name}'")
    able = not missing[""] and not missing["agent"]
    lines.append("Environment and agent can run." if able else "Environment or agent cannot run yet.")
    return "\n".join(lines), able


def _machine() -> list[str]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = ["cpu"] + [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    group_norm = (
        "crashes this torch when a channels_last input needs no gradient. Esper's own layers avoid that; a blueprint "
        "of yours must call esper_env.network.layers.group_norm."
        if group_norm_crashes()
        else "works."
    )
    openmp = os.environ.get("OMP_NUM_THREADS", "not set; 1 spares every process threads that it never uses")
    return [
        f"Cores: {cores}. torch uses {torch.get_num_threads()} threads of its own; `esper` sets that to one and runs "
        f"stacks of hosts side by side instead (--threads {min(cores or 1, 2)}).",
        f"OMP_NUM_THREADS: {openmp}.",
        f"Devices: {', '.join(devices)}",
        f"GroupNorm's backward: {group_norm}",
    ]
