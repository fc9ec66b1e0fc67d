"""The documentation: its tables are those of the code, its code runs, and every page can be found."""

import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from docs.generator import api, tasks
from docs.generator.diagrams import PLACES
from docs.generator.lifecycle import CLOCK, causes
from docs.generator.reward import weighed
from docs.generator.sections import BUILT, GENERATED, PLACE, SECTIONS, build, fill
from docs.generator.speed import MEASURED
from esper_agent.config import PolicyConfig, PPOConfig
from esper_agent.policies.registry import policy_names
from esper_agent.rollout.backends import BACKENDS
from esper_agent.runs import TrainConfig
from esper_env.actions import ACTION_HEADS, BLUEPRINTS, CAUSAL_HEADS, Op
from esper_env.config import EnvOptions, LifecycleConfig, RewardConfig, TrainingConfig
from esper_env.env import SeedEnv
from esper_env.info import INFO
from esper_env.lifecycle.stages import LEGAL_TRANSITIONS, Stage
from esper_env.observation import BASE_FEATURES, SLOT_FEATURES
from esper_env.registration import IDS
from esper_env.reward import REWARDS
from esper_env.streams import Streams
from esper_env.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
PROSE = {name: GENERATED.sub("", page) for name, page in PAGES.items()}
"""What somebody wrote."""
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ADDS = re.compile(r"register_(?:blueprint|reward|policy)")
"""What would change the environments of the pages that run after it."""
RUN = ROOT / "tests" / "run_page.py"
PUBLIC = ("esper_env", "esper_env.testing", "esper_env.wrappers", "esper_env.sb3", "esper_agent")


def rows(section):
    """First code word of every row of a generated table, and the row."""
    lines = SECTIONS[section]().split("\n\n")[0].splitlines()[2:]
    return {re.search(r"`([^`]+)`", line)[1]: line for line in lines if "`" in line}


def names(kind):
    return [field.name for field in fields(kind)]


# Tables

WHOLE = {
    "heads": [head.name for head in ACTION_HEADS],
    "causal": [op.name for op in Op],
    "op-by-stage": [op.name for op in Op if op != Op.WAIT],
    "blueprints": [row.name for row in BLUEPRINTS[:13]],
    "stages": [stage.name for stage in Stage],
    "base-features": [feature.name for feature in BASE_FEATURES],
    "slot-features": [feature.name for feature in SLOT_FEATURES],
    "info": [*INFO, "reward_terms", "action_mask"],
    "reward-weights": names(RewardConfig),
    "ids": list(IDS),
    "arguments": names(EnvOptions),
    "lifecycle-options": names(LifecycleConfig),
    "training-options": names(TrainingConfig),
    "policies": list(policy_names()),
    "backends": list(BACKENDS),
    "train-options": names(TrainConfig),
    "ppo-options": names(PPOConfig),
    "policy-options": names(PolicyConfig),
}


@pytest.mark.parametrize("section", WHOLE)
def test_a_table_has_every_row_of_the_code(section):
    assert [name for name in rows(section) if name in WHOLE[section]] == WHOLE[section]


def test_heads_tell_every_choice_and_what_is_canonical():
    for head in ACTION_HEADS[1:]:
        told = re.findall(r"(\d+) (\*\*)?`(\w+)`", rows("heads")[head.name])
        assert [name for _, _, name in told] == list(head.choices)
        assert [int(number) for number, bold, _ in told if bold] == [head.canonical]


def test_the_causal_table_has_a_dot_where_a_head_matters():
    columns = re.findall(r"`(\w+)`", SECTIONS["causal"]().splitlines()[0])
    for op, heads in CAUSAL_HEADS.items():
        dots = [cell.strip() == "●" for cell in rows("causal")[op.name].strip("|").split("|")[1:]]
        assert [name for name, dot in zip(columns, dots, strict=True) if dot] == list(heads)


def test_an_op_has_a_dot_for_the_stages_it_acts_in():
    columns = SECTIONS["op-by-stage"]().splitlines()[0].strip("|").split("|")[1:]
    stages = {
        op: [stage.strip() for stage, cell in zip(columns, line.strip("|").split("|")[1:], strict=True) if "●" in cell]
        for op, line in rows("op-by-stage").items()
    }
    assert stages == {
        "GERMINATE": ["DORMANT"],
        "SET_ALPHA_TARGET": ["BLENDING", "HOLDING"],
        "PRUNE": ["GERMINATED", "TRAINING", "BLENDING", "HOLDING"],
        "FOSSILIZE": ["HOLDING"],
        "ADVANCE": ["GERMINATED", "TRAINING", "BLENDING"],
    }


def test_every_legal_transition_has_a_cause_and_is_drawn():
    legal = {(before, after) for before, following in LEGAL_TRANSITIONS.items() for after in following}
    assert set(causes()) == legal
    assert set(PLACES) == {stage for pair in legal for stage in pair}
    assert causes()[Stage.HOLDING, Stage.BLENDING] == "SET_ALPHA_TARGET"
    assert causes()[Stage.RESETTING, Stage.DORMANT] == CLOCK
    drawing = BUILT["lifecycle-diagram"]()
    assert drawing.count('class="op"') + drawing.count('class="clock"') == len(legal)
    assert "\n" not in drawing  # a blank line would end the block of HTML


def test_every_reward_term_of_every_mode_is_told():
    told = SECTIONS["reward-modes"]()
    env = SeedEnv(max_epochs=1)
    _, info = env.reset(seed=0)
    assert {"shaped", "objective", "simplified", "sparse", "minimal"} <= set(rows("reward-modes")) <= set(REWARDS)
    assert set(re.findall(r"`(\w+)`", SECTIONS["reward-terms"]())) == set(info["reward_terms"])
    for term in info["reward_terms"]:
        assert f"`{term}`" in told
        assert f"`{term}`" in PROSE["environment/reward.md"] or term == "hindsight"


def test_every_weight_weighs_a_term():
    assert {name for name in names(RewardConfig) if not weighed(name)} == {"mode"}
    assert weighed("progress") == ["progress", "forfeit", "committed"]
    assert weighed("gamma") == ["attribution", "stage", "hindsight"]


def test_the_formulas_of_the_reward_have_the_weights_in_force():
    told = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PROSE["environment/reward.md"], re.MULTILINE))
    hindsight = PROSE["environment/reward.md"].partition("## Hindsight")[2]
    for name in names(RewardConfig):
        terms, value = weighed(name), getattr(RewardConfig(), name)
        for term in terms if name not in ("mode", "gamma", "rent") else ():
            if term in told or term == "hindsight":
                formula = told.get(term, hindsight)
                assert re.search(rf"(?<![\d.]){value:g}(?![\d.]*\d)", formula), f"{term}: {name} is {value}"


def test_every_stream_is_told():
    episode = Streams.of(1)
    draws = {name for name in dir(episode) if not name.startswith("_")} - {"of", "seed"}
    assert set(rows("streams")) == draws


# Tasks


def test_every_task_has_one_page_with_its_numbers():
    assert sorted(task.name for page in tasks.pages().values() for task in page) == sorted(TASKS)
    for page, own in tasks.pages().items():
        assert f"tasks/{page}.md" in PAGES, f"write docs/tasks/{page}.md, with a line <!-- generated: tasks {page} -->"
        told = PAGES[f"tasks/{page}.md"]
        for task in own:
            assert f"## Task `{task.name}`" in told
            assert f"{tasks.host_params(task):,} parameters" in told
            assert f"{tasks.budget(task):,}, a `{task.budget_blueprint}`" in told
            assert all(f'"esper_env:{name}"' in told for name in tasks.ids_of(task)[:1])


def test_a_page_of_numbers_agrees_with_the_environment():
    env = SeedEnv(task="digits", max_epochs=1)
    _, info = env.reset(seed=0)
    assert tasks.host_params(TASKS["digits"]) == info["host_params"]
    assert tasks.budget(TASKS["digits"]) == env._simulation.budget
    assert tasks.splits(TASKS["digits"]) == (1077, 360, 360)


def test_a_task_nobody_has_written_about_is_told_of_on_the_page_of_its_data(monkeypatch):
    monkeypatch.setitem(TASKS, "newer", replace(TASKS["shapes"], name="newer"))
    assert tasks.page_of(TASKS["newer"]) == "shapes"
    assert "## Task `newer`" in fill(PAGES["tasks/shapes.md"])


# Pages


def test_every_page_is_in_the_navigation():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = re.findall(r"^ +- ([\w/]+\.md)$", settings, re.MULTILINE)
    assert len(navigation) == len(set(navigation))
    assert set(navigation) == set(PAGES)


@pytest.mark.slow
def test_every_page_is_what_the_generator_would_write():
    """In a process of its own, since other tests register things."""
    check = [sys.executable, "-m", "docs.generator", "--check"]
    done = subprocess.run(check, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("asked", "known"), [(GENERATED, SECTIONS), (PLACE, BUILT)], ids=["generated", "built"])
def test_pages_ask_for_everything_that_there_is_and_for_nothing_else(asked, known):
    found = [match for page in PAGES.values() for match in asked.finditer(page)]
    assert {match[1] for match in found} == set(known)
    word = found[0][0].partition(":")[0]
    assert len(found) == sum(page.count(word) for page in PAGES.values())


def test_only_what_is_generated_is_written_anew():
    page = "A\n\n<!-- generated: ids -->\n\nB\n\n<!-- generated: causal -->\n\nold\n\n<!-- end -->\n\nC\n"
    filled = fill(page)
    ids, causal = (f"{name} -->\n\n{SECTIONS[name]()}\n\n<!-- end -->" for name in ("ids", "causal"))
    assert filled == f"A\n\n<!-- generated: {ids}\n\nB\n\n<!-- generated: {causal}\n\nC\n"
    assert fill(filled) == filled


def test_in_the_site_a_drawing_stands_in_place_of_the_words_about_it():
    assert build("A\n\n<!-- built: curves -->\nWords,\nmore.\n\nB\n") == f"A\n\n{BUILT['curves']()}\n\nB\n"
    assert build("<!-- built: curves -->\n\nB\n") == f"{BUILT['curves']()}\n\nB\n"


def test_a_wrong_name_is_refused_with_the_right_one():
    with pytest.raises(KeyError, match="Did you mean 'heads'"):
        fill("<!-- generated: headz -->")
    with pytest.raises(KeyError, match="Did you mean 'curves'"):
        build("<!-- built: curvez -->")


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(module):
    text = "\n".join(PAGES.values())
    assert f"<!-- built: api {module} -->" in text
    directives = re.findall(r"^::: (\S+)$", api.reference(module), re.MULTILINE)
    assert directives == [f"{module}.{name}" for name in api.public(module)] != []


def test_the_build_counts_warnings():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-m mkdocs build --strict\n" in makefile  # with --quiet there would be no warnings to count


def test_documents_link_to_pages_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\((docs/[^)#]+)", readme):
        assert (ROOT / link).exists(), link


def test_the_speed_of_the_readme_is_the_one_that_was_measured():
    told = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Speed\n")[2]
    measured = {row["name"]: row for row in json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]}
    for state in ("no seeds", "three blending seeds", "three blending seeds, all styles"):
        row = measured[f"{state}: K=32 against naive"]
        assert re.search(rf"{row['detail']['ms K=32']:.1f} ms \| {row['value']:.1f} times faster", told), row


def test_the_results_of_the_readme_are_those_of_the_protocol():
    """Of `digits`: return with its interval, accuracy and parameters."""
    readme = _by_agent((ROOT / "README.md").read_text(encoding="utf-8").partition("## The agent")[2])
    found = _by_agent(PAGES["results.md"].partition("## digits")[2].partition("\n## ")[0])
    assert {"lstm", "schedule", "heuristic", "wait", "random"} <= readme.keys() <= found.keys()
    for agent, (gained, accuracy, params) in readme.items():
        _, _, whole, _, interval, size, *_ = found[agent]
        assert (gained, accuracy, params) == (whole, interval.partition(" ")[0], size), agent


def _by_agent(text):
    """The first table's cells, but for the first, by the contestant that it begins with."""
    table = re.search(r"^\| agent .*\n(?:\|.*\n)+", text, re.MULTILINE).group()
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    return {re.match(r"`([^`]+)`", name).group(1): cells for name, *cells in lines}


# Code


def session(adds):
    """The pages with code that adds to what later pages would see, or the pages with any other code."""
    return [name for name in PAGES if BLOCK.search(PAGES[name]) and (bool(ADDS.search(_code(PAGES[name])))) == adds]


def _code(page):
    return "".join(block[2] for block in BLOCK.finditer(page))


@pytest.mark.slow
@pytest.mark.parametrize("pages", [session(False), *([name] for name in session(True))], ids=lambda pages: pages[0])
def test_the_code_of_the_pages_runs(pages):
    """In processes of their own, since some pages register things."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(RUN), *(str(DOCS / name) for name in pages)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ran ") == len(pages)
