"""A protocol that runs in seconds: the same machinery, hardly any training."""

from dataclasses import replace

from benchmarks.suite.protocol import PROTOCOL, Comparison, Contestant, Entry, Protocol
from benchmarks.suite.runner import Runner
from benchmarks.suite.tuning import Search
from tests.conftest import HASTY

EPOCHS = 6
ENV = {"max_epochs": EPOCHS, "training": {"batches_per_epoch": 1, "val_samples": 32}, "lifecycle": HASTY}
NARROW = {"policy_options": {"width": 16, "head_width": 8}}
ENVS = 8
UPDATE = ENVS * EPOCHS
MASKABLE = {"rollout": 8, "batch_size": 8, "n_epochs": 1, "net_arch": [8]}
CONTESTANTS = (
    *(PROTOCOL.contestant(name) for name in ("wait", "random", "schedule", "heuristic", "beginner", "big")),
    replace(PROTOCOL.contestant("greedy"), options={"every": 2, "horizon": 2}),
    replace(PROTOCOL.contestant("maskable-ppo"), options=MASKABLE),
    replace(PROTOCOL.contestant("lstm"), options=NARROW),
    Contestant("lstm-no-feedback", "esper", "deaf", {"policy": "no-feedback", **NARROW}),
)
TINY = Protocol(
    CONTESTANTS,
    (
        *(Entry(name, "digits") for name in ("wait", "random", "schedule", "heuristic", "beginner", "greedy", "big")),
        Entry("lstm", "digits", (0, 1), 3 * UPDATE),
        Entry("lstm-no-feedback", "digits", (0,), UPDATE),
        Entry("maskable-ppo", "digits", (0,), 24),
    ),
    (
        Comparison("better", "lstm", ("wait", "big"), ("digits",), ("committed_test_accuracy",), "above"),
        Comparison("no worse", "lstm", ("random",), ("digits",), ("objective_return",), "not below"),
    ),
    PROTOCOL.late,
    env={"digits": ENV},
    episodes=3,
    tuning_episodes=2,
    tuning_steps=16,
    num_envs=ENVS,
    temperatures=(1.0, 0.25, 0.0),
)


def runner(folder, **changes):
    """The tiny protocol in a folder of its own."""
    made = Runner(TINY, folder / "runs", folder / "results", folder / "tuned")
    return replace(made, **changes)


def quiet(line):
    pass


def work(folder, *agents, **options):
    """Run contestants to the end."""
    made = runner(folder)
    assert made.work(agents, show=quiet, **options)
    return made.results


def search(folder, stages=None):
    """The search for the schedule's settings."""
    return Search(TINY.contestant("schedule"), "digits", TINY, folder / "tuned")
