"""PPO in one file, with factored heads: op first, then the slot among those on which the op is legal.

    OMP_NUM_THREADS=1 python examples/ppo_single_file.py

Needs nothing but torch and Esper. A head that does not matter for the op drawn has no part in the loss, so that no
action runs as WAIT unasked and no head is trained on noise. `esper train` adds a memory and a critic of ops.
"""

import argparse

import numpy as np
import torch
from torch import nn

from esper_env import SeedVectorEnv
from esper_env.actions import CAUSAL_MASK, HEAD_INDEX, Op

GAMMA, LAMBDA, SCALE = 0.995, 0.95, 2.0  # gamma is the environment's; rewards are divided by the scale
CLIP, ENTROPY, EPOCHS, MINIBATCHES, RATE = 0.2, 0.02, 4, 8, 5e-4
MATTERS = torch.from_numpy(CAUSAL_MASK).float()  # [op, head]
SLOT, OP = HEAD_INDEX["slot"], HEAD_INDEX["op"]


def perceptron(inputs, outputs):
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(inputs, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, outputs))


class Agent(nn.Module):
    """Actor and critic of the present observation."""

    def __init__(self, space, nvec):
        super().__init__()
        self.sizes = nvec.tolist()
        inputs = space["features"].shape[0] + space["blueprint_index"].shape[0]
        self.actor, self.critic = perceptron(inputs, sum(self.sizes)), perceptron(inputs, 1)

    def forward(self, seen, action=None):
        """Action, log-probability and entropy per head `[n, 8]` (0 where it does not matter), and value `[n]`."""
        x = torch.cat([seen["features"], seen["blueprint_index"] / 13], -1)
        logits = self.actor(x).split(self.sizes, -1)
        masks = list(seen["action_mask"].bool().split(self.sizes, -1))

        def head(i):
            return torch.distributions.Categorical(logits=logits[i].masked_fill(~masks[i], -1e9))

        op = head(OP).sample() if action is None else action[:, OP]
        by_op = seen["slot_by_op"].bool().unflatten(-1, (len(Op), self.sizes[SLOT]))
        masks[SLOT] = by_op[torch.arange(len(op)), op]
        heads = [head(i) for i in range(len(self.sizes))]
        if action is None:
            action = torch.stack([op if i == OP else each.sample() for i, each in enumerate(heads)], -1)
        log_prob = torch.stack([each.log_prob(choice) for each, choice in zip(heads, action.T, strict=True)], -1)
        entropy = torch.stack([each.entropy() for each in heads], -1)
        return action, log_prob * MATTERS[op], entropy * MATTERS[op], self.critic(x).squeeze(-1)


def collect(envs, agent, observation):
    """A whole episode of every host `[time, hosts]`, and what each has earned by the objective."""
    steps, earned = [], np.zeros(envs.num_envs)
    for _ in range(envs.config.max_epochs):
        seen = {name: torch.from_numpy(array) for name, array in observation.items()}
        with torch.no_grad():
            action, log_prob, _, value = agent(seen)
        observation, reward, _, _, info = envs.step(action.numpy())
        steps.append(seen | {"action": action, "log_prob": log_prob, "value": value, "reward": torch.tensor(reward)})
        earned += info["objective_reward"]
    rollout = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
    observation, _ = envs.reset()
    return rollout, earned, observation


def advantages(rollout):
    """Generalised advantages; nothing follows the last step, which ended every episode."""
    value, reward = rollout["value"], rollout["reward"].float() / SCALE
    advantage, following, last = torch.zeros_like(value), torch.zeros_like(value[0]), torch.zeros_like(value[0])
    for t in reversed(range(len(value))):
        last = reward[t] + GAMMA * following - value[t] + GAMMA * LAMBDA * last
        advantage[t], following = last, value[t]
    return advantage


def update(agent, optimizer, rollout, advantage):
    """Epochs of clipped surrogates, a ratio per head that mattered."""
    batch = {name: each.flatten(0, 1) for name, each in rollout.items()}
    advantage, target = advantage.flatten(), (advantage + rollout["value"]).flatten()
    normalised = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(advantage)).chunk(MINIBATCHES):
            part = {name: each[rows] for name, each in batch.items()}
            _, log_prob, entropy, value = agent(part, part["action"])
            ratio, gain = (log_prob - part["log_prob"]).exp(), normalised[rows, None]
            surrogate = torch.min(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain)
            mattered = MATTERS[part["action"][:, OP]]
            # A head's sum is divided by all steps: by its own few, rare heads would drown the op.
            loss = -(surrogate * mattered + ENTROPY * entropy).sum(-1).mean()
            loss = loss + 0.5 * (value - target[rows]).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=int, default=25, help="updates, of one episode per host each")
    parser.add_argument("--hosts", type=int, default=32, help="hosts in the stack")
    parser.add_argument("--smoke", action="store_true", help="two small updates, to see that it runs")
    args = parser.parse_args()
    options = {"max_epochs": 5, "training": {"batches_per_epoch": 2, "val_samples": 64}} if args.smoke else {}

    torch.manual_seed(1)
    envs = SeedVectorEnv(args.hosts, autoreset_mode="disabled", **options)
    agent = Agent(envs.single_observation_space, envs.single_action_space.nvec)
    optimizer = torch.optim.Adam(agent.parameters(), RATE, eps=1e-5)
    observation, _ = envs.reset(seed=1)
    for number in range(1, (2 if args.smoke else args.updates) + 1):
        rollout, earned, observation = collect(envs, agent, observation)
        update(agent, optimizer, rollout, advantages(rollout))
        print(f"{number * rollout['value'].numel()} steps, return {earned.mean():.2f}", flush=True)


if __name__ == "__main__":
    main()
