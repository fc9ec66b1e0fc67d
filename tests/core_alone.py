"""Run with the core's dependencies alone: the environment works, and what is missing is named with its extra.

`make core` builds the bare virtual environment for it and checks that no extra has slipped in.
"""

import importlib.util
import subprocess
import sys

import gymnasium as gym

EXTRAS = ("torchrl", "tensordict", "tyro", "rich", "stable_baselines3", "PIL", "ray", "pytest")

present = [name for name in EXTRAS if importlib.util.find_spec(name)]
assert not present, f"not bare: {present}"

env = gym.make("esper_env:Esper-Seed-v0", max_epochs=3, render_mode="ansi")
env.reset(seed=1)
over = False
while not over:
    *_, over, _, info = env.step([0, 1, 2, 1, 2, 0, 0, 1])
assert info["test_accuracy"] >= 0
assert env.render()

envs = gym.make_vec("esper_env:Esper-Seed-v0", num_envs=3, vectorization_mode="vector_entry_point", max_epochs=3)
envs.reset(seed=1)
assert envs.step(envs.action_space.sample())[0]["features"].shape == (3, 112)

refusal = ""
try:
    gym.make("esper_env:Esper-Seed-v0", render_mode="rgb_array")
except ModuleNotFoundError as error:
    refusal = str(error)
assert "pip install 'esper-env[render]'" in refusal, refusal

command = subprocess.run([sys.executable, "-I", "-m", "esper_agent", "--help"], capture_output=True, text=True)
assert command.returncode == 1
assert "pip install 'esper-env[agent]'" in command.stderr, command.stderr
print("The core works alone.")
