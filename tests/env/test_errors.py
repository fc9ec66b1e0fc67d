"""Mistakes are answered with what was given, what is allowed, and how to go on; odd actions are no mistakes."""

import json
from dataclasses import fields, replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from esper_env import ConfigError, RewardConfig, Task, register_blueprint, register_reward, register_task
from esper_env.actions import ACTION_HEADS, HEAD_INDEX, Op
from esper_env.config import LifecycleConfig, TrainingConfig, check_number, plain
from esper_env.env import SeedEnv
from esper_env.reward import REWARDS
from esper_env.tasks import find_task
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import HASTY, action

SHORT = {"max_epochs": 3, "training": {"batches_per_epoch": 2, "val_samples": 64}, "lifecycle": HASTY}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "digit"}, "Unknown task 'digit'. Did you mean 'digits'"),
        ({"task": 3}, "task must be a name, got 3"),
        ({"task": find_task("digits")}, "Register a Task with register_task first"),
        ({"blueprints": ["conv_lite"]}, "Unknown blueprint for a cnn host 'conv_lite'. Did you mean 'conv_light'"),
        ({"blueprints": ["lora"]}, "Unknown blueprint for a cnn host 'lora'"),
        ({"blueprints": ["noop"]}, "Unknown blueprint for a cnn host 'noop'"),
        ({"blueprints": []}, "blueprints is empty: name at least one, or leave it out"),
        ({"blueprints": "norm"}, "blueprints must be a list of names, got 'norm'"),
        ({"blueprints": 5}, "blueprints must be a list of names, got 5"),
        ({"blueprints": [1]}, r"blueprints must be a list of names, got \[1\]"),
        ({"reward": "shape"}, "Unknown reward mode 'shape'. Did you mean 'shaped'"),
        ({"reward": {"progres": 1}}, "Unknown reward option 'progres'. Did you mean 'progress'"),
        ({"reward": {"mode": "honest"}}, "Unknown reward mode 'honest'"),
        ({"reward": {"rent": "high"}}, "reward.rent must be a number, got 'high'"),
        ({"reward": {"gamma": 2}}, "reward.gamma must be between 0 and 1, got 2"),
        ({"reward": 3}, "reward must be a dict"),
        ({"max_epoch": 3}, "Unknown environment option 'max_epoch'. Did you mean 'max_epochs'"),
        ({"lifecycle": {"embargo": 3}}, "Unknown lifecycle option 'embargo'. Did you mean 'embargo_epochs'"),
        ({"lifecycle": {"max_seeds": 3}}, "Give max_seeds as an argument of its own"),
        ({"lifecycle": [3]}, "lifecycle must be a dict"),
        ({"training": {"lr": 3}}, "Unknown training option 'lr'"),
        ({"training": {"batch_size": 0}}, "training.batch_size must be at least 1, got 0"),
        ({"training": "fast"}, "training must be a dict"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        ({"max_epochs": 2.5}, "max_epochs must be a whole number, got 2.5"),
        ({"max_epochs": True}, "max_epochs must be a whole number, got True"),
        ({"num_slots": 4}, "num_slots must be between 1 and 3"),
        ({"num_slots": "3"}, "num_slots must be a whole number, got '3'"),
        ({"max_seeds": -1}, "max_seeds must be at least 0, got -1"),
        ({"strict_gates": 1}, "strict_gates must be True or False, got 1"),
        ({"auto_advance": "no"}, "auto_advance must be True or False, got 'no'"),
        ({"download": None}, "download must be True or False, got None"),
        ({"counterfactual_interval": 0}, "counterfactual_interval must be at least 1"),
        ({"on_panic": "rolback"}, "Unknown on_panic 'rolback'. Did you mean 'rollback'"),
        ({"training": {"host_lr": 10**400}}, "training.host_lr must be a finite number, and this one has more than"),
        ({"max_epochs": np.float64(2)}, "max_epochs must be a whole number, got 2.0"),
        ({"max_epochs": np.array(2)}, "max_epochs must be a whole number, got array"),
        ({"device": "xla"}, r"device='xla' was asked for, but torch cannot use it here \(\w.*\)"),
        ({"device": "abacus"}, "device must be a torch device .* got 'abacus'"),
        ({"data_dir": 3}, "data_dir must be a path as a string, got 3"),
    ],
)
@pytest.mark.parametrize("env", [SeedEnv, SeedVectorEnv])
def test_an_option_that_cannot_work_is_explained(env, options, message):
    with pytest.raises(ConfigError, match=message):
        env(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"num_envs": "2"}, "num_envs must be a whole number, got '2'"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"max_episode_steps": 0.5}, "max_episode_steps must be a whole number"),
        ({"autoreset_mode": "samestep"}, "Unknown autoreset_mode 'samestep'. Did you mean 'same_step'"),
        ({"autoreset_mode": 3}, "Unknown autoreset_mode 3"),
        ({"autoreset_mode": []}, r"Unknown autoreset_mode \[\]"),
        ({"thread": 2}, "Unknown environment option 'thread'"),
    ],
)
def test_an_option_of_the_vector_environment_that_cannot_work_is_explained(options, message):
    with pytest.raises(ConfigError, match=message):
        SeedVectorEnv(**options)


def test_a_training_option_may_be_none_where_that_is_its_default():
    nothing = {f.name: None for f in fields(TrainingConfig) if f.default is None}
    assert SeedEnv(training=nothing).config == SeedEnv().config
    for name in {f.name for f in fields(TrainingConfig)} - nothing.keys():
        with pytest.raises(ConfigError, match=f"training.{name} must be a number, got None"):
            TrainingConfig(**{name: None})


@pytest.mark.parametrize("env", [SeedEnv, SeedVectorEnv])
def test_numbers_of_numpy_become_those_of_python(env):
    given = {
        "task": np.str_("digits"),
        "max_epochs": np.int64(3),
        "max_seeds": np.uint8(2),
        "strict_gates": np.True_,
        "reward": {"rent": np.float32(0.5)},
        "lifecycle": {"embargo_epochs": np.int32(2)},
        "training": {"host_lr": np.float32(0.25), "batch_size": np.int64(32)},
    }
    made = env(**given).config
    assert made == env(**{name: plain(value) for name, value in given.items()}).config
    assert json.loads(json.dumps(made.to_dict())) == made.to_dict()


def test_the_sizes_of_a_stack_may_be_numbers_of_numpy():
    envs = SeedVectorEnv(np.int64(2), threads=np.int8(1), chunk=np.int64(2), max_episode_steps=np.uint16(4), **SHORT)
    assert type(envs.num_envs) is int
    assert envs.fork().num_envs == 2


def test_a_number_of_numpy_that_nobody_made_plain_is_asked_for_as_such():
    check_number("steps", 3, 1, whole=True)
    with pytest.raises(ConfigError, match=r"steps must be a whole plain Python number, got np.int64"):
        check_number("steps", np.int64(3), 1, whole=True)


def test_a_mistake_is_explained_through_make_too():
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        gym.make("Esper-Seed-v0", task="dgits")


def test_registering_something_else_is_refused():
    with pytest.raises(ConfigError, match="register_task takes a Task"):
        register_task({"name": "mine"})
    with pytest.raises(ConfigError, match="exists already"):
        register_task(Task("digits", "another", find_task("digits").source, find_task("shapes").host))
    with pytest.raises(ConfigError, match="register_blueprint takes a subclass of Blueprint"):
        register_blueprint(int)
    with pytest.raises(ConfigError, match="exists already"):
        register_reward("shaped", lambda step, config: {})
    for name, function in ((3, lambda step, config: {}), ("mine", "shaped"), ("mine", None)):
        with pytest.raises(ConfigError, match=f"takes a name and a function, got {name!r} and "):
            register_reward(name, function)
    with pytest.raises(ConfigError, match=r"reward.rent must be at least 0"):
        RewardConfig(rent=-1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget_blueprint": "mlp_small"}, "Unknown budget_blueprint for the cnn host of task 'digits' 'mlp_small'"),
        ({"name": 3}, "name of a task must be a string, got 3"),
        ({"batch_size": 0}, "batch_size of task 'digits' must be at least 1"),
        ({"scored_by_loss": True, "target_loss": 3.0}, "target_loss must be below that of guessing, 2.303; got 3.0"),
    ],
)
def test_a_task_that_cannot_work_is_refused_when_it_is_made(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(find_task("digits"), **changes)


def test_a_reward_that_pays_no_arrays_is_refused_when_the_environment_is_made(monkeypatch):
    monkeypatch.setitem(REWARDS, "flat", lambda step, config: {"bonus": 1.0})
    with pytest.raises(ConfigError, match=r"Reward 'flat' must pay every term as an array .* its 'bonus' is 1.0"):
        SeedEnv(reward="flat", **SHORT)


@pytest.mark.parametrize("paid", [{}, None, [1.0], np.zeros(1), {1: np.zeros(1)}])
def test_a_reward_that_names_no_terms_is_refused_when_the_environment_is_made(paid, monkeypatch):
    monkeypatch.setitem(REWARDS, "nameless", lambda step, config: paid)
    with pytest.raises(ConfigError, match="Reward 'nameless' must return a dict with at least one named term, got"):
        SeedEnv(reward="nameless", **SHORT)


def test_what_is_offered_instead_of_a_misspelt_option_is_accepted():
    with pytest.raises(ConfigError, match="Did you mean 'render_mode'"):
        SeedEnv(render_mod="ansi")
    with pytest.raises(ConfigError, match="Unknown lifecycle option 'max_sedes'") as refusal:
        SeedEnv(lifecycle={"max_sedes": 2})
    assert "max_seeds" not in str(refusal.value)
    with pytest.raises(ConfigError, match="Give max_seeds inside the LifecycleConfig"):
        SeedEnv(lifecycle=LifecycleConfig(), max_seeds=1)


def test_stepping_before_the_first_reset_is_refused():
    env = SeedEnv(**SHORT)
    with pytest.raises(ResetNeeded, match="No episode has begun"):
        env.step(action())
    with pytest.raises(ResetNeeded, match="no host yet"):
        env.export_host()


def test_stepping_after_the_end_is_refused_until_a_reset():
    env = SeedEnv(**SHORT | {"max_epochs": 1})
    env.reset(seed=1)
    assert env.step(action())[2]
    with pytest.raises(ResetNeeded, match="The episode is over"):
        env.step(action())
    env.reset()
    env.step(action())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 1], r"An action is 8 numbers \(slot, blueprint, .*, op\), so \(8,\) are expected here; got shape \(2,\)"),
        (3, "An action is 8 numbers"),
        ([[0] * 8], "An action is 8 numbers"),
        (np.zeros(8), "whole numbers; got dtype float64"),
        (["WAIT"] * 8, "whole numbers; got dtype"),
        (None, "An action is 8 numbers"),
    ],
)
def test_an_action_of_another_shape_or_type_is_explained_and_changes_nothing(given, message):
    env = SeedEnv(**SHORT)
    env.reset(seed=1)
    with pytest.raises(ValueError, match=message):
        env.step(given)
    assert env._simulation.signals.epoch[0] == 0


@pytest.mark.parametrize("given", [np.zeros(8, int), np.zeros((3, 8), int), np.zeros((2, 8)), [[0] * 7] * 2])
def test_actions_of_another_shape_or_type_are_explained(given):
    envs = SeedVectorEnv(2, **SHORT)
    envs.reset(seed=1)
    with pytest.raises(ValueError, match="An action"):
        envs.step(given)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.int64])
def test_any_whole_numbers_will_do(dtype):
    env = SeedEnv(**SHORT)
    env.reset(seed=1)
    info = env.step(np.array(action(Op.GERMINATE, 0, "norm"), dtype))[4]
    assert info["action_executed"]


@pytest.mark.parametrize("value", [-1, 10**6, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("head", ["slot", "blueprint", "style", "tempo", "alpha_target", "op"])
def test_a_value_outside_the_space_runs_as_wait(head, value):
    env, waiting = SeedEnv(**SHORT), SeedEnv(**SHORT)
    env.reset(seed=1)
    waiting.reset(seed=1)
    vector = action(Op.GERMINATE, 0, "norm")
    vector[HEAD_INDEX[head]] = value
    found, expected = env.step(vector), waiting.step(action())
    assert not found[4]["action_executed"]
    assert expected[4]["action_executed"]
    assert found[1] == expected[1]
    assert found[4]["val_loss"] == expected[4]["val_loss"]
    np.testing.assert_array_equal(found[0]["blueprint_index"], expected[0]["blueprint_index"])


def test_a_value_outside_the_space_in_a_head_that_does_not_matter_is_ignored():
    env = SeedEnv(**SHORT)
    env.reset(seed=1)
    assert env.step([99, -5, 99, -5, 99, -5, 99, Op.WAIT])[4]["action_executed"]
    assert env.step([0, 1, 0, 0, 0, 99, -1, Op.GERMINATE])[4]["action_executed"]


def test_every_action_head_has_its_place_in_the_message():
    env = SeedEnv(**SHORT)
    env.reset(seed=1)
    with pytest.raises(ValueError, match=", ".join(head.name for head in ACTION_HEADS)):
        env.step([0])


def test_what_was_refused_can_be_closed():
    SeedVectorEnv.__new__(SeedVectorEnv).close()  # as the destructor of Gymnasium 1.1 does


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("thread", "threads"),
        ("chunks", "chunk"),
        ("max_episode_step", "max_episode_steps"),
        ("max_epoch", "max_epochs"),
    ],
)
def test_an_unknown_option_of_a_stack_is_told_from_its_own_too(name, meant):
    with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
        SeedVectorEnv(2, **{name: 2})


@pytest.mark.parametrize("options", [{"reward": {"rent": float("inf")}}, {"training": {"host_lr": float("inf")}}])
def test_infinity_is_no_setting(options):
    with pytest.raises(ConfigError, match="must be a finite number, got inf"):
        SeedEnv(**options)
