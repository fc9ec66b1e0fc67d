import json
import math
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper_agent.loggers import EpisodesFile, MetricsFile, Services, read_metrics
from esper_agent.train import Training
from esper_env.config import ConfigError
from tests.agent.test_train import ENV, tiny


@pytest.fixture(scope="module")
def rollout(tmp_path_factory):
    """Two and a half episodes of four steps on each of eight hosts."""
    training = Training(tiny(tmp_path_factory.mktemp("run"), rollout_steps=10))
    collected = training.rollouts.collect()
    training.close()
    return collected


def test_rows_keep_the_columns_that_came_first(tmp_path):
    file = MetricsFile(tmp_path / "m.csv")
    file.write({"updates": 1.0, "b": 2.0})
    file.write({"updates": 2.0, "late": 4.0, "b": math.nan})
    file.write({"updates": 3.0})
    assert (tmp_path / "m.csv").read_text().split() == ["updates,b,late", "1.0,2.0,", "2.0,,4.0", "3.0,,"]


def test_a_number_is_read_back_as_it_was(tmp_path):
    file = MetricsFile(tmp_path / "m.csv")
    file.write({"updates": 1.0, "a": 0.1 + 0.2, "b": float("inf")})
    (row,) = read_metrics(tmp_path / "m.csv")
    assert float(row["a"]) == 0.1 + 0.2
    assert float(row["b"]) == float("inf")


def test_a_resumed_file_forgets_the_future_and_goes_on(tmp_path):
    path = tmp_path / "m.csv"
    first = MetricsFile(path)
    for update in (1.0, 2.0, 3.0):
        first.write({"updates": update, "a": 10 * update})
    with path.open("a") as file:
        file.write("1")  # the process was killed here
    resumed = MetricsFile(path)
    resumed.resume(2)
    resumed.write({"updates": 3.0, "a": 31.0, "b": 5.0})
    assert path.read_text().split() == ["updates,a,b", "1.0,10.0,", "2.0,20.0,", "3.0,31.0,5.0"]


def test_a_file_that_begins_anew_is_empty(tmp_path):
    MetricsFile(tmp_path / "m.csv").write({"updates": 1.0, "old": 2.0})
    file = MetricsFile(tmp_path / "m.csv")
    file.resume(0)
    file.write({"updates": 1.0, "new": 3.0})
    assert (tmp_path / "m.csv").read_text().split() == ["updates,new", "1.0,3.0"]


def test_every_whole_episode_is_told_decision_by_decision(tmp_path, rollout):
    EpisodesFile(tmp_path / "e.jsonl").write(rollout, 7)
    episodes = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [(episode["update"], episode["env"]) for episode in episodes] == [(7, env) for env in range(8) for _ in "ab"]
    for number, episode in enumerate(episodes):
        span = (number // 2, slice(4 * (number % 2), 4 * (number % 2) + ENV["max_epochs"]))
        assert episode["action"] == rollout["action"][span].tolist()
        assert episode["stage"] == rollout["next", "info", "stage"][span].tolist()
        assert episode["log_prob"] == pytest.approx(rollout["action_log_prob"][span].numpy(), abs=1e-4)
        assert len(episode["value"]) == len(episode["val_accuracy"]) == len(episode["executed"]) == 4
        objective = rollout["next", "info", "objective_reward"][span].sum()
        assert episode["objective_return"] == pytest.approx(float(objective), abs=1e-4)
        terms = sum(sum(term) for term in episode["reward_terms"].values())
        assert terms == pytest.approx(float(rollout["next", "reward"][span].sum()), abs=2e-3)


def test_episodes_that_cross_the_edges_of_rollouts_are_told_whole(tmp_path):
    training = Training(tiny(tmp_path / "run", rollout_steps=3))
    file, rollouts = EpisodesFile(tmp_path / "e.jsonl"), []
    for update in range(1, 5):
        rollouts.append(training.rollouts.collect())
        file.write(rollouts[-1], update)
    training.close()
    together = torch.cat(rollouts, 1)
    episodes = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [e["update"] for e in episodes if e["env"] == 0] == [2, 3, 4]
    assert len(episodes) == 8 * 3
    for env in range(8):
        mine = [e for e in episodes if e["env"] == env]
        assert [a for e in mine for a in e["action"]] == together["action"][env].tolist()


def test_resumed_episodes_forget_the_future_and_a_line_cut_short(tmp_path, rollout):
    path = tmp_path / "e.jsonl"
    file = EpisodesFile(path)
    file.write(rollout, 1)
    kept = path.read_text()
    file.write(rollout, 2)
    with path.open("a") as more:
        more.write('{"update": 1, "env"')
    EpisodesFile(path).resume(1)
    assert path.read_text() == kept


def test_tensorboard_gets_every_number(tmp_path):
    services = Services(["tensorboard"], tmp_path)
    services.send({"loss/total": 0.5, "nothing": math.nan}, 32)
    services.send({"loss/total": 0.25}, 64)
    services.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss/total"]
    assert [(event.step, event.value) for event in events.Scalars("loss/total")] == [(32, 0.5), (64, 0.25)]


def test_tensorboard_forgets_what_a_resumed_run_lives_again(tmp_path):
    for steps, values in ((0, {32: 0.5, 64: 0.25, 96: 9.0}), (64, {96: 0.125, 128: 0.1})):
        services = Services(["tensorboard"], tmp_path, steps)
        for step, value in values.items():
            services.send({"loss/total": value}, step)
        services.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    got = {event.step: pytest.approx(event.value) for event in events.Scalars("loss/total")}
    assert len(events.Scalars("loss/total")) == 4
    assert got == {32: 0.5, 64: 0.25, 96: 0.125, 128: 0.1}


def test_wandb_gets_every_number_and_one_row_per_update(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs a package that no extra brings: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for _ in range(2):  # a resumed run begins another one beside it
        services = Services(["wandb"], tmp_path)
        services.send({"loss/total": 0.5, "updates": 1.0, "nothing": math.nan}, 32)
        services.send({"loss/total": 0.25, "updates": 2.0}, 64)
        summary = dict(services._loggers["wandb"].experiment.summary)
        services.close()
        assert (summary["loss/total"], summary["updates"], summary["loss/step"]) == (0.25, 2.0, 64)
        assert summary["_step"] == 1
        assert "nothing" not in summary
    assert len(list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))) == 2


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_every_number_and_lets_another_run_begin(tmp_path):
    mlflow = pytest.importorskip("mlflow", "3", reason="needs a package that no extra brings: pip install 'mlflow>=3'")
    for _ in range(2):
        services = Services(["mlflow"], tmp_path)
        services.send({"loss/total": 0.5, "nothing": math.nan}, 32)
        services.send({"loss/total": 0.25}, 64)
        services.close()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tmp_path.name)
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "loss/total")
        assert [(metric.step, metric.value) for metric in history] == [(32, 0.5), (64, 0.25)]
        assert set(run.data.metrics) == {"loss/total"}


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"needs a package that is not here: pip install {name}"):
        Services([name], tmp_path)


def test_an_unknown_logger_is_refused_with_its_nearest_name(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'mlflow'"):
        Services(["mlfow"], tmp_path)
