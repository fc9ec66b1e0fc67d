"""Wheel and sdist: what they hold, and that they work installed, outside the repository."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("esper_env", "esper_agent")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("hatchling") is None,
        reason="hatchling builds the distributions: pip install hatchling",
    ),
]

EPISODE = """
import gymnasium as gym

env = gym.make("esper_env:Esper-Seed-v0", max_epochs=3)
observation, info = env.reset(seed=1)
over = False
while not over:
    action = env.action_space.sample(mask=info["action_mask"])
    observation, reward, over, truncated, info = env.step(action)
print(info["test_accuracy"] >= 0)

import esper_agent, esper_env
print(esper_env.__file__)
print(esper_agent.__file__)
"""


def build(source, folder):
    """The wheel and the sdist of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def content(wheel):
    """The files of a wheel beside its description of itself."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def rebuilt(built, tmp_path_factory):
    """What comes out of the sdist alone."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built[1]) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build(source, tmp_path_factory.mktemp("again"))


def test_the_wheel_holds_both_packages_whole_and_nothing_else(built):
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True)
    assert content(built[0]) == set(tracked.stdout.split())
    assert {f"{package}/py.typed" for package in PACKAGES} <= content(built[0])


def test_the_sdist_makes_the_same_wheel_and_brings_what_its_makefile_needs(built, rebuilt):
    assert content(rebuilt[0]) == content(built[0])
    with tarfile.open(built[1]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "Makefile",
        "constraints.txt",
        "mkdocs.yml",
        "README.md",
        "LICENSE",
        "tests/conftest.py",
        "docs/episode.svg",
    }
    assert needed <= held
    assert not {name for name in held if "__pycache__" in name or name.startswith((".venv", "runs", "dist"))}


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def fresh(request, built, tmp_path_factory):
    """Calls a program of a fresh environment, in an empty folder; it sees what is installed here but the repository."""
    wheel = built[0] if request.param == "wheel" else request.getfixturevalue("rebuilt")[0]
    place = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True)
    install = [sys.executable, "-m", "pip", "--python", str(place / "venv"), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True)
    programs = place / "venv" / "bin"
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # .pth files in there are not followed
    (place / "empty").mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ESPER_DATA_DIR")}

    def call(program, *words):
        return subprocess.run(
            [programs / program, *words],
            cwd=place / "empty",
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    call.site = site
    return call


def test_an_installed_environment_plays_an_episode(fresh):
    done = fresh("python", "-W", "error", "-c", EPISODE)
    assert done.stdout.split() == ["True", *(str(fresh.site / package / "__init__.py") for package in PACKAGES)], (
        done.stderr
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("list",), 0, "esper_env:Esper-Seed-v0"),
        (("doctor",), 0, "Environment and agent can run."),
        (("bench", "status"), 2, "The benchmark suite is part of the repository"),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_an_installed_command_works_or_says_in_a_line_what_it_needs(fresh, words, code, said):
    done = fresh("esper", *words)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert done.stderr.count("\n") == (code != 0)
