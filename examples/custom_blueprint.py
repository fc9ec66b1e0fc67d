"""A blueprint of your own: a kind of seed, its parameters and its correction, beside those that ship.

python examples/custom_blueprint.py
"""

import argparse

import gymnasium as gym
import torch.nn.functional as F

from esper_env import ACTION_HEADS, Blueprint, Op, register_blueprint
from esper_env.actions import blueprint_names
from esper_env.network import layers
from esper_env.testing import check_seed_env


@register_blueprint
class Contrast(Blueprint):
    """How much a place differs from its surroundings, weighed per channel: one parameter each."""

    name = "contrast"

    def init(self, channels, rng):
        """The parameters of one seed; small ones, so that a fresh seed hardly disturbs the host."""
        return {"gamma": layers.full(0.1, channels)}

    def delta(self, p, x):
        """What n stacked seeds add to `x`, which is `[batch, n * channels, height, width]`."""
        around = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return layers.channel_scale(x - around, p["gamma"])


def grow(blueprint, options):
    """Plant the blueprint in every slot, move each seed on as soon as that is legal, and keep them all."""
    env = gym.make("esper_env:Esper-Seed-v0", blueprints=[blueprint], **options)
    observation, info = env.reset(seed=1)
    done, earned = False, 0.0
    while not done:
        action = [head.canonical for head in ACTION_HEADS]
        action[1] = blueprint_names().index(blueprint)
        for op in (Op.FOSSILIZE, Op.ADVANCE, Op.GERMINATE):
            if info["action_mask"][-1][op]:
                action[0] = observation["slot_by_op"].reshape(len(Op), -1)[op].argmax()
                action[-1] = op
                break
        observation, _, terminated, truncated, info = env.step(action)
        earned += info["objective_reward"]
        done = terminated or truncated
    return earned, info


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="short episodes, to see that it runs")
    small = {"max_epochs": 12, "training": {"batches_per_epoch": 2, "val_samples": 64}}
    options = small if parser.parse_args().smoke else {}

    check_seed_env(gym.make("esper_env:Esper-Seed-v0", blueprints=["contrast"], **small), steps=24)
    for blueprint in ("contrast", "conv_light"):
        earned, info = grow(blueprint, options)
        print(
            f"{blueprint:<10} return {earned:5.2f}, {info['committed_accuracy']:5.1f} % with {info['seed_params']} "
            f"parameters in {info['seeds_fossilized']} seeds"
        )


if __name__ == "__main__":
    main()
