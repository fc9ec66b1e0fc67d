import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from esper_agent import EnvSpec
from esper_agent.rollout.environment import SeedTorchEnv
from esper_env import SeedVectorEnv
from esper_env.info import INFO

BRIEF = {"max_epochs": 4, "chunk": 2, "training": {"batches_per_epoch": 1, "val_samples": 32}}


def actions(env, steps, seed=0):
    """Anything in the action space, legal or not."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, env.single_action_space.nvec, (steps, env.num_envs, len(env.single_action_space.nvec)))


def same(observation, td):
    assert all(np.array_equal(array, td[name].numpy()) for name, array in observation.items())


def test_it_keeps_to_its_specs():
    check_env_specs(SeedTorchEnv(2, seed=1, **BRIEF))


def test_actions_are_vectors_of_int64():
    env = SeedTorchEnv(3, **BRIEF)
    assert env.action_spec.shape == (3, 8)
    assert env.action_spec.dtype == torch.int64


def test_a_policy_can_be_made_for_it():
    assert EnvSpec.of(SeedTorchEnv(2, **BRIEF)) == EnvSpec.of(SeedVectorEnv(2, **BRIEF)) == EnvSpec()


def test_it_plays_as_the_vector_environment_does_by_hand():
    """Host 1 begins anew in the middle of its episode, so that later on the hosts end at different times."""
    vector = SeedVectorEnv(4, autoreset_mode="disabled", **BRIEF)
    env = SeedTorchEnv(4, seed=7, **BRIEF)
    observation, _ = vector.reset(seed=7)
    td = env.reset()
    same(observation, td)
    ends = []
    for step, action in enumerate(actions(vector, 9)):
        observation, reward, terminated, truncated, info = vector.step(action)
        td, after = env.step_and_maybe_reset(td.set("action", torch.from_numpy(action)))
        same(observation, td["next"])
        assert np.array_equal(td["next", "reward"].squeeze(-1).numpy(), reward.astype(np.float32))
        assert np.array_equal(td["next", "terminated"].squeeze(-1).numpy(), terminated)
        assert np.array_equal(td["next", "truncated"].squeeze(-1).numpy(), truncated)
        assert np.array_equal(td["next", "info", "stage"].numpy(), info["stage"])
        over = terminated | truncated
        if over.any():
            observation, _ = vector.reset(options={"reset_mask": over})
        if step == 1:
            over = np.arange(4) == 1
            observation, _ = vector.reset(options={"reset_mask": over})
            after = env.reset(after.set("_reset", torch.from_numpy(over)[:, None]))
        same(observation, after)
        td = after.exclude("_reset")
        ends.append(tuple(over))
    assert len(set(ends)) == 3


def test_info_tells_what_the_table_of_info_does():
    env = SeedTorchEnv(2, seed=3, **BRIEF)
    td = env.rollout(4)["next", "info"]
    assert set(td.keys()) == {*INFO, "reward_terms", "objective_return", "discounted_return"}
    assert td["action_executed"].dtype == torch.bool
    assert td["seeds_created"].dtype == torch.int64
    assert td["stage"].shape == td["alpha"].shape == (2, 4, 3)
    assert td["score"].dtype == torch.float32


def test_reward_terms_add_up_and_returns_run_along_the_episode():
    td = SeedTorchEnv(2, seed=3, **BRIEF).rollout(6, break_when_any_done=False)["next"]
    terms, reward = td["info", "reward_terms"], td["reward"]
    torch.testing.assert_close(sum(terms[name] for name in terms.keys()), reward)  # noqa: SIM118
    discount = 0.995 ** torch.arange(4)[:, None]
    torch.testing.assert_close(td["info", "objective_return"][:, 3], td["info", "objective_reward"][:, :4].sum(1))
    torch.testing.assert_close(td["info", "discounted_return"][:, 3], (discount * reward[:, :4]).sum(1))
    torch.testing.assert_close(td["info", "objective_return"][:, 4], td["info", "objective_reward"][:, 4])


def test_truncation_is_told_from_termination():
    td = SeedTorchEnv(2, max_episode_steps=3, **BRIEF).rollout(3)["next"]
    assert td["truncated"][:, -1].all()
    assert td["done"][:, -1].all()
    assert not td["terminated"].any()


def test_seeds_are_shared_out_one_by_one():
    env, second = SeedTorchEnv(2, **BRIEF), SeedTorchEnv(1, seed=12, **BRIEF)
    assert env.set_seed(11) == 13
    first = env.reset()
    torch.testing.assert_close(first["features"][1:], second.reset()["features"])
    assert not torch.equal(first["features"], env.reset()["features"])


def test_a_state_continues_bit_for_bit():
    env, other = SeedTorchEnv(2, seed=3, **BRIEF), SeedTorchEnv(2, seed=4, **BRIEF)
    td = env.rollout(2)[:, -1]["next"]
    other.set_state(env.get_state())
    for action in actions(env._vector, 4):
        td.set("action", torch.from_numpy(action))
        mine, theirs = env.step_and_maybe_reset(td.clone()), other.step_and_maybe_reset(td.clone())
        assert (mine[0]["next"] == theirs[0]["next"]).all()
        assert (mine[1] == theirs[1]).all()
        td = mine[1]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_hosts_train_even_where_the_caller_wants_no_gradients(mode):
    usual = SeedTorchEnv(2, seed=3, **BRIEF).rollout(2, policy=lambda td: td.set("action", torch.zeros(2, 8).long()))
    with mode():
        env = SeedTorchEnv(2, seed=3, **BRIEF)
        td = env.rollout(2, policy=lambda td: td.set("action", torch.zeros(2, 8).long()))
    assert torch.equal(td["next", "info", "train_loss"], usual["next", "info", "train_loss"])
