"""What holds for the repository as a whole: who imports whom, what is documented, and that the README runs."""

import ast
import codeop
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium
import pytest

import esper_env
from esper_env.actions import ACTION_HEADS, CAUSAL_HEADS
from esper_env.registration import IDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("esper_env", "esper_agent")
ARRAYS_ONLY = {
    f"esper_env.{name}"
    for name in (
        "actions",
        "arrays",
        "config",
        "counterfactuals",
        "lifecycle",
        "masks",
        "observation",
        "reward",
        "scaffolding",
        "signals",
    )
}
SHELLS = {f"esper_env.{name}" for name in ("env", "registration", "sb3", "spaces", "testing", "vector_env", "wrappers")}
CONTRACT_EXTRAS = {"agent", "render", "compat", "ray", "bench", "docs", "examples", "dev", "all"}
DATA, APART = {"data"}, {"ray", "data"}
"""What fetches and reads data sets; and what `all` leaves out: Ray is large, torchvision wants a torch of its own."""
LONGEST = 450
"""Lines of a module: about 400, with some room to finish a thought."""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
README, CONTRIBUTING, CHANGELOG = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def is_within(module, names):
    return any(module == name or module.startswith(f"{name}.") for name in names)


ARRAYS_ONLY_MODULES = sorted(module for module in MODULES if is_within(module, ARRAYS_ONLY))


def imports(module):
    """Every module that a module imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= submodules or {node.module}
    return found


# Who imports whom


@pytest.mark.parametrize("module", ARRAYS_ONLY_MODULES)
def test_the_rules_import_arrays_and_each_other_alone(module):
    foreign = {name for name in imports(module) if is_within(name, {"torch", "gymnasium", "sklearn"})}
    assert not foreign
    assert all(is_within(name, ARRAYS_ONLY) for name in imports(module) if is_within(name, PACKAGES))


def test_the_rules_run_where_there_is_no_torch():
    script = "import sys; sys.modules['torch'] = None\n" + "\n".join(f"import {m}" for m in ARRAYS_ONLY_MODULES)
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, check=True, timeout=120)


@pytest.mark.parametrize("module", [module for module in MODULES if is_within(module, {"esper_env"})])
def test_the_environment_knows_no_agent_and_the_simulation_no_interface(module):
    agents = {"esper_agent", "tensordict", "torchrl", "benchmarks", "tests"}
    assert not {name for name in imports(module) if is_within(name, agents)}
    if module != "esper_env" and not is_within(module, SHELLS):
        assert not {name for name in imports(module) if is_within(name, {"gymnasium", *SHELLS})}


# Modules


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_and_can_be_read_in_one_sitting(module):
    source = MODULES[module].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source))
    assert source.count("\n") <= LONGEST


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package):
    assert (ROOT / package / "py.typed").exists()


def test_whoever_lists_the_environment_package_sees_what_it_offers():
    assert set(esper_env.__all__) <= set(dir(esper_env))


# The distribution


def test_extras_are_those_of_the_contract_and_all_holds_most_of_them():
    assert set(EXTRAS) == CONTRACT_EXTRAS | DATA
    (everything,) = EXTRAS["all"]
    assert set(re.findall(r"\w+", everything.partition("[")[2])) == set(EXTRAS) - APART - {"all"}


def test_the_core_depends_on_four_packages():
    assert {name_of(requirement) for requirement in PROJECT["dependencies"]} == {
        "torch",
        "numpy",
        "gymnasium",
        "scikit-learn",
    }


def test_every_dependency_that_the_tests_install_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", pin) for pin in pins)
    pinned = {name_of(pin) for pin in pins}
    asked = [*PROJECT["dependencies"], *(r for extra, rs in EXTRAS.items() if extra not in APART | {"all"} for r in rs)]
    assert {name_of(requirement) for requirement in asked} - {"esper-env"} <= pinned  # an extra may be made of others


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_the_version_is_the_same_everywhere():
    assert esper_env.__version__ == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in CHANGELOG


# The documents


def test_the_readme_runs():
    """All of its Python in one session, as a reader would type it; a traceback names the README's own line."""
    blocks = re.finditer(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    script = ""
    for block in blocks:
        line = README.count("\n", 0, block.start(1))
        script += "\n" * (line - script.count("\n")) + block[1]
    run = "import sys; exec(compile(sys.stdin.read(), 'README.md', 'exec'))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", run],
        input=script,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ % of the test digits, with \d seeds made permanent\n", done.stdout)


def test_what_the_readme_tells_to_type_fits_a_prompt_where_an_empty_line_ends_a_loop():
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    typed = [block for block in blocks if "def " not in block]  # a definition goes into a file
    assert any("for " in block for block in typed)
    for block in typed:
        statement = ""
        for line in block.splitlines():
            statement += f"{line}\n"
            if codeop.compile_command(statement.removesuffix("\n")):
                statement = ""


def test_the_readme_names_every_id_task_head_and_op():
    for name in IDS:
        task = gymnasium.spec(name).kwargs.get("task", "digits")
        assert f"| `{name}` | `{task}` |" in README
    for head in ACTION_HEADS:
        assert f"| {head.name} | " in README
    for op, heads in CAUSAL_HEADS.items():
        assert f"| {op} {op.name} | {', '.join(heads) or 'none'} | " in README


@pytest.mark.parametrize("document", [README, CONTRIBUTING, CHANGELOG], ids=["README", "CONTRIBUTING", "CHANGELOG"])
def test_documents_name_files_modules_and_commands_that_exist(document):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", document, re.MULTILINE)) <= targets
    for link in re.findall(r"\]\(([^)#]+)", document):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    for module in re.findall(r"python -m ([\w.]+)", document):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_picture_is_small():
    assert (ROOT / "docs" / "episode.svg").stat().st_size < 20_000


def test_the_citation_names_the_version_and_the_license_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = dict(re.findall(r"^(version|license|cff-version): (.+)$", citation, re.MULTILINE))
    assert cited == {"cff-version": "1.2.0", "version": PROJECT["version"], "license": PROJECT["license"]}
