"""The environment's docstring is its page: its examples run, and its tables are those of the code."""

import doctest
import inspect
import re
from dataclasses import fields

import pytest

import esper_env.env
import esper_env.sb3
from esper_env.actions import ACTION_HEADS, BLUEPRINTS, CAUSAL_HEADS, Op
from esper_env.config import EnvOptions, LifecycleConfig, TrainingConfig
from esper_env.env import SeedEnv
from esper_env.info import INFO
from esper_env.reward import OBJECTIVE, shaped_terms
from esper_env.spaces import observation_space

PAGE = inspect.getdoc(SeedEnv)
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def table(section, number=0):
    """Cells of the rows of a section's table, by its first column."""
    tables = re.findall(r"(?:^\|.*\|\n)+", SECTIONS[section], re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in tables[number].splitlines()[2:]]
    return {row[0].strip("| "): [cell.strip("| ") for cell in row[1:]] for row in rows}


@pytest.mark.parametrize("module", [esper_env.env, esper_env.sb3])
def test_its_examples_do_what_they_say(module):
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0


def test_its_sections_are_in_the_order_of_gymnasium():
    order = ["Description", "Action Space", "Observation Space", "Rewards", "Starting State", "Episode End"]
    assert list(SECTIONS) == [*order, "Information", "Arguments", "Version History"]


def test_its_heads_are_those_of_the_action():
    rows = table("Action Space")
    assert [(int(number), row[0]) for number, row in rows.items()] == [(i, h.name) for i, h in enumerate(ACTION_HEADS)]
    for head, row in zip(ACTION_HEADS[1:], list(rows.values())[1:], strict=True):
        choices = [row.name for row in BLUEPRINTS[:13]] if head.name == "blueprint" else head.choices
        assert row[1].partition(" (")[0].split(", ") == list(choices)


def test_its_ops_have_the_heads_that_matter():
    rows = table("Action Space", 1)
    assert list(rows) == [op.name for op in Op]
    for op in Op:
        assert rows[op.name][0] == (", ".join(CAUSAL_HEADS[op]) or "none")


def test_its_observation_has_the_keys_of_the_space():
    assert set(table("Observation Space")) == set(observation_space(3, 13))


def test_its_terms_are_those_of_the_reward():
    named = [name for row in table("Rewards") for name in row.split(", ")]
    assert named[: len(OBJECTIVE)] == list(OBJECTIVE)
    source = inspect.getsource(shaped_terms)
    assert all(f'"{name}"' in source for name in named[len(OBJECTIVE) :])


def test_its_info_is_that_of_the_table():
    rows = table("Information")
    assert {name: row[0] for name, row in rows.items() if name in INFO} == {n: e.meaning for n, e in INFO.items()}
    env = SeedEnv(max_epochs=1)
    _, info = env.reset(seed=0)
    assert set(rows) == set(info)


def test_its_arguments_are_those_that_are_taken():
    rows = table("Arguments")
    assert set(rows) == {field.name for field in fields(EnvOptions)} | {"render_mode"}
    for name in re.findall(r"\w+", rows["lifecycle"][1]):
        assert name in {field.name for field in fields(LifecycleConfig)}
    assert set(re.findall(r"\w+", rows["training"][1])) == {field.name for field in fields(TrainingConfig)}
