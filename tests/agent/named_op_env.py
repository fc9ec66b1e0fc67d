"""A native TorchRL environment with our spaces that pays for the action that an observation names."""

import numpy as np
import torch
from torchrl.collectors import Collector
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, Unbounded
from torchrl.envs import Compose, EnvBase, InitTracker, TransformedEnv

from esper_agent import EnvSpec
from esper_agent.policies.distribution import OP, SLOT
from esper_env.actions import Op
from tests.agent.observations import mask_tensors, random_legality

SPEC = EnvSpec(num_slots=3, num_blueprints=13, num_features=10)


class NamedOpEnv(EnvBase):
    """Each step names an op and a slot; doing just that pays 1, the right op in another slot a half.

    Args:
        num_envs: environments in the batch.
        horizons: steps per episode, repeated over the environments.
        truncated: whether episodes end by truncation.
        memory: an op is named at the first step only and paid at the last, where every op is legal.
        masked: whether the masks tell what is legal; paying depends on it either way.
    """

    def __init__(self, num_envs, horizons=(8,), *, truncated=False, memory=False, masked=True, seed=0):
        super().__init__(batch_size=(num_envs,))
        self.horizon = torch.tensor(horizons).repeat(num_envs)[:num_envs]
        self.truncated, self.memory, self.masked = truncated, memory, masked
        self.rng = np.random.default_rng(seed)
        self.clock = torch.zeros(num_envs, dtype=torch.int64)
        self.named = torch.zeros(num_envs, 2, dtype=torch.int64)
        n = num_envs
        self.observation_spec = Composite(
            features=Unbounded((n, SPEC.num_features)),
            blueprint_index=Bounded(-1, 12, (n, SPEC.num_slots), dtype=torch.int64),
            action_mask=Binary(41, (n, 41), dtype=torch.int8),
            slot_by_op=Binary(18, (n, 18), dtype=torch.int8),
            shape=(n,),
        )
        self.action_spec = MultiCategorical(SPEC.head_sizes, shape=(n, 8))
        self.reward_spec = Unbounded((n, 1))
        flag = Categorical(2, (n, 1), dtype=torch.bool)
        self.done_spec = Composite(done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=(n,))

    def _set_seed(self, seed):
        self.rng = np.random.default_rng(seed)

    def _reset(self, tensordict=None, **kwargs):
        begins = torch.ones(self.batch_size, dtype=torch.bool)
        if tensordict is not None and tensordict.get("_reset") is not None:
            begins = tensordict["_reset"].reshape(self.batch_size)
        self.clock[begins] = 0
        return self._observe(begins).update(self._ends())

    def _step(self, tensordict):
        action = tensordict["action"]
        op_right, slot_right = action[:, OP] == self.named[:, 0], action[:, SLOT] == self.named[:, 1]
        reward = op_right.float() * (0.5 + 0.5 * (slot_right | (self.named[:, 0] == Op.WAIT)).float())
        self.clock += 1
        if self.memory:
            reward = torch.where(self.clock == self.horizon, op_right.float(), 0.0)
        ends = self._ends()
        everyone = torch.ones(self.batch_size, dtype=torch.bool)
        return self._observe(everyone).update({"reward": reward[:, None], **ends})

    def _ends(self):
        done = (self.clock >= self.horizon)[:, None]
        no = torch.zeros_like(done)
        return {"done": done, "truncated": done if self.truncated else no, "terminated": no if self.truncated else done}

    def _observe(self, fresh):
        """What the present step shows; what `fresh` environments showed before is forgotten."""
        n = self.batch_size[0]
        legal = np.ones((n, len(Op), SPEC.num_slots), bool) if self.memory else random_legality(self.rng, n, 3)
        named = torch.from_numpy(np.stack([self.rng.integers(len(Op), size=n), self.rng.integers(3, size=n)], 1))
        legal[np.arange(n), named[:, 0], named[:, 1]] = True
        new = fresh & (self.clock == 0) if self.memory else fresh
        self.named = torch.where(new[:, None], named, self.named)
        features = torch.zeros(n, SPEC.num_features)
        shown = self.clock == 0 if self.memory else torch.ones(n, dtype=torch.bool)
        rows = shown.nonzero().flatten()
        features[rows, self.named[rows, 0]] = 1.0
        if not self.memory:
            features[rows, len(Op) + self.named[rows, 1]] = 1.0
        features[:, -1] = self.clock / self.horizon
        masks = mask_tensors(legal if self.masked else np.ones_like(legal), SPEC.num_blueprints)
        index = torch.full((n, SPEC.num_slots), -1)
        return self.observation_spec.zero().update({"features": features, "blueprint_index": index, **masks})


def with_transforms(env, policy):
    return TransformedEnv(env, Compose(InitTracker(), policy.make_tensordict_primer()))


def rollouts(policy, steps, **options):
    """Endless rollouts `[envs, steps]` of a `NamedOpEnv`."""
    env = NamedOpEnv(**options)
    yield from Collector(
        with_transforms(env, policy), policy, frames_per_batch=env.batch_size[0] * steps, trust_policy=True
    )
