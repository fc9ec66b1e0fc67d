import pytest
import torch

from esper_agent import create_policy
from esper_agent.learning.ppo import PPO, PPOConfig
from esper_agent.rollout import make_rollouts
from esper_agent.rollout.batched import BatchedRollouts
from esper_agent.rollout.environment import SeedTorchEnv
from esper_env.config import ConfigError

BRIEF = {"max_epochs": 4, "chunk": 2, "training": {"batches_per_epoch": 1, "val_samples": 32}}
SMALL = {"width": 32, "head_width": 16}


def start(name="lstm", *, steps=6, seed=3, weights=1, options=SMALL, **env_options):
    policy = create_policy(name, SeedTorchEnv(1, **BRIEF), seed=weights, **options)
    rollouts = make_rollouts(
        "batched", policy, num_envs=4, steps=steps, seed=seed, env_options=BRIEF | env_options, threads=1
    )
    return policy, rollouts


def test_a_rollout_has_a_row_per_host_and_a_column_per_step():
    _, rollouts = start()
    rollout = rollouts.collect()
    assert rollout.shape == (4, 6)
    assert rollout["next", "info", "epoch"][0].flatten().tolist() == [1, 2, 3, 4, 1, 2]
    assert rollouts.collect()["next", "info", "epoch"][0].flatten().tolist() == [3, 4, 1, 2, 3, 4]
    assert set(rollouts.seconds) == {"env", "policy"}
    assert all(spent > 0 for spent in rollouts.seconds.values())


def test_the_recurrent_state_is_stored_before_the_step_carried_over_and_empty_at_the_start():
    _, rollouts = start()
    rollout = torch.cat([rollouts.collect(), rollouts.collect()], 1)
    begins = rollout["is_init"].squeeze(-1)
    assert begins[0].int().tolist() == [1, 0, 0, 0] * 3
    for key in ("recurrent_state_h", "recurrent_state_c"):
        before, after = rollout[key], rollout["next", key]
        assert not before[begins].any()
        assert before[~begins].flatten(1).any(1).all()
        within = ~begins[:, 1:]
        assert torch.equal(before[:, 1:][within], after[:, :-1][within])
        assert after.flatten(2).any(2).all()


@pytest.mark.parametrize("name", ["lstm", "lstm-v1", "mlp"])
def test_with_unchanged_weights_all_ratios_are_one_and_values_the_same(name):
    policy, rollouts = start(name)
    rollouts.collect()
    rollout = rollouts.collect()
    judgement = policy.unroll(rollout)
    ratio = (judgement.distribution.log_prob(rollout["action"]) - rollout["action_log_prob"]).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    torch.testing.assert_close(judgement.state_value, rollout["state_value"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(judgement.action_value(rollout["action"]), rollout["state_action_value"])


def test_a_run_in_bfloat16_keeps_log_probabilities_values_and_memory_in_float32():
    _, rollouts = start(options={**SMALL, "autocast": True})
    rollout = rollouts.collect()
    for key in ("action_log_prob", "state_value", "state_action_value", "recurrent_state_h", "recurrent_state_c"):
        assert rollout[key].dtype == torch.float32
    log_prob = rollout["action_log_prob"]
    assert (log_prob != log_prob.bfloat16()).any()


def test_without_the_primer_a_policy_with_memory_refuses_to_act():
    policy, _ = start()
    with pytest.raises(KeyError, match="make_tensordict_primer"):
        SeedTorchEnv(2, **BRIEF).rollout(2, policy)


def test_the_last_observation_of_a_truncated_episode_is_under_next():
    _, rollouts = start(max_episode_steps=3, steps=4)
    after = rollouts.collect()["next"]
    assert after["truncated"][:, 2].all()
    assert not after["terminated"].any()
    assert (after["info", "epoch"][:, 2] == 3).all()
    assert after["recurrent_state_h"][:, 2].any()


def test_the_same_seeds_give_the_same_rollouts():
    (_, one), (_, two), (_, other) = start(), start(), start(seed=4)
    first = one.collect()
    assert (first == two.collect()).all()
    assert not torch.equal(first["features"], other.collect()["features"])


def test_a_learned_policy_acts_at_once():
    policy, rollouts = start()
    ppo = PPO(policy, PPOConfig(minibatches=2, epochs=1, target_kl=None), num_envs=4, seed=0)
    ppo.update(rollouts.collect())
    rollouts.sync()
    rollout = rollouts.collect()
    torch.testing.assert_close(policy.unroll(rollout).state_value, rollout["state_value"], atol=1e-5, rtol=1e-5)


def test_a_saved_state_continues_bit_for_bit_in_other_objects():
    policy, rollouts = start()
    rollouts.collect()
    state, weights = rollouts.state_dict(), {key: value.clone() for key, value in policy.state_dict().items()}
    expected = [rollouts.collect(), rollouts.collect()]
    other, resumed = start(seed=99, weights=98)
    assert resumed.resumes_exactly
    resumed.collect()
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert all((rollout == resumed.collect()).all() for rollout in expected)


def test_a_state_from_before_the_first_rollout_continues_too():
    _, rollouts = start()
    state = rollouts.state_dict()
    expected = rollouts.collect()
    rollouts.load_state_dict(state)
    assert (expected == rollouts.collect()).all()


def test_a_state_of_another_backend_is_refused():
    _, rollouts = start()
    with pytest.raises(ConfigError, match="saved by the parallel backend"):
        rollouts.load_state_dict({"backend": "parallel", "collected": 3})


@pytest.mark.parametrize("name", ["random", "wait", "schedule", "heuristic"])
def test_policies_that_do_not_learn_run_as_well(name):
    _, rollouts = start(name, options={})
    assert rollouts.collect()["next", "info", "action_executed"].all()


def test_threads_are_stopped_at_the_end():
    policy = create_policy("mlp", SeedTorchEnv(1, **BRIEF), **SMALL)
    rollouts = BatchedRollouts(SeedTorchEnv(4, threads=2, **BRIEF), policy, steps=1)
    rollouts.collect()
    rollouts.close()
    assert rollouts._source._vector._simulation.population._pool is None


def test_an_unknown_backend_is_told_from_its_neighbour():
    with pytest.raises(ConfigError, match="Did you mean 'batched'"):
        make_rollouts("batch", None, num_envs=2, steps=2)
