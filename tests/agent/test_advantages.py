import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from esper_agent import create_policy
from esper_agent.learning.advantages import estimate_advantages, next_values, normalise_advantages
from esper_agent.policies.distribution import OP, SLOT
from esper_env.actions import HEAD_NAMES, Op
from tests.agent.named_op_env import SPEC, rollouts

BASELINES = ("factored", "q_op", "state")
GAMMA, LAMBDA = 0.9, 0.8


def random_rollout(seed, envs=3, steps=15):
    rng = np.random.default_rng(seed)
    ends = rng.choice(3, p=[0.7, 0.15, 0.15], size=(envs, steps, 1))
    tensor = lambda: torch.from_numpy(rng.normal(size=(envs, steps, 1)))  # noqa: E731
    after = {
        "reward": tensor(),
        "terminated": torch.from_numpy(ends == 1),
        "truncated": torch.from_numpy(ends == 2),
        "done": torch.from_numpy(ends > 0),
    }
    op = torch.from_numpy(rng.integers(len(Op), size=(envs, steps)))
    action = torch.zeros(envs, steps, 8, dtype=torch.int64)
    action[..., OP] = op
    return TensorDict(
        {"state_value": tensor(), "state_action_value": tensor(), "action": action, "next": after}, (envs, steps)
    )


def trajectories(rollout):
    """(row, first step, last step) of each unbroken piece."""
    done = rollout["next", "done"].squeeze(-1)
    for row in range(len(done)):
        start = 0
        for t in range(done.shape[1]):
            if done[row, t] or t == done.shape[1] - 1:
                yield row, start, t
                start = t + 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), baseline=st.sampled_from(BASELINES))
def test_advantages_equal_a_loop_over_trajectories_with_every_kind_of_end(seed, baseline):
    rollout = random_rollout(seed)
    v, q = rollout["state_value"].squeeze(-1), rollout["state_action_value"].squeeze(-1)
    ahead = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=v.shape))
    value = q if baseline == "q_op" else v
    for row, start, stop in trajectories(rollout):
        ahead[row, start:stop] = value[row, start + 1 : stop + 1]
    estimate_advantages(rollout, ahead.unsqueeze(-1), baseline=baseline, gamma=GAMMA, gae_lambda=LAMBDA)
    reward, terminated = (rollout["next", key].squeeze(-1) for key in ("reward", "terminated"))
    for row, start, stop in trajectories(rollout):
        gae = 0.0
        for t in reversed(range(start, stop + 1)):
            future = 0.0 if terminated[row, t] else ahead[row, t]
            gae = reward[row, t] + GAMMA * future - value[row, t] + GAMMA * LAMBDA * gae
            target = gae + value[row, t]
            op_baseline = q if baseline == "q_op" else v
            rest_baseline = v if baseline == "state" else q
            assert rollout["value_target"][row, t].item() == pytest.approx(target.item())
            assert rollout["advantage"][row, t, OP].item() == pytest.approx((target - op_baseline[row, t]).item())
            assert rollout["advantage"][row, t, SLOT].item() == pytest.approx((target - rest_baseline[row, t]).item())


@pytest.mark.parametrize("truncated", [True, False])
@pytest.mark.parametrize("baseline", BASELINES)
def test_values_ahead_come_from_the_final_observation_and_the_memory_of_the_trajectory(baseline, truncated):
    critic = "state" if baseline == "state" else "op"
    policy = create_policy("lstm", SPEC, seed=0, width=32, head_width=16, critic=critic)
    rollout = next(rollouts(policy, 12, num_envs=3, horizons=(5, 7), truncated=truncated))
    ahead = next_values(policy, rollout, baseline).squeeze(-1)
    stored = rollout["state_action_value" if baseline == "q_op" else "state_value"].squeeze(-1)
    checked = 0
    for row, start, stop in trajectories(rollout):
        torch.testing.assert_close(ahead[row, start:stop], stored[row, start + 1 : stop + 1])
        if rollout["next", "terminated"][row, stop]:
            continue
        # An independent way there: the whole trajectory as one sequence, with its final observation appended.
        keys = ("features", "blueprint_index", "action_mask", "slot_by_op", "is_init", *policy.state_keys)
        sequence = torch.cat([rollout[row, start : stop + 1].select(*keys), rollout["next"][row, [stop]].select(*keys)])
        sequence["is_init"][-1] = False
        judgement = policy.unroll(sequence)
        if baseline == "q_op":
            expected = judgement.action_value(judgement.distribution.mode())
        else:
            expected = judgement.state_value
        torch.testing.assert_close(ahead[row, stop], expected[-1, 0], atol=1e-5, rtol=0)
        checked += 1
    assert checked == (8 if truncated else 3)


def bandit(baseline):
    """Two steps: an op is chosen, WAIT follows, and only then comes the op's reward. One row per op; exact critic."""
    payoff = torch.tensor([0.0, 1.0, -2.0, 3.0, 0.5, 0.25])
    policy = torch.tensor([0.1, 0.3, 0.05, 0.15, 0.2, 0.2])
    ops = len(Op)
    reward = torch.stack([torch.zeros(ops), payoff], 1).unsqueeze(-1)
    q = torch.stack([GAMMA * payoff, payoff], 1).unsqueeze(-1)
    v = torch.stack([(policy * GAMMA * payoff).sum().expand(ops), payoff], 1).unsqueeze(-1)
    end = torch.tensor([False, True]).expand(ops, 2).unsqueeze(-1)
    action = torch.zeros(ops, 2, 8, dtype=torch.int64)
    action[:, 0, OP] = torch.arange(ops)
    after = {"reward": reward, "done": end, "terminated": end, "truncated": torch.zeros_like(end)}
    rollout = TensorDict({"state_value": v, "state_action_value": q, "action": action, "next": after}, (ops, 2))
    value = q if baseline == "q_op" else v
    ahead = torch.cat([value[:, 1:], torch.zeros(ops, 1, 1)], 1)
    estimate_advantages(rollout, ahead, baseline=baseline, gamma=GAMMA, gae_lambda=LAMBDA)
    return policy, payoff, rollout["advantage"][:, 0, OP]


def test_factored_judges_the_op_without_bias_and_tells_ops_apart():
    policy, payoff, advantage = bandit("factored")
    assert (policy * advantage).sum().item() == pytest.approx(0, abs=1e-6)
    assert advantage.argsort().tolist() == payoff.argsort().tolist()
    assert advantage.std() > 1


def test_q_op_leaves_the_op_head_nothing_to_learn_from_an_exact_critic():
    _, _, advantage = bandit("q_op")
    assert advantage.abs().max().item() == pytest.approx(0, abs=1e-6)


def test_advantages_are_standardised_over_the_steps_where_they_count():
    rollout = random_rollout(0, envs=8, steps=20)
    estimate_advantages(
        rollout, torch.zeros_like(rollout["state_value"]), baseline="factored", gamma=GAMMA, gae_lambda=LAMBDA
    )
    raw = rollout["advantage"].clone()
    normalise_advantages(rollout)
    advantage, acting = rollout["advantage"], rollout["action"][..., OP] != Op.WAIT
    for sample in (advantage[..., OP], advantage[..., SLOT][acting]):
        assert sample.mean().item() == pytest.approx(0, abs=1e-6)
        assert sample.std().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(advantage[..., SLOT], advantage[..., HEAD_NAMES.index("tempo")])
    assert torch.equal(raw[..., OP].argsort(-1), advantage[..., OP].argsort(-1))


def test_too_few_steps_to_standardise_leave_advantages_as_they_are():
    rollout = random_rollout(0)
    rollout["action"][..., OP] = Op.WAIT
    rollout["advantage"] = torch.randn(3, 15, 8)
    before = rollout["advantage"].clone()
    normalise_advantages(rollout)
    assert torch.equal(rollout["advantage"][..., SLOT], before[..., 0])
