"""Watch an episode in the terminal: the frame that render_mode="ansi" draws, epoch after epoch.

    python examples/play_in_the_terminal.py

A script plays here: it grows one seed from GERMINATED to FOSSILIZED. To play yourself, run `esper play`.
"""

import argparse
import time

import gymnasium as gym

from esper_env import ACTION_HEADS, Op

HEAD = {head.name: i for i, head in enumerate(ACTION_HEADS)}
PLAN = {2: Op.GERMINATE, 3: Op.ADVANCE, 9: Op.ADVANCE, 14: Op.ADVANCE, 16: Op.FOSSILIZE}


def act(epoch):
    """What the plan says for this epoch, always on slot 0."""
    action = [head.canonical for head in ACTION_HEADS]
    action[HEAD["op"]] = PLAN.get(epoch, Op.WAIT)
    if action[HEAD["op"]] == Op.GERMINATE:
        action[HEAD["blueprint"]] = ACTION_HEADS[HEAD["blueprint"]].choices.index("conv_light")
    return action


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.3, help="how long a frame stands")
    parser.add_argument("--smoke", action="store_true", help="twenty small epochs at once, to see that it runs")
    args = parser.parse_args()
    small = {"max_epochs": 20, "training": {"batches_per_epoch": 4, "val_samples": 64}}
    env = gym.make("esper_env:Esper-Seed-v0", render_mode="ansi", **(small if args.smoke else {}))
    env.reset(seed=5)
    done, epoch = False, 0
    while not done:
        _, _, terminated, truncated, info = env.step(act(epoch))
        done, epoch = terminated or truncated, info["epoch"]
        print("\x1b[H\x1b[2J" + env.render(), flush=True)
        time.sleep(0 if args.smoke else args.seconds)


if __name__ == "__main__":
    main()
