import copy
from dataclasses import replace

import pytest
import torch
from torchrl.envs import InitTracker, TransformedEnv, check_env_specs
from torchrl.modules.utils import get_primers_from_module

from esper_agent import PPO, PPOConfig, create_policy
from esper_agent.learning.ppo import TrainingDivergedError, _averages
from esper_env.actions import HEAD_NAMES
from esper_env.config import ConfigError
from tests.agent.named_op_env import SPEC, NamedOpEnv, rollouts, with_transforms

SMALL = {"width": 32, "head_width": 16}
FAST = PPOConfig(
    gae_lambda=0.95, minibatches=4, epochs=3, learning_rate=2e-3, gamma=0.9, entropy_coefficient=0.01, target_kl=None
)


def small_policy(name="lstm", seed=0, **options):
    return create_policy(name, SPEC, seed=seed, **(SMALL | options))


def one_rollout(policy, **options):
    return next(rollouts(policy, 8, **({"num_envs": 8} | options)))


def weights(policy):
    return copy.deepcopy(policy.state_dict())


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("options", [{"horizons": (3, 5)}, {"memory": True}, {"truncated": True, "horizons": (4,)}])
def test_the_environment_of_these_tests_is_a_sound_torchrl_environment(options):
    check_env_specs(NamedOpEnv(4, **options))


@pytest.mark.parametrize("options", [{}, {"normalize_observations": True}, {"critic": "state"}, {"autocast": True}])
@pytest.mark.parametrize("name", ["lstm", "mlp"])
def test_a_rollout_judged_again_by_the_same_weights_has_ratio_one_and_the_same_values(name, options):
    policy = small_policy(name, **options)
    rollout = one_rollout(policy, horizons=(3, 5))
    judgement = policy.unroll(rollout)
    close = 3e-2 if "autocast" in options else 1e-5
    ratio = (judgement.distribution.log_prob(rollout["action"]) - rollout["action_log_prob"]).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=close, rtol=0)
    torch.testing.assert_close(
        judgement.action_value(rollout["action"]), rollout["state_action_value"], atol=close, rtol=0
    )


def test_the_first_step_of_an_update_sees_no_kl():
    policy = small_policy()
    config = PPOConfig(minibatches=1, epochs=1)
    metrics = PPO(policy, config, num_envs=8, seed=0).update(one_rollout(policy))
    assert metrics["kl/total"] == pytest.approx(0, abs=1e-8)
    assert metrics["ratio/min"] == pytest.approx(1, abs=1e-5)
    assert metrics["update/steps"] == 1


def test_without_the_primer_acting_is_an_error():
    policy = small_policy()
    with pytest.raises(KeyError, match="make_tensordict_primer"):
        TransformedEnv(NamedOpEnv(2), InitTracker()).rollout(3, policy)


def test_memory_is_carried_within_an_episode_and_not_beyond_it():
    policy = small_policy()
    rollout = with_transforms(NamedOpEnv(2, horizons=(3,)), policy).rollout(6, policy, break_when_any_done=False)
    for key in policy.state_keys:
        begins = rollout[key].flatten(2).abs().sum(-1) == 0
        assert begins.tolist() == [[True, False, False] * 2] * 2
        assert torch.equal(rollout[key][:, 1], rollout["next", key][:, 0])
        assert (rollout["next", key][:, 2].flatten(1).abs().sum(-1) > 0).all()


def test_torchrls_own_search_finds_the_primer():
    primer = get_primers_from_module(small_policy())
    assert set(primer.primers.keys()) == {"recurrent_state_h", "recurrent_state_c"}


def test_an_update_reports_every_metric_as_a_number_and_leaves_the_rollout_alone():
    policy = small_policy()
    rollout = one_rollout(policy)
    before = rollout.clone()
    metrics = PPO(policy, FAST, num_envs=8, seed=0).update(rollout)
    assert all(isinstance(value, float) for value in metrics.values())
    for name in HEAD_NAMES:
        for metric in ("kl", "clip_fraction", "entropy", "entropy_possible", "gradient_norm"):
            assert f"{metric}/{name}" in metrics
    assert metrics["update/steps"] == 12
    assert (rollout == before).all()
    assert set(rollout.keys(True, True)) == set(before.keys(True, True))


def test_rollouts_of_several_workers_are_learnt_from_alike():
    policy = small_policy()
    rollout = one_rollout(policy)
    ends = []
    for data in (rollout, rollout.reshape(2, 4, 8)):
        twin = small_policy()
        PPO(twin, FAST, num_envs=8, seed=0).update(data)
        ends.append(weights(twin))
    assert same(*ends)


def test_the_update_stops_before_the_step_that_would_go_too_far():
    policy = small_policy()
    config = PPOConfig(minibatches=4, learning_rate=5e-2, target_kl=1e-3)
    metrics = PPO(policy, config, num_envs=8, seed=0).update(one_rollout(policy))
    assert metrics["update/stopped"] == 1
    assert 1 <= metrics["update/steps"] < 16
    assert metrics["kl/total"] <= 1.5e-3 < metrics["update/last_kl"]


def test_minibatches_are_whole_environments_each_once_per_epoch():
    ppo = PPO(small_policy(), PPOConfig(minibatches=3, epochs=2), num_envs=8, seed=0)
    parts = list(ppo._minibatches(8))
    assert len(parts) == 6
    for epoch in (parts[:3], parts[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(8))


def test_an_update_resumed_from_saved_state_is_bit_for_bit_the_same():
    policy = small_policy(normalize_observations=True)
    stream = rollouts(policy, 8, num_envs=8)
    first, second = next(stream).clone(), next(stream).clone()
    straight = PPO(policy, FAST, num_envs=8, seed=0)
    straight.update(first)
    saved = copy.deepcopy((policy.state_dict(), straight.state_dict()))
    straight.update(second)

    resumed_policy = small_policy(seed=5, normalize_observations=True)
    resumed = PPO(resumed_policy, FAST, num_envs=8, seed=9)
    resumed_policy.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    resumed.update(second)
    assert same(weights(policy), weights(resumed_policy))


@pytest.mark.parametrize(
    ("name", "decay"), [("learning_rate", "learning_rate_decay"), ("entropy_coefficient", "entropy_decay")]
)
def test_rate_and_bonus_are_half_after_so_many_steps_wherever_the_run_was_cut(name, decay):
    policy = small_policy()
    rollout = one_rollout(policy)
    config = replace(FAST, **{name: 8e-4, decay: float(rollout.numel())})
    ppo = PPO(policy, config, num_envs=8, seed=0)
    seen = [ppo.update(rollout)[f"update/{name}"] for _ in range(2)]
    resumed = PPO(policy, config, num_envs=8, seed=0)
    resumed.load_state_dict(ppo.state_dict())
    last = resumed.update(rollout)
    assert [*seen, last[f"update/{name}"]] == pytest.approx([8e-4, 8e-4 / 2, 8e-4 / 3])
    assert resumed.optimizer.param_groups[0]["lr"] == last["update/learning_rate"]
    forever = PPO(policy, replace(config, **{decay: None}), num_envs=8, seed=0)
    forever.seen = 10**9
    assert getattr(forever, name) == 8e-4


def test_the_loss_holds_the_bonus_as_it_has_faded():
    rollout = one_rollout(small_policy())
    config = replace(FAST, entropy_coefficient=100.0, entropy_decay=1.0, epochs=1, minibatches=1)
    for seen in (0, 10**9):
        ppo = PPO(small_policy(), config, num_envs=8, seed=0)
        ppo.seen = seen
        metrics = ppo.update(rollout)
        parts = metrics["loss/policy"] + config.value_coefficient * metrics["loss/value"]
        weight = 100.0 if seen == 0 else 0.0
        assert metrics["loss/total"] == pytest.approx(parts - weight * metrics["loss/entropy_bonus"], abs=1e-4)


def test_a_step_that_is_not_finite_is_skipped_and_three_in_a_row_end_the_training():
    policy = small_policy()
    ppo = PPO(policy, PPOConfig(minibatches=2, epochs=1, normalize_rewards=False), num_envs=8, seed=0)
    bad = one_rollout(policy)
    bad["next", "reward"][0, 0] = torch.inf
    before = weights(policy)
    metrics = ppo.update(bad)
    assert metrics["update/skipped"] == 1
    assert same(before, weights(policy))
    with pytest.raises(TrainingDivergedError, match="3 steps in a row"):
        ppo.update(bad)
    assert same(before, weights(policy))


def test_a_good_step_forgives_the_bad_ones_before_it():
    policy = small_policy()
    ppo = PPO(policy, PPOConfig(minibatches=1, epochs=2, normalize_rewards=False), num_envs=8, seed=0)
    good, bad = one_rollout(policy), one_rollout(policy)
    bad["next", "reward"][0, 0] = torch.nan
    ppo.update(bad)
    ppo.update(good)
    assert ppo.update(bad)["update/skipped"] == 1


def test_a_reward_that_is_not_finite_spoils_no_later_one_and_is_named():
    policy = small_policy()
    ppo = PPO(policy, PPOConfig(minibatches=1, epochs=1), num_envs=8, seed=0)
    good, bad = one_rollout(policy), one_rollout(policy)
    bad["next", "reward"][0, 0] = torch.nan
    assert ppo.update(bad)["update/skipped"] == 1
    assert ppo.update(good)["update/skipped"] == 0
    for _ in range(2):
        ppo.update(bad)
    with pytest.raises(TrainingDivergedError, match="Rewards in this rollout are not finite"):
        ppo.update(bad)


def test_an_extreme_of_one_minibatch_does_not_drown_in_the_others():
    calm = {"ratio/min": torch.tensor(0.9), "ratio/max": torch.tensor(1.1)}
    wild = {"ratio/min": torch.tensor(1e-6), "ratio/max": torch.tensor(60.0)}
    assert _averages([calm, wild, calm]) == pytest.approx({"ratio/min": 1e-6, "ratio/max": 60.0})


def test_a_baseline_that_is_not_chosen_follows_the_critic():
    assert PPO(small_policy(), FAST, num_envs=8).baseline == "factored"
    assert PPO(small_policy(critic="state"), FAST, num_envs=8).baseline == "state"


def test_observation_statistics_stand_still_until_the_update_is_over():
    policy = small_policy(normalize_observations=True)
    rollout = one_rollout(policy)
    metrics = PPO(policy, PPOConfig(minibatches=1, epochs=1), num_envs=8, seed=0).update(rollout)
    assert metrics["kl/total"] == pytest.approx(0, abs=1e-8)
    moments = policy.network.normalizer.moments
    torch.testing.assert_close(moments.mean.float(), rollout["features"].flatten(0, 1).mean(0))


def test_the_scale_of_rewards_makes_no_difference():
    ends = []
    for scale in (1.0, 1000.0):
        policy = small_policy()
        rollout = one_rollout(policy)
        rollout["next", "reward"] *= scale
        PPO(policy, FAST, num_envs=8, seed=0).update(rollout)
        ends.append(weights(policy))
    for key in ends[0]:
        torch.testing.assert_close(ends[0][key], ends[1][key], atol=1e-3, rtol=0)


def test_a_critic_that_does_not_suit_the_baseline_is_refused():
    with pytest.raises(ConfigError, match="critic='op'"):
        PPO(small_policy(critic="state"), replace(FAST, baseline="factored"), num_envs=8)
    with pytest.raises(ConfigError, match="critic='state'"):
        PPO(small_policy(), PPOConfig(baseline="state"), num_envs=8)
    PPO(small_policy("lstm-v1"), PPOConfig(baseline="state"), num_envs=8)


def test_more_minibatches_than_environments_are_refused():
    with pytest.raises(ConfigError, match="8 minibatches of whole environments"):
        PPO(small_policy(), PPOConfig(), num_envs=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "q-op"}, "Did you mean 'q_op'"),
        ({"entropy_weights": {"blueprnt": 1.0}}, "Did you mean 'blueprint'"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_a_configuration_that_cannot_work_says_what_to_change(options, message):
    with pytest.raises(ConfigError, match=message):
        PPOConfig(**options)


def learn(name, updates, steps, config=FAST, *, seed=0, **options):
    """Mean reward (of the last step, where only that pays) in the last few of `updates` rollouts."""
    policy = create_policy(name, SPEC, seed=seed, width=64, head_width=32, first_bias={})  # no op is better
    ppo = PPO(policy, config, num_envs=options["num_envs"], seed=0)
    earned = []
    for _, rollout in zip(range(updates), rollouts(policy, steps, **options), strict=False):
        reward, done = rollout["next", "reward"], rollout["next", "done"]
        earned.append((reward[done] if options.get("memory") else reward).mean().item())
        ppo.update(rollout)
    return sum(earned[-5:]) / 5


STEADY = replace(FAST, learning_rate=1e-3)
MEMORY = {"num_envs": 64, "memory": True, "horizons": (3,)}
"""Ninety updates; who cannot remember the first step earns 1/6 at the third."""


@pytest.mark.slow
def test_lstm_learns_to_take_the_action_that_an_observation_names():
    assert learn("lstm", 55, 8, num_envs=16) > 0.85


@pytest.mark.slow
def test_without_masks_learning_is_slower():
    ahead = [
        learn("lstm", 22, 8, num_envs=16, seed=s) - learn("lstm", 22, 8, num_envs=16, seed=s, masked=False)
        for s in (0, 1, 2)
    ]
    assert sum(ahead) / 3 > 0.1


@pytest.mark.slow
def test_lstm_learns_what_needs_memory():
    assert learn("lstm", 90, 3, STEADY, **MEMORY) > 0.9


@pytest.mark.slow
def test_mlp_cannot_learn_what_needs_memory():
    assert learn("mlp", 90, 3, STEADY, **MEMORY) < 0.35
