"""Draw docs/episode.gif: an episode of the script of docs/episode.svg, as the environment itself draws it.

Run it with `python -m docs.animate_episode`.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import torch
from PIL import Image

from docs.draw_episode import TIMETABLE, act

SEED = 4
COLOURS = 96
"""So few keep the file small; the pictures have flat colours."""
EPOCH_MS, END_MS = 300, 4000


def frames() -> list[Image.Image]:
    """A picture before the episode, and one after every step."""
    env = gymnasium.make("esper_env:Esper-Seed-v0", render_mode="rgb_array")
    observation, _ = env.reset(seed=SEED)
    pictures, timetable, epoch, over = [Image.fromarray(env.render())], list(TIMETABLE), 0, False
    while not over:
        observation, _, terminated, truncated, _ = env.step(act(observation, epoch, timetable))
        pictures.append(Image.fromarray(env.render()))
        epoch, over = epoch + 1, terminated or truncated
    env.close()
    return pictures


def main() -> None:
    """Draw and save; all pictures share the colours of the last, which has the most."""
    torch.set_num_threads(1)
    pictures = frames()
    last = pictures[-1].quantize(COLOURS)
    reduced = [picture.quantize(palette=last, dither=Image.Dither.NONE) for picture in pictures]
    times = [EPOCH_MS] * (len(reduced) - 1) + [END_MS]
    place = Path(__file__).with_name("episode.gif")
    reduced[0].save(place, save_all=True, append_images=reduced[1:], duration=times, loop=0, optimize=True)


if __name__ == "__main__":
    main()
