"""A look at the machine: versions, threads, devices, data, what is missing, and a bug of torch to know about."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

EXTRAS = {
    "": ("torch", "numpy", "gymnasium", "scikit-learn"),
    "agent": ("torchrl", "tensordict", "tyro", "rich", "tensorboard"),
    "compat": ("stable-baselines3", "sb3-contrib"),
    "render": ("pillow",),
    "examples": ("minari", "optuna", "moviepy"),
    "data": ("torchvision", "tokenizers"),
    "ray": ("ray",),
}
"""Packages that each extra brings; those of the empty name come with Esper itself."""

LOGGERS = ("wandb", "mlflow")
"""Packages that no extra brings."""

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
    return extra and f"{package} is not installed; to have it: pip install 'esper-env[{extra}]'"


def group_norm_crashes() -> bool:
    """Does the backward of GroupNorm end the process when its channels_last input needs no gradient?"""
    result = subprocess.run([sys.executable, "-c", GROUP_NORM_BACKWARD], capture_output=True, check=False)
    return result.returncode != 0


def examine() -> tuple[str, bool]:
    """What there is to report, and whether Esper and its agent can run."""
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    lines = [f"esper {version('esper-env') or 'from its sources'}, {system}", ""]
    lines += [f"{package:<18}{version(package) or 'missing'}" for extra in EXTRAS.values() for package in extra]
    lines += [f"{package:<18}{version(package) or 'missing'}" for package in LOGGERS]
    missing = {extra: [p for p in packages if version(p) is None] for extra, packages in EXTRAS.items()}
    lines += ["", *_machine(), ""] if not missing[""] else [""]
    loggers = [package for package in LOGGERS if version(package) is None]
    for extra, packages in missing.items():
        if packages:
            lines.append(f"Missing: {', '.join(packages)}. Install with: {_install(extra, packages)}")
    if loggers:
        lines.append(f"Missing: {', '.join(loggers)}. Install with: pip install {' '.join(loggers)}")
    able = not missing[""] and not missing["agent"]
    lines.append("Environment and agent can run." if able else "Environment or agent cannot run yet.")
    return "\n".join(lines), able


def _install(extra: str, packages: list[str]) -> str:
    return f"pip install 'esper-env[{extra}]'" if extra else f"pip install {' '.join(packages)}"


def _machine() -> list[str]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = ["cpu"] + [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    group_norm = (
        "crashes this torch when a channels_last input needs no gradient;\n"
        "    Esper avoids that, and a blueprint of yours must call esper_env.network.layers.group_norm"
        if group_norm_crashes()
        else "works"
    )
    openmp = os.environ.get("OMP_NUM_THREADS", "not set; 1 spares every process threads that it never uses")
    return [
        f"Cores: {cores}",
        f"Threads of torch: {torch.get_num_threads()}; esper uses one, and --threads runs stacks of hosts side by side",
        f"OMP_NUM_THREADS: {openmp}",
        f"Devices: {', '.join(devices)}",
        f"ESPER_DATA_DIR: {_data()}",
        f"GroupNorm's backward: {group_norm}",
    ]


def _data() -> str:
    from esper_env.tasks.data import DATA_DIR_VARIABLE

    folder = os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        return "not set; CIFAR-10 and TinyStories are looked for there"
    return folder if Path(folder).expanduser().is_dir() else f"{folder}, which is no folder"
