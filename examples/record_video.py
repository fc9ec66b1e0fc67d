"""Record an episode as a video, with Gymnasium's own wrapper.

    pip install ".[render]" moviepy
    python examples/record_video.py

The file is videos/episode-episode-0.mp4: 51 frames, four a second.
"""

import argparse

import gymnasium as gym
from gymnasium.wrappers import RecordVideo


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default="videos", help="where the file goes")
    parser.add_argument("--smoke", action="store_true", help="a few frames, to see that it runs")
    args = parser.parse_args()
    small = {"max_epochs": 5, "training": {"batches_per_epoch": 2, "val_samples": 64}}

    env = gym.make("esper_env:Esper-Seed-v0", render_mode="rgb_array", **(small if args.smoke else {}))
    env = RecordVideo(env, args.folder, name_prefix="episode", episode_trigger=lambda episode: True)
    _, info = env.reset(seed=1)
    env.action_space.seed(1)
    done = False
    while not done:
        action = env.action_space.sample(mask=info["action_mask"])
        _, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    env.close()  # writes the file
    print(f"{args.folder}/episode-episode-0.mp4 shows {info['epoch']} epochs")


if __name__ == "__main__":
    main()
