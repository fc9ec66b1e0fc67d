"""The environments that random play goes through."""

from dataclasses import dataclass, field

from esper_env.vector_env import SeedVectorEnv
from tests.conftest import QUICK_TASKS

CHEAP = {"batches_per_epoch": 1, "batch_size": 16, "val_samples": 32}
CHEAP_FEW = {"batches_per_epoch": 1, "batch_size": 2, "val_samples": 4}


@dataclass(frozen=True)
class Scenario:
    """An environment to play in, and what may go wrong there."""

    name: str
    options: dict = field(default_factory=dict)
    envs: int = 32
    autoreset: str = "disabled"
    max_episode_steps: int | None = None
    faults: bool = False
    """Hosts lose their weights now and then."""
    share: float = 1.0
    """How much of the steps it gets, beside the others."""

    def make(self):
        options = {"task": "digits", "max_epochs": 30, **self.options}
        options["training"] = CHEAP | options.get("training", {})
        return SeedVectorEnv(
            self.envs, autoreset_mode=self.autoreset, max_episode_steps=self.max_episode_steps, **options
        )


QUICK = {"min_training_epochs": 1, "embargo_epochs": 1}
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("digits", {"max_epochs": 50}, share=2),
        Scenario(
            "strict gates",
            {
                "strict_gates": True,
                "reward": "objective",
                "max_epochs": 40,
                "lifecycle": QUICK | {"min_fossilize_contribution": -2.0},
            },
            share=2,
        ),
        Scenario(
            "automatic advance, measured every third epoch",
            {"auto_advance": True, "counterfactual_interval": 3, "reward": "simplified", "lifecycle": QUICK},
            autoreset="next_step",
        ),
        Scenario(
            "two seeds of few blueprints",
            {
                "task": "digits_capable",
                "max_seeds": 2,
                "blueprints": ["norm", "bottleneck", "attention"],
                "reward": "sparse",
                "counterfactual_interval": 3,
            },
        ),
        Scenario("five slots", {"task": "digits_deep", "lifecycle": {"embargo_epochs": 2}}, share=1.5),
        Scenario(
            "five slots, strict and automatic, three seeds",
            {
                "task": "digits_deep",
                "max_seeds": 3,
                "strict_gates": True,
                "auto_advance": True,
                "reward": "minimal",
                "lifecycle": {"min_fossilize_contribution": 0.0},
            },
            envs=16,
        ),
        Scenario("shapes", {"task": "shapes", "max_epochs": 50, "lifecycle": QUICK}, envs=24),
        Scenario(
            "texts",
            {"task": "story_grammar", "training": CHEAP_FEW, "lifecycle": QUICK},
            envs=16,
            share=0.5,
        ),
        *(
            Scenario(
                task,
                {"task": task, "training": CHEAP_FEW, "lifecycle": QUICK, "max_epochs": 24},
                envs=5,
                autoreset="same_step",
                share=0.5 if "deep" in task else 0.3,
            )
            for task in QUICK_TASKS
            if task.startswith("cifar10")
        ),
        Scenario(
            "seeds that ruin their hosts",
            {"training": {"seed_lr": 1e22}, "lifecycle": QUICK, "on_panic": "rollback"},
            envs=16,
            autoreset="same_step",
        ),
        Scenario(
            "lost weights, rolled back",
            {"lifecycle": QUICK, "counterfactual_interval": 2, "on_panic": "rollback"},
            faults=True,
        ),
        Scenario(
            "lost weights, the end",
            {"task": "digits_deep", "lifecycle": QUICK, "on_panic": "terminate"},
            envs=16,
            autoreset="next_step",
            faults=True,
        ),
        *(
            Scenario(
                f"lost weights of {task}",
                {"task": task, "training": CHEAP_FEW, "lifecycle": QUICK, "on_panic": "rollback"},
                envs=envs,
                faults=True,
                share=share,
            )
            for task, envs, share in (("cifar10_impaired", 5, 0.5), ("story_grammar", 8, 0.4))
        ),
        Scenario(
            "one slot, cut short",
            {"num_slots": 1, "lifecycle": {"min_prune_age": 3, "min_training_epochs": 2, "embargo_epochs": 7}},
            envs=8,
            autoreset="same_step",
            max_episode_steps=27,
            share=0.5,
        ),
        Scenario(
            "nothing may be planted", {"task": "digits_capable", "max_seeds": 0, "max_epochs": 5}, envs=8, share=0.2
        ),
    )
}
