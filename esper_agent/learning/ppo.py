"""Proximal policy optimisation over whole-environment minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from esper_agent.config import PPOConfig
from esper_agent.learning.advantages import estimate_advantages, next_values, normalise_advantages
from esper_agent.learning.loss import Loss, explained_variance, normalised_error, ppo_loss
from esper_agent.learning.normalizers import ObservationNormalizer, RewardNormalizer
from esper_agent.policies.actor_critic import ActorCritic
from esper_env.config import ConfigError

KL_TOLERANCE = 1.5
"""The update stops when the KL exceeds its target by this factor."""


class TrainingDivergedError(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient."""


class PPO:
    """Improves a policy from rollouts.

    Args:
        policy: an `ActorCritic` whose critic suits the baseline.
        config: how to learn.
        num_envs: environments per rollout, always the same ones in the same order.
        seed: of the order of minibatches; fresh entropy when None.
    """

    def __init__(
        self, policy: ActorCritic, config: PPOConfig | None = None, *, num_envs: int, seed: int | None = None
    ) -> None:
        self.policy = policy
        config = config or PPOConfig()
        self.config = config
        self.baseline = config.baseline or ("factored" if policy.network.judges_ops else "state")
        if num_envs < config.minibatches:
            raise ConfigError(
                f"{config.minibatches} minibatches of whole environments need at least as many environments, "
                f"got {num_envs}: lower minibatches or run more environments."
            )
        if config.critic is not None and policy.network.judges_ops != (config.critic == "op"):
            raise ConfigError(
                f"baseline {config.baseline!r} needs a policy created with critic={config.critic!r}: "
                "Q(s, op) for factored and q_op, V(s) for state."
            )
        self.device = next(policy.parameters()).device
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, eps=config.adam_epsilon)
        self.reward_normalizer = RewardNormalizer(num_envs, config.gamma, config.reward_clip).to(self.device)
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)
        self.bad_steps, self.bad_rewards = 0, False
        self.seen = 0
        """Environment steps learned from so far."""

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return self._faded(self.config.learning_rate, self.config.learning_rate_decay)

    @property
    def entropy_coefficient(self) -> float:
        """The weight of the entropy bonus in the next update."""
        return self._faded(self.config.entropy_coefficient, self.config.entropy_decay)

    def _faded(self, initial: float, decay: float | None) -> float:
        return initial if decay is None else initial / (1 + self.seen / decay)

    def update(self, rollout: TensorDictBase) -> dict[str, float]:
        """Learn from one rollout `[envs, time]` or `[workers, envs, time]`; returns metrics, means over minibatches."""
        config = replace(self.config, entropy_coefficient=self.entropy_coefficient)
        batch = self._prepare(rollout)
        learning_rate = self.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        history: list[dict[str, Tensor]] = []
        stopped, kl = False, 0.0
        for envs in self._minibatches(len(batch)):
            minibatch = batch[envs]
            loss = ppo_loss(self.policy.unroll(minibatch), minibatch, config)
            kl = loss.kl.item()
            stopped = config.target_kl is not None and kl > KL_TOLERANCE * config.target_kl
            if stopped:
                break
            history.append(loss.metrics | self._step(loss))
        self._observe(rollout)
        self.seen += batch.numel()
        return {
            **_averages(history),
            "update/learning_rate": learning_rate,
            "update/entropy_coefficient": config.entropy_coefficient,
            "update/steps": float(len(history)),
            "update/stopped": float(stopped),
            "update/last_kl": kl,
            "value/explained_variance": explained_variance(batch["state_action_value"], batch["value_target"]).item(),
            "value/nrmse": normalised_error(batch["state_action_value"], batch["value_target"]).item(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning carries from update to update, besides the policy itself."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "reward_normalizer": self.reward_normalizer.state_dict(),
            "generator": self.generator.get_state(),
            "bad_steps": self.bad_steps,
            "seen": self.seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.reward_normalizer.load_state_dict(state["reward_normalizer"])
        self.generator.set_state(state["generator"])
        self.bad_steps, self.seen = state["bad_steps"], state["seen"]

    def _prepare(self, rollout: TensorDictBase) -> TensorDictBase:
        """A copy of the rollout with normalised rewards, advantages, value targets and the policy's probabilities now.

        The rollout stays as it is.
        """
        config = self.config
        batch = rollout.reshape(-1, rollout.shape[-1]).to(self.device).copy()
        self.bad_rewards = not bool(batch["next", "reward"].isfinite().all())
        if config.normalize_rewards:
            reward, done = batch["next", "reward"], batch["next", "done"]
            self.reward_normalizer.update(reward.squeeze(-1), done.squeeze(-1))
            batch["next", "reward"] = self.reward_normalizer(reward)
        ahead = next_values(self.policy, batch, self.baseline)
        estimate_advantages(batch, ahead, baseline=self.baseline, gamma=config.gamma, gae_lambda=config.gae_lambda)
        if config.normalize_advantages:
            normalise_advantages(batch)
        with torch.no_grad():
            batch["probabilities"], _ = self.policy.unroll(batch).distribution.choices(batch["action"])
        return batch.exclude("next")

    def _minibatches(self, num_envs: int) -> Iterator[Tensor]:
        """Whole environments, each once per epoch: a sequence is never cut for the sake of a batch."""
        for _ in range(self.config.epochs):
            order = torch.randperm(num_envs, generator=self.generator)
            yield from order.tensor_split(self.config.minibatches)

    def _step(self, loss: Loss) -> dict[str, Tensor]:
        """One optimizer step, skipped if anything in it is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        norms = gradient_norms(self.policy)
        total = nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_gradient_norm)
        good = bool(torch.isfinite(loss.total) & torch.isfinite(total))
        if good:
            self.optimizer.step()
            self.bad_steps = 0
        else:
            self.bad_steps += 1
            if self.bad_steps >= self.config.max_bad_steps:
                advice = (
                    "Rewards in this rollout are not finite: look at the reward function."
                    if self.bad_rewards
                    else "A lower learning rate may help."
                )
                raise TrainingDivergedError(
                    f"{self.bad_steps} steps in a row had a non-finite loss or gradient (loss {loss.total.item()}, "
                    f"gradient norm {total.item()}). The weights are still finite. {advice}"
                )
        return {"gradient_norm/total": total, **norms, "update/skipped": total.new_tensor(float(not good))}

    def _observe(self, rollout: TensorDictBase) -> None:
        """Update the observation statistics last: during an update they must be those of the rollout."""
        for module in self.policy.modules():
            if isinstance(module, ObservationNormalizer):
                module.update(rollout["features"])


def gradient_norms(policy: ActorCritic) -> dict[str, Tensor]:
    """Gradient norm of each action head's own layers; nothing for a network that has no `heads`."""
    heads = getattr(policy.network, "heads", {})
    return {
        f"gradient_norm/{name}": nn.utils.get_total_norm([p.grad for p in head.parameters() if p.grad is not None])
        for name, head in heads.items()
    }


def _averages(history: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of each metric over the minibatches where it was defined, with one transfer from the device.

    Of extremes, whose names end in /min and /max, the extreme: one collapsed minibatch must not drown in the others.
    """
    if not history:
        return {}
    table = torch.stack([torch.stack(list(metrics.values())) for metrics in history])
    rows = zip(history[0], table.nanmean(0).tolist(), table.amin(0).tolist(), table.amax(0).tolist(), strict=True)
    return {
        name: low if name.endswith("/min") else high if name.endswith("/max") else mean
        for name, mean, low, high in rows
    }
