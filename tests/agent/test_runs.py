import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from esper_agent import checkpoint
from esper_agent.config import PPOConfig
from esper_agent.runs import HOST_SEEDS, SELECTION_SEED, TrainConfig, load_config, load_policy, make_policy
from esper_agent.train import train
from esper_env.config import ConfigError
from tests.agent.test_train import UPDATE, last, quiet, same, tiny


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loggers": ("tensorbord",)}, "Did you mean 'tensorboard'"),
        ({"env": {"task": "shapes"}}, "Give task as an argument of its own"),
        ({"env": {"threads": 2}}, "Give threads as an argument of its own"),
        ({"env": {"render_mode": "ansi"}}, "leave render_mode out of env"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"seed": 900}, "seed must be between 0 and 899, got 900: later seeds would begin with hosts that are kept"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 899, "num_envs": 1001}, "num_envs must be at most 1000"),
    ],
)
def test_values_that_make_no_sense_are_refused_at_once(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        TrainConfig(**changes)


def test_training_seeds_stay_below_those_that_choose_the_best():
    config = TrainConfig(seed=899, num_envs=1000)
    assert config.seed * HOST_SEEDS + config.num_envs <= SELECTION_SEED


def test_a_policy_is_trained_with_the_critic_that_it_comes_with(tmp_path):
    policy, _ = make_policy(tiny(tmp_path, policy="lstm-v1", policy_options={}))
    assert sum(parameter.numel() for parameter in policy.parameters()) == 225_698
    policy, _ = make_policy(tiny(tmp_path, policy="lstm-v1", policy_options={}, ppo=PPOConfig(baseline="q_op")))
    assert policy.network.judges_ops


def test_a_configuration_survives_its_file(tmp_path):
    config = tiny(tmp_path, ppo=PPOConfig(clip=0.1), loggers=("tensorboard",), steps=UPDATE)
    train(config, show=quiet)
    assert load_config(tmp_path) == config


def test_numbers_of_numpy_become_those_of_python_wherever_they_are_given():
    ppo = PPOConfig(clip=np.float32(0.5), entropy_weights={"op": np.float32(2)})
    config = TrainConfig(
        num_envs=np.int64(2), ppo=ppo, env={"max_epochs": np.int64(3), "reward": {"rent": np.float32(1)}}
    )
    plain = PPOConfig(clip=0.5, entropy_weights={"op": 2.0})
    assert config == TrainConfig(num_envs=2, ppo=plain, env={"max_epochs": 3, "reward": {"rent": 1.0}})
    json.dumps(asdict(config))


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no run in .*nowhere"):
        load_config(tmp_path / "nowhere")


def test_a_policy_is_loaded_as_it_was_saved(tmp_path):
    trained = tmp_path / "trained"
    train(tiny(trained), show=quiet)
    policy, config = load_policy(trained, "last")
    assert same(dict(policy.state_dict()), dict(last(trained)["policy"]))
    assert config == tiny(trained)
    with pytest.raises(ConfigError, match="Did you mean 'last'"):
        load_policy(trained, "lasst")
    settings = json.loads((trained / "config.json").read_text())
    settings["policy_options"]["blueprint_by_slot"] = False
    (trained / "config.json").write_text(json.dumps(settings))
    with pytest.raises(checkpoint.CheckpointError, match=r"another policy \(size mismatch for .*blueprint"):
        load_policy(trained, "last")


def test_a_run_older_than_an_option_is_loaded_and_goes_on_as_it_was(tmp_path):
    then = {"blueprint_by_slot": False, "first_bias": {}}
    old = tiny(tmp_path, policy_options={**tiny(tmp_path).policy_options, **then})
    train(old, show=quiet)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    for option in then:
        del settings["policy_options"][option], settings["resolved"]["policy_options"][option]
    path.write_text(json.dumps(settings))
    assert then.items() <= load_policy(tmp_path, "last")[1].policy_options.items()
    path = tmp_path / "checkpoints" / checkpoint.LAST
    saved = checkpoint.read(path)
    for option in then:
        del saved["resolved"]["policy_options"][option]
    checkpoint.write(path, saved)
    train(replace(old, steps=old.steps + UPDATE), resume=True, show=quiet)
    assert last(tmp_path)["counters"]["steps"] == old.steps + UPDATE
    with pytest.raises(ConfigError, match="blueprint_by_slot=False and cannot go on with True"):
        train(replace(old, policy_options={**old.policy_options, "blueprint_by_slot": True}), resume=True, show=quiet)


def test_without_an_evaluation_the_last_policy_is_the_best(tmp_path):
    train(tiny(tmp_path, steps=UPDATE, evaluation_episodes=0), show=quiet)
    assert not (tmp_path / "checkpoints" / checkpoint.BEST).exists()
    load_policy(tmp_path)
