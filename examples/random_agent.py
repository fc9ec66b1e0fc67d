"""Random play: the loop that every agent repeats, and what the masks are for.

    python examples/random_agent.py

`info["action_mask"]` keeps every head within its valid choices. The heads are drawn one by one all the same, so that
op and slot may not suit each other; `observation["slot_by_op"]` knows which do. What does not suit runs as WAIT.
"""

import argparse
from collections import Counter

import gymnasium as gym
import numpy as np

from esper_env import Op

SMOKE = {"max_epochs": 10, "training": {"batches_per_epoch": 2, "val_samples": 64}}


def play(env, choose):
    """One episode; what was asked for and carried out, and how it ended."""
    observation, info = env.reset(seed=1)
    ops, waited, done = Counter(), 0, False
    while not done:
        action = choose(env, observation, info)
        observation, _, terminated, truncated, info = env.step(action)
        ops[Op(action[-1]).name] += 1
        waited += not info["action_executed"]
        done = terminated or truncated
    return ops, waited, info


def head_by_head(env, observation, info):
    """Every head on its own, as an agent with independent heads plays."""
    return env.action_space.sample(mask=info["action_mask"])


def slot_after_op(env, observation, info):
    """The slot drawn among those on which the op is legal, so that every action is carried out."""
    action = env.action_space.sample(mask=info["action_mask"])
    legal = observation["slot_by_op"].reshape(len(Op), -1)[action[-1]]
    action[0] = env.np_random.choice(np.flatnonzero(legal))
    return action


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a short episode, to see that it runs")
    env = gym.make("esper_env:Esper-Seed-v0", **(SMOKE if parser.parse_args().smoke else {}))
    for choose in (head_by_head, slot_after_op):
        env.action_space.seed(1)
        ops, waited, info = play(env, choose)
        asked = ", ".join(f"{count} {op}" for op, count in ops.most_common())
        print(f"{choose.__name__}: {asked}; {waited} of them ran as WAIT")
        print(f"  {info['test_accuracy']:.1f} % of the test digits, {info['seeds_fossilized']} seeds made permanent")


if __name__ == "__main__":
    main()
