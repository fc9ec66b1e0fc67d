import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from esper_agent import EnvSpec, PPOConfig, create_policy
from esper_agent.learning.loss import explained_variance, normalised_error, ppo_loss
from esper_agent.learning.ppo import gradient_norms
from esper_agent.policies.actor_critic import Judgement
from esper_agent.policies.distribution import OP, ActionLayout
from esper_env.actions import CAUSAL_HEADS, CAUSAL_MASK, HEAD_INDEX, HEAD_NAMES, Op
from tests.agent.observations import observations

ONLY_POLICY = PPOConfig(entropy_coefficient=0.0, value_coefficient=0.0)
EVERYTHING_LEGAL = np.ones((len(Op), 3), bool)


def stored_batch(envs=4, steps=6, seed=0, op=None, legal=None):
    """Steps taken by a random policy, and a random new policy to judge them."""
    generator = torch.Generator().manual_seed(seed)
    obs = observations(envs, steps, seed=seed, legal=legal)
    layout = ActionLayout(3, 13)

    def distribution(logits):
        return layout(logits, obs["action_mask"], obs["slot_by_op"])

    old_logits = torch.randn(envs, steps, layout.num_choices, generator=generator)
    old = distribution(old_logits)
    chooser = old_logits.clone()
    if op is not None:
        chooser[..., -len(Op) + op] += 100
    action = distribution(chooser).sample(generator)
    normal = lambda *shape: torch.randn(envs, steps, *shape, generator=generator)  # noqa: E731
    batch = TensorDict(
        {
            "action": action,
            "action_log_prob": old.log_prob(action),
            "probabilities": old.choices(action)[0],
            "advantage": normal(8),
            "value_target": normal(1),
            "state_action_value": normal(1),
        },
        (envs, steps),
    )
    new_logits = old_logits + 0.3 * normal(layout.num_choices)
    return batch, distribution, new_logits, normal(len(Op))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), average=st.sampled_from(["relevant", "steps"]))
def test_loss_equals_one_written_out_step_by_step(seed, average):
    batch, distribution, logits, values = stored_batch(seed=seed)
    config = PPOConfig(head_average=average, clip=0.1, value_clip=0.2, entropy_coefficient=0.05)
    judgement = Judgement(distribution(logits), values)
    loss = ppo_loss(judgement, batch, config)

    flat, steps = batch.reshape(-1), batch.numel()
    new = judgement.distribution.log_prob(batch["action"]).reshape(-1, 8)
    entropy = judgement.distribution.head_entropy(batch["action"]).reshape(-1, 8)
    policy_loss = bonus = 0.0
    for h, head in enumerate(HEAD_NAMES):
        gains, entropies = [], []
        for i in range(steps):
            if not CAUSAL_MASK[flat["action"][i, OP], h]:
                continue
            ratio = math.exp(new[i, h] - flat["action_log_prob"][i, h])
            a = flat["advantage"][i, h].item()
            gains.append(min(ratio * a, min(max(ratio, 0.9), 1.1) * a))
            entropies.append(entropy[i, h].item())
        count = steps if average == "steps" else max(len(gains), 1)
        policy_loss -= sum(gains) / count
        bonus += config.entropy_weights[head] * sum(entropies) / count
    errors = []
    for i in range(steps):
        value = values.reshape(-1, len(Op))[i, flat["action"][i, OP]].item()
        seen, target = flat["state_action_value"][i].item(), flat["value_target"][i].item()
        near = seen + min(max(value - seen, -0.2), 0.2)
        errors.append(max((value - target) ** 2, (near - target) ** 2))
    expected = policy_loss - 0.05 * bonus + 0.5 * sum(errors) / steps
    assert loss.total.item() == pytest.approx(expected, abs=1e-4)
    probabilities, legal = judgement.distribution.choices(batch["action"])
    kl = 0.0
    for h in range(8):
        for i in range(steps):
            if CAUSAL_MASK[flat["action"][i, OP], h]:
                for p, q, ok in zip(
                    flat["probabilities"][i, h].tolist(),
                    probabilities.reshape(steps, 8, -1)[i, h].tolist(),
                    legal.reshape(steps, 8, -1)[i, h].tolist(),
                    strict=True,
                ):
                    kl += p * math.log(p / q) / steps if ok else 0.0
    assert loss.kl.item() == pytest.approx(kl, abs=1e-5)


@pytest.mark.parametrize("op", list(Op))
@pytest.mark.parametrize("name", ["lstm", "mlp"])
def test_an_op_gives_gradient_to_the_heads_that_matter_for_it_and_to_no_other(name, op):
    policy = create_policy(name, EnvSpec(), seed=0, width=32, head_width=16)
    batch, *_ = stored_batch(op=op, legal=EVERYTHING_LEGAL)
    data = observations(4, 6, legal=EVERYTHING_LEGAL).update(batch)
    data.update(policy.initial_state(4, 6))
    data["is_init"][:, 1:] = False
    ppo_loss(policy.unroll(data), data, ONLY_POLICY).total.backward()
    moved = {key.split("/")[1] for key, norm in gradient_norms(policy).items() if norm > 0}
    assert moved == {"op", *CAUSAL_HEADS[op]}


def test_a_head_that_did_not_matter_changes_no_other_heads_clipping():
    batch, distribution, logits, values = stored_batch(op=Op.ADVANCE, legal=EVERYTHING_LEGAL)
    config = PPOConfig(clip=0.05)
    before = ppo_loss(Judgement(distribution(logits), values), batch, config)
    perturbed = logits.clone()
    for head, (start, stop) in _spans().items():
        if head not in ("op", "slot"):
            perturbed[..., start:stop] += 5 * torch.randn(stop - start)
    after = ppo_loss(Judgement(distribution(perturbed), values), batch, config)
    assert torch.equal(before.total, after.total)
    for key in ("kl/total", "kl/op", "clip_fraction/slot", "clip_fraction/op"):
        assert torch.equal(before.metrics[key], after.metrics[key])
    assert before.metrics["clip_fraction/op"] > 0
    assert torch.isnan(after.metrics["clip_fraction/tempo"])


def _spans():
    sizes = EnvSpec().head_sizes
    starts = np.cumsum((0, *sizes))
    return {name: (int(starts[i]), int(starts[i + 1])) for name, i in HEAD_INDEX.items()}


def test_an_unchanged_policy_has_ratio_one_and_no_kl():
    batch, distribution, logits, values = stored_batch()
    same = distribution(logits)
    batch["action_log_prob"] = same.log_prob(batch["action"])
    batch["probabilities"], _ = same.choices(batch["action"])
    metrics = ppo_loss(Judgement(same, values), batch, PPOConfig()).metrics
    assert metrics["ratio/min"] == metrics["ratio/max"] == 1
    assert metrics["kl/total"].item() == pytest.approx(0, abs=1e-7)


def test_a_rare_head_is_not_starved_by_the_steps_where_it_did_not_matter():
    """With the same advantage everywhere, one GERMINATE among many WAITs moves the tempo head as much as many would."""

    def tempo_gradient(ops, average):
        batch, distribution, logits, values = stored_batch(envs=1, steps=len(ops), legal=EVERYTHING_LEGAL)
        logits = logits[:, :1].expand(-1, len(ops), -1).clone().requires_grad_()
        dist = distribution(logits)
        batch["action"][..., OP] = torch.tensor(ops)
        batch["action"][..., HEAD_INDEX["blueprint"]] = 1
        batch["action"][..., HEAD_INDEX["tempo"]] = 0
        batch["action_log_prob"] = dist.log_prob(batch["action"]).detach()
        batch["advantage"] = torch.ones(1, len(ops), 8)
        config = PPOConfig(entropy_coefficient=0, value_coefficient=0, head_average=average)
        ppo_loss(Judgement(dist, values), batch, config).total.backward()
        start, stop = _spans()["tempo"]
        return logits.grad[..., start:stop].sum((0, 1)).norm().item()

    rare, always = [Op.GERMINATE] + [Op.WAIT] * 9, [Op.GERMINATE] * 10
    assert tempo_gradient(rare, "relevant") == pytest.approx(tempo_gradient(always, "relevant"), rel=1e-4)
    assert tempo_gradient(rare, "steps") == pytest.approx(tempo_gradient(always, "steps") / 10, rel=1e-4)


def test_ratios_that_overflow_still_give_finite_gradients():
    batch, distribution, logits, values = stored_batch()
    batch["action_log_prob"] = torch.where(batch["action_log_prob"] < 0, -200.0, 0.0)
    logits.requires_grad_()
    ppo_loss(Judgement(distribution(logits), values), batch, PPOConfig()).total.backward()
    assert torch.isfinite(logits.grad).all()


def test_possible_entropy_counts_the_steps_where_a_head_could_have_mattered():
    batch, distribution, logits, values = stored_batch(op=Op.WAIT, legal=EVERYTHING_LEGAL)
    metrics = ppo_loss(Judgement(distribution(logits), values), batch, PPOConfig()).metrics
    assert torch.isnan(metrics["entropy/tempo"])
    assert 0 < metrics["entropy_possible/tempo"] < 1


@pytest.mark.parametrize("entropy_from", ["even", "beginner"])
def test_what_makes_no_difference_is_decided_as_the_bonus_says(entropy_from):
    bias = {"op": {"WAIT": -1.0, "PRUNE": -3.0}, "tempo": {"FAST": 1.0}}
    obs = observations(4, 6, legal=EVERYTHING_LEGAL)
    layout = ActionLayout(3, 13, None, bias)
    logits = torch.randn(layout.num_choices, generator=torch.Generator().manual_seed(0)).requires_grad_()
    adam = torch.optim.Adam([logits], lr=0.05)
    config = PPOConfig(entropy_coefficient=1.0, value_coefficient=0.0, entropy_from=entropy_from, clip=100)
    for step in range(400):
        distribution = layout(logits.expand(4, 6, -1), obs["action_mask"], obs["slot_by_op"])
        with torch.no_grad():
            action = distribution.sample(torch.Generator().manual_seed(step))
            nothing = {"advantage": torch.zeros(4, 6, 8), "value_target": torch.zeros(4, 6, 1)}
            taken = {"action_log_prob": distribution.log_prob(action), "probabilities": distribution.choices(action)[0]}
        batch = TensorDict({"action": action, **taken, **nothing}, (4, 6))
        adam.zero_grad()
        ppo_loss(Judgement(distribution, torch.zeros(4, 6, len(Op))), batch, config).total.backward()
        adam.step()
    for head, choices in (("op", Op.__members__), ("tempo", ("FAST", "STANDARD", "SLOW"))):
        drawn = layout(logits[None], obs["action_mask"][0, :1], obs["slot_by_op"][0, :1]).choices(action[:1, 0])[0]
        wanted = torch.tensor([bias[head].get(name, 0.0) if entropy_from == "beginner" else 0.0 for name in choices])
        torch.testing.assert_close(drawn[0, HEAD_INDEX[head], : len(choices)], wanted.softmax(0), atol=0.03, rtol=0)


def test_a_head_with_a_single_choice_has_no_entropy_to_lose():
    one_slot = EVERYTHING_LEGAL & (np.arange(3) == 1)
    batch, distribution, logits, values = stored_batch(op=Op.SET_ALPHA_TARGET, legal=one_slot)
    metrics = ppo_loss(Judgement(distribution(logits), values), batch, PPOConfig()).metrics
    assert torch.isnan(metrics["entropy/slot"])
    assert 0 < metrics["entropy/alpha_speed"] < 1

    sometimes = np.stack([one_slot, EVERYTHING_LEGAL] * 12)
    batch, distribution, logits, values = stored_batch(op=Op.PRUNE, legal=sometimes)
    entropy = distribution(logits).head_entropy(batch["action"])[..., HEAD_INDEX["slot"]].flatten()
    metrics = ppo_loss(Judgement(distribution(logits), values), batch, PPOConfig()).metrics
    assert metrics["entropy/slot"].item() == pytest.approx(entropy[1::2].mean().item())


def test_value_loss_is_told_apart_by_op():
    batch, distribution, logits, values = stored_batch(op=Op.PRUNE, legal=EVERYTHING_LEGAL)
    metrics = ppo_loss(Judgement(distribution(logits), values), batch, PPOConfig()).metrics
    assert metrics["value_loss/PRUNE"].item() == pytest.approx(metrics["loss/value"].item())
    assert torch.isnan(metrics["value_loss/WAIT"])


def test_the_kl_sees_a_choice_that_was_never_taken():
    """A ratio does not: of what was taken each is only a little less likely than before."""
    batch, distribution, logits, values = stored_batch(op=Op.WAIT, legal=EVERYTHING_LEGAL)
    calm = torch.zeros_like(logits)
    calm[..., -len(Op) + Op.PRUNE] = -8.0
    batch["action_log_prob"] = distribution(calm).log_prob(batch["action"])
    batch["probabilities"], _ = distribution(calm).choices(batch["action"])
    wild = calm.clone()
    wild[..., -len(Op) + Op.PRUNE] = 0.0
    metrics = ppo_loss(Judgement(distribution(wild), values), batch, PPOConfig(clip=0.2)).metrics
    assert metrics["clip_fraction/op"] == 0
    assert metrics["kl/op"].item() == pytest.approx(math.log(6 / 5), abs=1e-3)


def test_explained_variance_stays_sane_where_returns_hardly_vary():
    target = torch.full((100, 1), 3.0) + 1e-6 * torch.randn(100, 1)
    value = target + 0.05 * torch.randn(100, 1)
    assert explained_variance(value, target) > 0
    assert normalised_error(value, target) < 1
    varied = torch.randn(100, 1)
    assert explained_variance(varied, varied) == 1
    assert explained_variance(torch.zeros(100, 1), varied).abs() < 1e-6
