"""Recorded play: the actions that were taken, and a digest of every bit that each step led to."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from esper_env.actions import CNN, Op, blueprint_names
from esper_env.env import SeedEnv
from esper_env.lifecycle.stages import Stage
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import SMALL_IMAGES, action
from tests.properties.fingerprints import digest
from tests.properties.players import Player

HOSTS, STEPS, SEED = 4, 26, 11
OPTIONS = {
    "training": {"batches_per_epoch": 1, "batch_size": 16, "val_samples": 32},
    "lifecycle": {"min_training_epochs": 1, "embargo_epochs": 1},
    "max_epochs": STEPS,
}
FEW = {"batches_per_epoch": 1, "batch_size": 2, "val_samples": 4}
"""Training options where a sample takes long: texts, and photographs."""
OPENING = [
    action(Op.GERMINATE, 0, "conv_small"),
    action(Op.PRUNE, 0),
    action(Op.GERMINATE, 1, "conv_light"),
    action(Op.ADVANCE, 1),
    action(Op.ADVANCE, 1),
    action(),
    action(),
    action(Op.ADVANCE, 1),
    action(Op.FOSSILIZE, 1),
]
"""How the first host begins, to be sure of every stage."""
FOR_TEXTS = {"conv_small": "lora", "conv_light": "mlp_small"}
"""What is planted in a language host instead."""
KINDS = {"single": SeedEnv, "vector": SeedVectorEnv}


@dataclass
class Recording:
    """What replaying must lead to again."""

    actions: list
    digests: list
    """Of what each step gave back, the reset first."""
    states: list
    """Of everything that the simulation held then."""
    stages: list
    """The stages that slots were in then."""

    def part(self, start, end):
        """What resuming after `start` steps leads to in the step numbered `end`."""
        return [*self.digests[start + 1 : end + 1], self.states[end]]

    def whole(self):
        """What replaying leads to from the reset on."""
        return [*self.digests, self.states[-1]]

    def stops(self):
        """The half, and as few further steps as a state must be taken after to have one of every stage."""
        chosen, missing = [STEPS // 2], set(Stage) - {Stage.UNKNOWN} - self.stages[STEPS // 2]
        while missing:
            best = max(range(STEPS), key=lambda step: len(missing & self.stages[step]))
            assert missing & self.stages[best], f"no slot is ever in any of {missing}"
            chosen.append(best)
            missing -= self.stages[best]
        return sorted(chosen)

    def parts(self):
        """From each stop to the next one and from the last to the end, `(start, end)`."""
        return [*pairwise([*self.stops(), STEPS])]


def make(kind, task, **more):
    """An environment of either class; the vector one has several hosts."""
    options = OPTIONS | {"task": task} | ({} if task in SMALL_IMAGES else {"training": FEW})
    if kind == "single":
        return SeedEnv(**options)
    return SeedVectorEnv(HOSTS, **({"autoreset_mode": "disabled"} | options | more))


def opening(env):
    """How the first host of this environment begins."""
    if env.unwrapped._simulation.task.host.topology == CNN:
        return OPENING
    texts = {blueprint_names().index(images): blueprint_names().index(name) for images, name in FOR_TEXTS.items()}
    return [[vector[0], texts.get(vector[1], vector[1]), *vector[2:]] for vector in OPENING]


def begin(env):
    """Reset; returns the observation and the digest of all that it holds."""
    observation, info = env.reset(seed=SEED)
    return observation, digest(observation, info)


def everything(env):
    """The digest of all that the simulation holds, whether a saved state has it or not."""
    return digest(env.unwrapped._simulation)


def stages(env):
    """The stages that slots are in."""
    return {Stage(stage) for stage in np.unique(env.unwrapped._simulation.slots.stage)}


def take(env, chosen):
    """One step; returns the observation and the digest of all that it gave back."""
    observation, reward, terminated, truncated, info = env.step(chosen)
    return observation, digest(observation, np.asarray(reward), np.asarray([terminated, truncated]), info)


def perform(env):
    """Play the opening and then at random until the end, and record it."""
    single = isinstance(env, SeedEnv)
    player = Player(env.config.num_slots, np.random.default_rng(SEED))
    observation, first = begin(env)
    recording = Recording([], [first], [everything(env)], [stages(env)])
    for t in range(STEPS):
        seen = {name: array[None] for name, array in observation.items()} if single else observation
        vectors = player.eager(seen)
        if t < len(OPENING):
            vectors[0] = opening(env)[t]
        chosen = vectors[0] if single else vectors
        observation, found = take(env, chosen)
        recording.actions.append(chosen)
        recording.digests.append(found)
        recording.states.append(everything(env))
        recording.stages.append(stages(env))
    return recording


def replay(env, actions):
    """Begin anew and take these actions; returns the digests of all steps, and of everything at the end."""
    found = [begin(env)[1], *(take(env, chosen)[1] for chosen in actions)]
    return [*found, everything(env)]


def resume(env, actions):
    """Go on from the present state; returns the digests as `replay` does."""
    return [*(take(env, chosen)[1] for chosen in actions), everything(env)]


def disturb(env):
    """Do something else with an instance, so that nothing of it may be left."""
    env.reset(seed=SEED + 1)
    planting = np.array(opening(env)[0])
    env.step(planting if isinstance(env, SeedEnv) else np.tile(planting, (HOSTS, 1)))


def replay_elsewhere(jobs, connection):
    """In a process of its own: replay from the start, and resume from pickled states, each with its own actions."""
    for kind, task, actions, parts in jobs:
        env, resumed = make(kind, task), []
        digests = replay(env, actions)
        for state, following in parts:
            env.set_state(state)
            resumed.append(resume(env, following))
        connection.send((digests, resumed))
    connection.close()
