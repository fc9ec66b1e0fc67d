"""Ways to choose actions from nothing but the observation, for all environments at once."""

import numpy as np

from esper_env.actions import CANONICAL_ACTION, HEAD_INDEX, Op, blueprint_names, head_sizes
from esper_env.masks import head_slices

OP, SLOT, BLUEPRINT = HEAD_INDEX["op"], HEAD_INDEX["slot"], HEAD_INDEX["blueprint"]
EAGERNESS = np.zeros(len(Op))
EAGERNESS[[Op.WAIT, Op.GERMINATE, Op.SET_ALPHA_TARGET, Op.PRUNE, Op.FOSSILIZE, Op.ADVANCE]] = 1, 3, 0.7, 0.3, 1, 6
"""Weights of the ops with which seeds run through all of their stages."""
INT64 = np.iinfo(np.int64)
EDGES = np.array([-1, -(2**31), 2**31, 10**12, INT64.min, INT64.max])


class Player:
    """A source of actions for environments with `num_slots` slots."""

    def __init__(self, num_slots: int, rng: np.random.Generator) -> None:
        self.num_slots, self.rng = num_slots, rng
        blueprints = len(blueprint_names())
        self.sizes = np.array(head_sizes(num_slots, blueprints))
        self.spans = list(head_slices(num_slots, blueprints).values())

    def slot_by_op(self, observation):
        """The joint truth `[envs, ops, slots]`."""
        return observation["slot_by_op"].reshape(-1, len(Op), self.num_slots).astype(bool)

    def pick(self, allowed, weights=1.0):
        """One allowed choice per row."""
        return np.argmax(self.rng.random(allowed.shape) ** (1 / np.maximum(weights, 1e-9)) * allowed, -1)

    def uniform(self, observation):
        """Anything in the action space."""
        return self.rng.integers(0, self.sizes, (len(observation["features"]), len(self.sizes)))

    def masked(self, observation):
        """Every head on its own within its mask, as an agent with independent heads."""
        return np.stack([self.pick(observation["action_mask"][:, span]) for span in self.spans], 1)

    def joint(self, observation, weights=1.0):
        """Legal actions: the op within its mask, its slot within the joint mask."""
        vectors = self.masked(observation)
        ops = observation["action_mask"][:, self.spans[OP]]
        vectors[:, OP] = self.pick(ops, weights)
        rows = self.slot_by_op(observation)[np.arange(len(vectors)), vectors[:, OP]]
        vectors[:, SLOT] = self.pick(rows)
        return vectors

    def eager(self, observation):
        """Legal actions that bring seeds through their stages."""
        return self.joint(observation, EAGERNESS)

    def adversarial(self, observation):
        """Legal actions with values from beyond the space in some heads, whether these matter or not."""
        vectors = self.eager(observation)
        edges = np.concatenate([EDGES, self.sizes])
        spoilt = self.rng.random(vectors.shape) < 0.12
        return np.where(spoilt, self.rng.choice(edges, vectors.shape), vectors)


SOURCES = ("uniform", "masked", "joint", "eager", "adversarial")


def wait(observation):
    """The action that does nothing."""
    return np.tile(CANONICAL_ACTION, (len(observation["features"]), 1))


def grow(observation, blueprint="conv_light"):
    """Plant in every slot, advance and fossilize as soon as it is legal."""
    vectors = wait(observation)
    vectors[:, BLUEPRINT] = blueprint_names().index(blueprint)
    num_slots = observation["blueprint_index"].shape[1]
    joint = observation["slot_by_op"].reshape(-1, len(Op), num_slots)
    legal = observation["action_mask"][:, -len(Op) :].astype(bool)
    for op in (Op.GERMINATE, Op.ADVANCE, Op.FOSSILIZE):  # the last one that is legal is taken
        vectors[legal[:, op], OP] = op
    vectors[:, SLOT] = joint[np.arange(len(vectors)), vectors[:, OP]].argmax(1)
    return vectors
