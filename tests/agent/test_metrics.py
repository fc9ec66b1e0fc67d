import math
from pathlib import Path

import pytest
import torch

from esper_agent.metrics import METRICS, MONITORS, glossary, rollout_metrics, unknown, warnings
from esper_agent.train import Training
from esper_env.actions import Op
from esper_env.info import INFO
from esper_env.reward import REWARDS
from tests.agent.test_train import ENV, tiny

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """A rollout, and the metrics of an update with everything switched on."""
    training = Training(tiny(tmp_path_factory.mktemp("run"), evaluation_interval=1))
    training.open(resume=False)
    rollout = training.rollouts.collect()
    metrics = training.update()
    training.close()
    return rollout, metrics


def test_every_metric_of_an_update_is_explained(collected):
    assert unknown(collected[1]) == []
    assert unknown({"made/up": 1.0, "loss/total": 1.0}) == ["made/up"]


@pytest.mark.parametrize("mode", REWARDS)
def test_the_terms_of_every_reward_are_explained(tmp_path, mode):
    training = Training(tiny(tmp_path, env={**ENV, "reward": mode}))
    metrics = rollout_metrics(training.rollouts.collect())
    training.close()
    assert unknown(metrics) == []


def test_every_explained_metric_exists(collected):
    seldom = {"hindsight/share"} | {f"value_loss/{op}" for op in Op.__members__}
    families = {"reward/<term>", "op/<OP>"}
    assert set(METRICS) - set(collected[1]) - families <= seldom


def test_the_page_of_metrics_is_current():
    assert PAGE.read_text() == glossary(), "write esper_agent.metrics.glossary() into docs/metrics.md"


def test_a_rollout_is_reduced_to_what_happened_in_it(collected):
    rollout, _ = collected
    metrics, info, done = rollout_metrics(rollout), rollout["next", "info"], rollout["next", "done"].squeeze(-1)
    assert metrics["episodes"] == 8 == int(done.sum())
    assert set(info.keys()) >= set(INFO) - {"action_mask"}
    objective = info["objective_reward"].squeeze(-1).sum(1).mean()
    assert metrics["episode/objective_return"] == pytest.approx(float(objective), abs=1e-5)
    assert metrics["episode/committed_test_accuracy"] == float(info["test_accuracy"][done].mean())
    assert metrics["action_executed"] == 1.0
    assert sum(metrics[f"op/{op.name}"] for op in Op) == pytest.approx(1.0)
    reward = rollout["next", "reward"].sum() / 8
    assert sum(v for name, v in metrics.items() if name.startswith("reward/")) == pytest.approx(float(reward), abs=1e-4)


def test_a_rollout_without_an_end_says_nothing_about_episodes(collected):
    rollout = collected[0][:, :3]
    metrics = rollout_metrics(rollout)
    assert metrics["episodes"] == 0
    assert not [name for name in metrics if name.startswith("episode/")]


def test_hindsight_is_a_share_of_the_fossilizations_that_happened(collected):
    rollout = collected[0].clone()
    rollout["action"][..., -1] = Op.WAIT
    assert "hindsight/share" not in rollout_metrics(rollout)
    rollout["action"][0, :2, -1] = Op.FOSSILIZE
    rollout["next", "info", "action_executed"][0] = True
    hindsight = torch.zeros_like(rollout["next", "reward"])
    hindsight[0, 1] = 0.2
    rollout["next", "info", "reward_terms", "hindsight"] = hindsight
    metrics = rollout_metrics(rollout)
    assert metrics["hindsight/share"] == 0.5
    assert metrics["hindsight/largest"] == pytest.approx(0.2)


@pytest.mark.parametrize("monitor", MONITORS, ids=lambda monitor: monitor.metric)
def test_a_monitor_warns_with_the_value_outside_its_range_only(monitor):
    assert monitor.metric in METRICS or monitor.metric.startswith("op/")
    inside = monitor.high if math.isfinite(monitor.high) else monitor.low
    assert warnings({monitor.metric: inside}) == []
    outside = 1.2345 * monitor.high if math.isfinite(monitor.high) else 0.12345 * monitor.low
    (said,) = warnings({monitor.metric: outside})
    assert said.startswith(f"{monitor.metric} is {outside:.3g}, outside ")
    assert monitor.advice in said


def test_nothing_measured_is_nothing_to_warn_of():
    assert warnings({}) == []
    assert warnings({"entropy/op": math.nan}) == []
