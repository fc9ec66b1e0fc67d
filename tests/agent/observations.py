"""Random but consistent observations: masks come from the environment's own function."""

import numpy as np
import torch
from tensordict import TensorDict

from esper_agent import EnvSpec
from esper_env.actions import Op
from esper_env.masks import masks


def random_legality(rng, envs, num_slots):
    legal = rng.random((envs, len(Op), num_slots)) < rng.random((envs, 1, 1))
    legal[:, Op.WAIT] = True
    return legal


def mask_tensors(legal, num_blueprints):
    plantable = np.arange(num_blueprints) > 0
    made = masks(legal, plantable)
    return {
        "action_mask": torch.from_numpy(made.heads.astype(np.int8)),
        "slot_by_op": torch.from_numpy(made.slot_by_op.reshape(len(legal), -1).astype(np.int8)),
    }


def observations(*batch, spec=None, seed=0, legal=None):
    spec = spec or EnvSpec()
    rng = np.random.default_rng(seed)
    n = int(np.prod(batch))
    legal = random_legality(rng, n, spec.num_slots) if legal is None else np.broadcast_to(legal, (n, *legal.shape[-2:]))
    flat = {
        "features": torch.from_numpy(rng.normal(size=(n, spec.num_features)).astype(np.float32)),
        "blueprint_index": torch.from_numpy(rng.integers(-1, spec.num_blueprints, (n, spec.num_slots))),
        **mask_tensors(legal, spec.num_blueprints),
    }
    return TensorDict({key: value.reshape(*batch, -1) for key, value in flat.items()}, batch)
