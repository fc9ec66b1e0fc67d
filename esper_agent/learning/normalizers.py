"""Running statistics that keep rewards and observations on a steady scale; buffers, hence in every checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """Mean and variance of everything seen, merged batch by batch (Chan et al. 1979) in float64."""

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, samples: Tensor) -> None:
        """Take in samples `[n, *shape]`."""
        samples = samples.to(self.mean)
        count = len(samples)
        if count == 0:
            return
        total = self.count + count
        offset = samples.mean(0) - self.mean
        spread = self.variance * self.count + samples.var(0, correction=0) * count
        self.variance.copy_((spread + offset**2 * self.count * count / total) / total)
        self.mean.add_(offset * count / total)
        self.count.copy_(total)


class RewardNormalizer(nn.Module):
    """Divides rewards by the standard deviation of the discounted return, never centring them.

    Centring would pay or charge for the length of an episode. The return of each environment runs on from rollout
    to rollout, so rollouts must come from the same environments in the same order.
    """

    running_return: Tensor

    def __init__(self, num_envs: int, gamma: float, clip: float = 10.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.clip = clip
        self.moments = RunningMoments()
        self.register_buffer("running_return", torch.zeros(num_envs, dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Tensor, done: Tensor) -> None:
        """Take in a rollout's rewards and ends, `[envs, time]`; rewards that are not finite count as 0.

        One of them would make every later reward NaN.
        """
        reward, returns = torch.where(reward.isfinite(), reward, 0.0), []
        for reward_now, done_now in zip(reward.unbind(1), done.unbind(1), strict=True):
            self.running_return.mul_(self.gamma).add_(reward_now)
            returns.append(self.running_return.clone())
            self.running_return.masked_fill_(done_now, 0.0)
        self.moments.update(torch.cat(returns))

    def forward(self, reward: Tensor) -> Tensor:
        """Rewards on the scale learned so far."""
        scale = (self.moments.variance + 1e-8).rsqrt().to(reward.dtype)
        return (reward * scale).clamp(-self.clip, self.clip)


class ObservationNormalizer(nn.Module):
    """Standardises features with statistics that stand still during a rollout and its update."""

    def __init__(self, num_features: int, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.moments = RunningMoments(num_features)

    def update(self, features: Tensor) -> None:
        """Take in a rollout's features, `[..., features]`; call it when the update is over."""
        self.moments.update(features.flatten(0, -2))

    def forward(self, features: Tensor) -> Tensor:
        """Features with mean 0 and variance 1 under the statistics so far."""
        mean, variance = self.moments.mean, self.moments.variance
        scaled = (features - mean.to(features)) * (variance + 1e-8).rsqrt().to(features)
        return scaled.clamp(-self.clip, self.clip)
