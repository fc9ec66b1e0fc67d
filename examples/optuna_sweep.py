"""Search hyperparameters of the agent with Optuna; bad trials are stopped early.

    pip install ".[agent]" optuna
    OMP_NUM_THREADS=1 python examples/optuna_sweep.py --trials 20

Trials are kept in runs/sweep/study.db, so that the same command goes on, and several processes share the work.
"""

import argparse
import tempfile
from pathlib import Path

import optuna

from esper_agent.config import PPOConfig
from esper_agent.runs import TrainConfig
from esper_agent.train import train


def objective(trial, folder, settings):
    """Train with what the trial suggests; the mean objective return of the last updates."""
    config = TrainConfig(
        run=str(folder / f"trial-{trial.number}"),
        seed=0,  # the same for all: else a trial could win by its seed; train the best ones with several
        ppo=PPOConfig(
            learning_rate=trial.suggest_float("learning_rate", 1e-4, 2e-3, log=True),
            entropy_coefficient=trial.suggest_float("entropy_coefficient", 1e-3, 0.1, log=True),
            epochs=trial.suggest_int("epochs", 2, 8),
        ),
        evaluation_episodes=0,
        **settings,
    )
    returns = []

    def watch(metrics, config):
        returns.append(metrics["episode/objective_return"])
        trial.report(returns[-1], int(metrics["steps"]))
        if trial.should_prune():
            raise optuna.TrialPruned

    train(config, show=watch)
    return sum(returns[-5:]) / len(returns[-5:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20, help="trials to add to the study")
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps per trial")
    parser.add_argument("--folder", type=Path, default=Path("runs/sweep"), help="where runs and study are kept")
    parser.add_argument("--smoke", action="store_true", help="two small trials, to see that it runs")
    args = parser.parse_args()
    settings, trials = {"steps": args.steps}, args.trials
    if args.smoke:
        small = {"max_epochs": 4, "training": {"batches_per_epoch": 1, "val_samples": 32}}
        tiny = {"width": 16, "head_width": 8}
        settings, trials = {"steps": 32, "num_envs": 8, "env": small, "policy_options": tiny}, 2
        args.folder = Path(tempfile.mkdtemp())  # so that they are not taken for trials of a real study

    args.folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="esper",
        storage=f"sqlite:///{args.folder / 'study.db'}",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=10_000),
        load_if_exists=True,
    )
    study.optimize(lambda trial: objective(trial, args.folder, settings), n_trials=trials)
    print(f"best of {len(study.trials)} trials: {study.best_value:.2f} with {study.best_params}")


if __name__ == "__main__":
    main()
