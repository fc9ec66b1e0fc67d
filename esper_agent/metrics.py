"""What a training shows: one table of metrics, how a rollout becomes numbers, and the warnings drawn from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper_env.actions import HEAD_INDEX, HEAD_NAMES, Op

if TYPE_CHECKING:
    from tensordict import TensorDictBase
    from torch import Tensor

Metrics = dict[str, float]


def _per_head(prefix: str, meaning: str) -> dict[str, str]:
    return {f"{prefix}/{head}": f"{meaning}, head `{head}`" for head in HEAD_NAMES}


METRICS: dict[str, str] = {
    "steps": "environment steps so far, all environments together",
    "updates": "rollouts learned from so far",
    "episodes": "episodes that ended in this rollout; the metrics under `episode/` are means over them",
    "episode/objective_return": "undiscounted sum of the objective terms: what is reported and compared",
    "episode/discounted_return": "discounted sum of the reward as paid, shaping included",
    "episode/committed_test_accuracy": "test accuracy of the host with its fossilized seeds, in percent",
    "episode/committed_accuracy": "the same on the validation split",
    "episode/seeds_created": "seeds germinated per episode",
    "episode/seeds_fossilized": "seeds made permanent per episode",
    "episode/contributing_fossilized": "of those, seeds whose removal would cost accuracy",
    "episode/seeds_pruned": "seeds pruned per episode",
    "episode/seed_params": "parameters of the seeds present at the end",
    "episode/rollbacks": "times the governor restored a host, per episode",
    "reward/<term>": "sum of a reward term over the rollout, mean over environments",
    "op/<OP>": "share of the steps in which the op was chosen",
    "action_executed": "share of the steps whose action was legal",
    "hindsight/share": "share of fossilizations that earned hindsight credit",
    "hindsight/largest": "largest hindsight credit of a single step",
    "memory/hidden_start": "root mean square of the LSTM's hidden state in the first quarter of the rollout",
    "memory/hidden_end": "the same in the last quarter",
    "memory/cell_start": "root mean square of the LSTM's cell state in the first quarter of the rollout",
    "memory/cell_end": "the same in the last quarter",
    "loss/total": "policy loss - entropy bonus + value loss, weighted",
    "loss/policy": "headwise clipped surrogate, summed over heads",
    "loss/value": "mean squared error of the critic on normalised rewards",
    "loss/entropy_bonus": "entropy bonus before its coefficient",
    "kl/total": "KL of the policy from what it was when the update began, per step, all heads that mattered together",
    "ratio/min": "smallest probability ratio of any head in a minibatch",
    "ratio/max": "largest probability ratio of any head in a minibatch",
    **_per_head("kl", "KL where the head mattered, given the op taken and, for blueprints, the slot"),
    **_per_head("clip_fraction", "share of the steps where it mattered whose ratio was clipped"),
    **_per_head("entropy", "entropy over its valid choices divided by the maximum, where it mattered and had several"),
    **_per_head("entropy_possible", "the same wherever some legal op would have made it matter, 0 with one choice"),
    **_per_head("gradient_norm", "gradient norm of the head's own layers"),
    "gradient_norm/total": "gradient norm of the whole policy before clipping",
    **{f"value_loss/{op}": f"squared error of Q(s, {op}) where it was taken" for op in Op.__members__},
    "value/explained_variance": "1 - Var(target - value) / Var(target), the denominator floored at 0.01",
    "value/nrmse": "root mean squared error of the critic over the targets' standard deviation, floored alike",
    "update/learning_rate": "learning rate of this update",
    "update/entropy_coefficient": "weight of the entropy bonus in this update",
    "update/steps": "optimizer steps of this update",
    "update/stopped": "1 when the KL stopped the update early",
    "update/last_kl": "KL before the last minibatch",
    "update/skipped": "share of the optimizer steps skipped because something was not finite",
    "speed/steps_per_second": "environment steps per second of wall time, all included",
    "speed/env": "share of the time spent in the environment",
    "speed/policy": "share of the time spent acting",
    "speed/learning": "share of the time spent learning",
    "evaluation/objective_return": "mean objective return on the seeds that choose the best checkpoint, actions drawn",
    "evaluation/committed_test_accuracy": "mean committed test accuracy on them",
}
"""Every metric and its meaning; names with `<…>` stand for a family."""

EPISODE_SUMS = (
    "committed_accuracy",
    "seeds_created",
    "seeds_fossilized",
    "contributing_fossilized",
    "seeds_pruned",
    "seed_params",
)


def rollout_metrics(rollout: TensorDictBase) -> Metrics:
    """Reduce a rollout `[envs, time]` to numbers; what no episode ended for is left out."""
    after, action = rollout["next"], rollout["action"]
    info, done = after["info"], after["done"].squeeze(-1)
    metrics: Metrics = {"episodes": float(done.sum())}
    if done.any():
        ended = info[done]
        metrics["episode/objective_return"] = _mean(ended["objective_return"])
        metrics["episode/discounted_return"] = _mean(ended["discounted_return"])
        reported = ended["test_accuracy"] >= 0  # an episode that was cut short has no final report
        if reported.any():
            metrics["episode/committed_test_accuracy"] = _mean(ended["test_accuracy"][reported])
        metrics |= {f"episode/{name}": _mean(ended[name]) for name in EPISODE_SUMS}
        metrics["episode/rollbacks"] = float(info["rolled_back"].sum() / done.sum())
    terms = info["reward_terms"]
    metrics |= {f"reward/{name}": float(terms[name].sum(1).mean()) for name in terms.keys()}  # noqa: SIM118
    op = action[..., HEAD_INDEX["op"]]
    metrics |= {f"op/{member.name}": float((op == member).float().mean()) for member in Op}
    metrics["action_executed"] = _mean(info["action_executed"])
    if "hindsight" in terms.keys():  # noqa: SIM118
        fossilized = (op == Op.FOSSILIZE) & info["action_executed"].squeeze(-1)
        paid = terms["hindsight"].squeeze(-1)
        metrics["hindsight/largest"] = float(paid.max())
        if fossilized.any():
            metrics["hindsight/share"] = float((paid[fossilized] > 0).float().mean())
    for name, key in (("hidden", "recurrent_state_h"), ("cell", "recurrent_state_c")):
        state = rollout.get(key)
        if state is not None:
            quarter = max(1, rollout.shape[1] // 4)
            metrics[f"memory/{name}_start"] = _rms(state[:, :quarter])
            metrics[f"memory/{name}_end"] = _rms(state[:, -quarter:])
    return metrics


def _mean(x: Tensor) -> float:
    return float(x.float().mean())


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


@dataclass(frozen=True)
class Monitor:
    """A bound on a metric beyond which something is likely wrong."""

    metric: str
    low: float
    high: float
    advice: str


LEAST_ENTROPY = dict.fromkeys(HEAD_NAMES, 0.02) | {"alpha_target": 0.002}
"""A beginner hardly ever blends to less than `FULL`, and is right."""
LEAST_RATIO = 0.01
"""An extreme of thousands of ratios. Where a beginner hardly ever makes a choice, 0.02 to 13 are seen in trainings that
go well, and updates end by the KL."""
FAR = "the policy moves too far in one update: lower the learning rate or epochs"

MONITORS = (
    *(
        Monitor(f"entropy/{head}", least, math.inf, "the head has stopped exploring: raise its entropy weight")
        for head, least in LEAST_ENTROPY.items()
    ),
    Monitor("ratio/min", LEAST_RATIO, math.inf, FAR),
    Monitor("ratio/max", 0.0, 1 / LEAST_RATIO, FAR),
    Monitor("op/WAIT", 0.0, 0.98, "the policy only waits: look at the reward terms, or raise the entropy of `op`"),
    Monitor("memory/hidden_end", 0.0, 0.9, "the LSTM is saturated: its inputs may be too large"),
)


def warnings(metrics: Mapping[str, float]) -> list[str]:
    """What the monitors have to say about these metrics, each with the value that it speaks of."""
    return [
        f"{m.metric} is {metrics[m.metric]:.3g}, outside {m.low:g} to {m.high:g}: {m.advice}"
        for m in MONITORS
        if m.metric in metrics and not math.isnan(metrics[m.metric]) and not m.low <= metrics[m.metric] <= m.high
    ]


def glossary() -> str:
    """The table of metrics as a page."""
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in METRICS.items())
    monitors = "\n".join(f"| `{m.metric}` | {m.low:g} to {m.high:g} | {m.advice} |" for m in MONITORS)
    return (
        "# Metrics\n\nOne row of a run's `metrics.csv` per update. A metric that says nothing in an update is empty."
        f"\n\n| metric | meaning |\n|---|---|\n{rows}\n\n## Monitors\n\nA warning is printed when a metric leaves its "
        f"range.\n\n| metric | range | what it means |\n|---|---|---|\n{monitors}\n"
    )


def unknown(metrics: Mapping[str, float]) -> list[str]:
    """Names that the table does not explain."""
    families = tuple(name.split("<")[0] for name in METRICS if "<" in name)
    return [name for name in metrics if name not in METRICS and not name.startswith(families)]
