import json

import pytest
import torch

from benchmarks.suite.ablations import FEEDBACK
from benchmarks.suite.contestants import training_config
from benchmarks.suite.protocol import ABLATIONS, PROTOCOL
from benchmarks.suite.runner import Runner
from esper_agent.config import PPOConfig
from esper_agent.policies.registry import create_policy
from esper_agent.runs import TrainConfig, make_policy
from esper_agent.spec import EnvSpec
from esper_env.config import ConfigError
from tests.agent.observations import observations

SPEC = EnvSpec()


def config_of(name, folder):
    """The training that the protocol's contestant stands for, beside that of the default agent."""
    runner = Runner(runs=folder)
    entry = next(entry for entry in PROTOCOL.entries if entry.agent == name)
    run = runner.run(entry, entry.seeds[0])
    config = training_config(run, 1)
    return config, TrainConfig(
        run=config.run, task=entry.task, steps=entry.steps, threads=1, evaluation_episodes=0, keep=1
    )


def differences(config, default):
    """What differs from the default agent, the parts of `ppo` by name."""
    found = {}
    for name in TrainConfig.__dataclass_fields__:
        ours, theirs = getattr(config, name), getattr(default, name)
        if name == "ppo":
            found |= {
                k: getattr(ours, k) for k in PPOConfig.__dataclass_fields__ if getattr(ours, k) != getattr(theirs, k)
            }
        elif ours != theirs:
            found[name] = ours
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lstm", {}),
        ("lstm-q-op", {"baseline": "q_op"}),
        ("lstm-state", {"baseline": "state"}),
        ("lstm-lambda-95", {"gae_lambda": 0.95}),
        ("lstm-relevant", {"head_average": "relevant"}),
        ("lstm-even-entropy", {"entropy_weights": dict.fromkeys(PPOConfig().entropy_weights, 1.0)}),
        ("lstm-no-feedback", {"policy": "benchmarks.suite.ablations:no-feedback"}),
        ("lstm-no-blueprints", {"policy": "benchmarks.suite.ablations:no-blueprints"}),
        ("lstm-parallel", {"policy_options": {"blueprint_by_slot": False}}),
        ("lstm-even-start", {"policy_options": {"first_bias": {}}}),
        ("lstm-128", {"policy_options": {"width": 128}}),
        ("lstm-hindsight", {"env": {"reward": {"hindsight": 0.1}}}),
        ("mlp", {"policy": "mlp"}),
        ("lstm-v1", {"policy": "lstm-v1", "baseline": "state"}),
    ],
)
def test_a_contestant_differs_from_the_default_agent_in_what_its_name_says_and_nothing_else(tmp_path, name, expected):
    assert differences(*config_of(name, tmp_path)) == expected


@pytest.mark.parametrize("name", [a.name for a in ABLATIONS] + ["mlp", "lstm-v1", "lstm-hindsight"])
def test_every_contestant_that_learns_can_be_built(tmp_path, name):
    config, _ = config_of(name, tmp_path)
    json.dumps(config.policy_options)
    policy, _ = make_policy(config)
    assert sum(p.numel() for p in policy.parameters()) > 100_000


def changed(td, key, index, by):
    other = td.clone()
    other[key][..., index] = by
    return other


@pytest.mark.parametrize(
    ("name", "key", "index", "values", "blind"),
    [
        ("no-feedback", "features", list(FEEDBACK), (0.0, 1.0), True),
        ("no-feedback", "features", [0], (0.0, 1.0), False),
        ("no-feedback", "blueprint_index", [0], (-1, 3), False),
        ("no-blueprints", "blueprint_index", [0, 1, 2], (-1, 3), True),
        ("no-blueprints", "features", list(FEEDBACK), (0.0, 1.0), False),
    ],
)
def test_a_policy_is_blind_to_what_it_lacks_and_to_nothing_else(name, key, index, values, blind):
    policy = create_policy(f"benchmarks.suite.ablations:{name}", SPEC, seed=1)
    td = observations(4)
    td.update(policy.initial_state(4))
    seen = [policy.judge(changed(td, key, index, value)).values for value in values]
    assert torch.equal(*seen) is blind


def test_feedback_is_seven_features():
    assert tuple(range(18, 25)) == FEEDBACK


def test_a_policy_without_something_begins_with_the_weights_of_the_one_with_it():
    ours, default = (create_policy(n, SPEC, seed=3) for n in ("benchmarks.suite.ablations:no-feedback", "lstm"))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), default.parameters(), strict=True))


def test_an_unknown_option_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        create_policy("benchmarks.suite.ablations:no-feedback", SPEC, widht=3)
