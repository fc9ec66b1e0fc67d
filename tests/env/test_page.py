"""The environment's docstring is its page: its examples run, and its tables are those of the code."""

import ast
import doctest
import inspect
import re
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest

import esper_env.env
import esper_env.sb3
from esper_env.actions import (
    ACTION_HEADS,
    ALPHA_SPEEDS,
    ALPHA_TARGETS,
    BLUEPRINTS,
    CAUSAL_HEADS,
    TEMPOS,
    Op,
    head_sizes,
)
from esper_env.config import EnvOptions, LifecycleConfig, RewardConfig, TrainingConfig
from esper_env.env import SeedEnv
from esper_env.info import INFO
from esper_env.lifecycle.legality import RULES, Condition, permitted
from esper_env.lifecycle.stages import ALPHA_CONTROLLED, Stage
from esper_env.options import resolve
from esper_env.reward import OBJECTIVE, REWARDS, op_cost, shaped_terms
from esper_env.spaces import observation_space
from esper_env.tasks import TASKS

PAGE = inspect.getdoc(SeedEnv)
PHRASES = {
    Condition.ROOM: "room for a seed",
    Condition.AT_REST: "alpha at rest",
    Condition.OLD: "old enough",
    Condition.TRAINED: "long enough",
    Condition.HEALTHY: "healthy gradients",
    Condition.CALM: "healthy gradients",
    Condition.REACHED: "at rest at 1",
    Condition.MEASURED: "measured",
}
"""How the page calls what an op asks of a slot."""
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


def test_its_ramps_and_targets_are_those_of_the_choices():
    told = {row[0]: numbers(row[1].partition(" (")[2]) for row in table("Action Space").values()}
    assert told["tempo"] == TEMPOS.tolist()
    assert told["alpha_target"] == ALPHA_TARGETS.tolist()
    assert told["alpha_speed"] == ALPHA_SPEEDS.tolist()


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def told_rule(cell):
    """The conditions that a cell of the table of ops names for each stage."""
    if cell == "always":
        return {stage: set() for stage in Stage}
    rule = {}
    for clause in cell.split(";"):
        asked = {condition for condition, phrase in PHRASES.items() if phrase in clause}
        for first, last in re.findall(r"([A-Z]{2,})(?: to ([A-Z]{2,}))?", clause):
            rule |= {Stage(s): set(asked) for s in range(Stage[first], Stage[last or first] + 1)}
    return rule


@pytest.mark.parametrize("op", Op)
def test_its_ops_are_legal_when_the_rules_say_so(op):
    cell = table("Action Space", 1)[op.name][1]
    told, rule = told_rule(cell), {stage: set(asked) for stage, asked in RULES[op].items()}
    for asked in (told, rule):
        for stage in asked:
            if not ALPHA_CONTROLLED[stage]:
                asked[stage].discard(Condition.AT_REST)  # no ramp has begun, so that this goes without saying
    assert told == rule
    one, everywhere = np.zeros(1, int), np.ones((1, len(Op), 1), bool)
    needs_blueprint = not permitted(everywhere, one + op, one, one, np.zeros(1, bool))[0]
    assert ("the blueprint suits the host" in cell) == needs_blueprint


def test_its_sizes_are_those_of_the_spaces():
    (sizes,) = re.findall(r"`MultiDiscrete\(\[slots, (.*?)\]\)`", SECTIONS["Action Space"])
    rows = {name: row[0] for name, row in table("Observation Space").items()}
    base, each = numbers(rows["features"])
    (low, high, _) = numbers(rows["blueprint_index"])
    (ops,) = numbers(rows["slot_by_op"])
    for slots in (1, 3, 5):
        assert [slots, *map(int, numbers(sizes))] == [*head_sizes(slots, 13)]
        space = observation_space(slots, 13)
        assert space["features"].shape == (base + each * slots,)
        assert (low, high) == (space["blueprint_index"].low.min(), space["blueprint_index"].high.max())
        assert space["slot_by_op"].n == ops * slots
        assert space["action_mask"].n == sum(head_sizes(slots, 13))


def test_its_observation_has_the_keys_of_the_space():
    assert set(table("Observation Space")) == set(observation_space(3, 13))


def test_its_terms_are_those_of_the_reward():
    named = [name for row in table("Rewards") for name in row.split(", ")]
    assert named[: len(OBJECTIVE)] == list(OBJECTIVE)
    source = inspect.getsource(shaped_terms)
    assert all(f'"{name}"' in source for name in named[len(OBJECTIVE) :])


def test_its_prices_and_weights_are_the_defaults_of_the_reward():
    rows, config = table("Rewards"), RewardConfig()
    costs = -op_cost(SimpleNamespace(op=np.arange(len(Op))), config)
    prices = dict(pair.split() for pair in rows["op_cost"][0].split(", "))
    assert {name: float(price) for name, price in prices.items()} == {op.name: costs[op] for op in Op if costs[op]}
    assert numbers(rows["progress"][0]) == [config.progress]
    assert numbers(rows["governor"][0]) == [-config.governor]
    assert numbers(rows["hindsight"][0]) == [config.hindsight]


def test_its_modes_are_those_of_the_table():
    assert f"In the default mode, `{RewardConfig().mode}`" in SECTIONS["Rewards"]
    (others,) = re.findall(r"Other modes are\s+(.*?);", SECTIONS["Rewards"], re.DOTALL)
    ours = [name for name, function in REWARDS.items() if function.__module__ == shaped_terms.__module__]
    assert [RewardConfig().mode, *re.findall(r"`(\w+)`", others)] == ours


def test_its_info_is_that_of_the_table():
    rows = table("Information")
    assert {name: row[0] for name, row in rows.items() if name in INFO} == {n: e.meaning for n, e in INFO.items()}
    env = SeedEnv(max_epochs=1)
    _, info = env.reset(seed=0)
    assert set(rows) == set(info)


def test_its_arguments_are_those_that_are_taken():
    rows = table("Arguments")
    assert set(rows) == {field.name for field in fields(EnvOptions)} | {"render_mode"}
    inside = {field.name for field in fields(LifecycleConfig)} - set(rows)
    assert set(re.findall(r"\w+", rows["lifecycle"][1])) == inside
    assert set(re.findall(r"\w+", rows["training"][1])) == {field.name for field in fields(TrainingConfig)}


@pytest.mark.parametrize("task", TASKS)
def test_its_defaults_are_those_of_the_arguments(task):
    config, _ = resolve({"task": task})
    row = TASKS[task]
    from_task = {"num_slots": len(row.host.slots), "max_epochs": row.max_epochs}
    suited = tuple(b.name for b in BLUEPRINTS if row.host.topology in b.topologies)
    defaults = {field.name: field.default for field in fields(EnvOptions)}
    defaults["render_mode"] = inspect.signature(SeedEnv).parameters["render_mode"].default
    for name, (told, _) in table("Arguments").items():
        if told == "the task's":
            assert (defaults[name], getattr(config, name)) == (None, from_task[name]), name
        elif told == "all that suit":
            assert (defaults[name], getattr(config, name)) == (None, suited), name
        elif told == "the number of slots":
            assert (defaults[name], getattr(config.lifecycle, name)) == (None, config.num_slots), name
        elif told == "{}":
            assert resolve({"task": task, name: {}})[0] == config, name
        else:
            assert repr(defaults[name]) == repr(ast.literal_eval(told)), name
