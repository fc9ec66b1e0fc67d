"""Every example runs as its reader would run it, without a warning that is not a library's own."""

import ast
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
README = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")

BESIDE_IMPORTS = {"record_video": ("moviepy", "PIL"), "minari_dataset": ("h5py",)}
"""Packages that an example needs but does not import itself."""
WARNING = {"torchrl_collector": "ignore::DeprecationWarning", "ray_cluster": "ignore::DeprecationWarning"}
"""What a library warns of: torchrl 0.14 deprecates classes of its own while its collectors are imported."""


def missing(name):
    """Packages that an example needs and that are not here."""
    needed = set(BESIDE_IMPORTS.get(name, ()))
    for node in ast.walk(ast.parse(EXAMPLES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            needed.add(node.module)
    packages = sorted({module.partition(".")[0] for module in needed})
    if "ray.rllib" in {module[:9] for module in needed}:
        packages += ["tree", "pyarrow"]  # RLlib's own, which `ray` alone does not bring
    return [package for package in packages if find_spec(package) is None]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_without_warnings(name, tmp_path, monkeypatch):
    if absent := missing(name):
        pytest.skip(f"not installed: {', '.join(absent)}")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    filters = ["-W", "error", *(["-W", WARNING[name]] if name in WARNING else [])]
    done = subprocess.run(
        [sys.executable, *filters, EXAMPLES[name], "--smoke"], cwd=tmp_path, text=True, capture_output=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_slot_drawn_after_the_op_is_never_refused_where_heads_drawn_one_by_one_are():
    example = runpy.run_path(str(EXAMPLES["random_agent"]))
    env = gym.make("esper_env:Esper-Seed-v0", **example["SMOKE"] | {"max_epochs": 40})
    env.action_space.seed(1)
    refused = [example["play"](env, example[choose])[1] for choose in ("slot_after_op", "head_by_head")]
    assert refused[0] == 0 < refused[1]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_it_is_and_how_to_run_it(name):
    source = EXAMPLES[name].read_text(encoding="utf-8")
    page = ast.get_docstring(ast.parse(source))
    assert f"python examples/{name}.py" in page
    assert page.splitlines()[0].endswith(".")
    assert 30 <= source.count("\n") <= 125


def test_the_readme_lists_every_example_and_nothing_else():
    assert set(re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\) \|", README, re.MULTILINE)) == set(EXAMPLES)
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / "examples" / link).exists(), link
