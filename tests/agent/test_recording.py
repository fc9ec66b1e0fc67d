import numpy as np
import pytest
import torch

from esper_agent import create_policy
from esper_agent.evaluate import evaluate, evaluate_named, held_out_seeds
from esper_agent.recording import INFO, Recorder, choose
from esper_env import SeedVectorEnv
from esper_env.actions import ACTION_HEADS, CAUSAL_MASK, HEAD_INDEX, Op
from tests.conftest import HASTY

OPTIONS = {
    "task": "digits",
    "max_epochs": 14,
    "training": {"batches_per_epoch": 2, "val_samples": 64},
    "lifecycle": HASTY,
}
SEEDS = held_out_seeds(4)
UNIT = 2.5


@pytest.fixture(scope="module")
def judged():
    """Rows and recordings of an untrained policy that draws, so that much happens."""
    policy = create_policy("lstm", SeedVectorEnv(**OPTIONS), seed=3, width=16, head_width=8)
    recorder = Recorder(UNIT)
    rows = evaluate(policy, OPTIONS, SEEDS, agent="lstm", observer=recorder)
    return policy, rows, recorder.recordings


@pytest.fixture(scope="module")
def drawn():
    """Rows and recordings of the policy that draws uniformly."""
    recorder = Recorder()
    rows = evaluate_named(["random", "schedule"], OPTIONS, SEEDS, observer=recorder)
    return rows, recorder.recordings


def test_a_recording_is_the_row_of_the_evaluation(judged, drawn):
    for rows, recordings in (judged[1:], drawn):
        assert len(rows) == len(recordings)
        for row, recording in zip(rows, recordings, strict=True):
            assert (recording.agent, recording.seed) == (row.agent, row.evaluation_seed)
            assert recording.objective_return == pytest.approx(row.objective_return, abs=1e-9)
            assert recording.states["test_accuracy"][-1] == row.committed_test_accuracy
            assert recording.steps == row.env_steps == 14


def test_watching_changes_nothing(judged):
    policy, *_ = judged
    policy.seed(0)
    first = evaluate(policy, OPTIONS, SEEDS, agent="lstm")
    policy.seed(0)
    assert evaluate(policy, OPTIONS, SEEDS, agent="lstm", observer=Recorder()) == first


def test_the_recorded_actions_played_again_give_the_recorded_states_and_rewards(judged, drawn):
    for recordings in (judged[2], drawn[1][:4], drawn[1][4:]):
        env = SeedVectorEnv(4, **OPTIONS)
        observation, info = env.reset(seed=list(SEEDS))
        for epoch in range(15):
            for i, recording in enumerate(recordings):
                for name in INFO:
                    np.testing.assert_array_equal(recording.states[name][epoch], info[name][i], name)
                np.testing.assert_array_equal(
                    recording.states["blueprint_index"][epoch], observation["blueprint_index"][i]
                )
            if epoch == 14:
                break
            observation, reward, _, _, info = env.step(np.stack([recording.action[epoch] for recording in recordings]))
            for i, recording in enumerate(recordings):
                assert sum(term[epoch] for term in recording.terms.values()) == pytest.approx(reward[i], abs=1e-12)
        env.close()


def test_the_scores_of_coalitions_agree_with_what_else_is_told(judged, drawn):
    several = 0
    for recording in [*judged[2], *drawn[1]]:
        scores, stages = recording.states["coalition_score"], recording.states["stage"]
        np.testing.assert_array_equal(scores[:, -1], recording.states["score"])
        fossils = (stages == 6) @ (1, 2, 4)
        np.testing.assert_array_equal(
            scores[np.arange(15), fossils], recording.states["committed_accuracy"], "committed"
        )
        np.testing.assert_allclose(recording.states["shapley"].sum(1), scores[:, -1] - scores[:, 0], atol=1e-9)
        several += (np.isin(stages, (4, 5, 6)).sum(1) > 1).sum()
    assert several > 10


def test_probabilities_are_those_of_the_logits_for_the_slot_under_the_masks_and_sum_to_1(judged):
    policy, _, recordings = judged
    env = SeedVectorEnv(4, **OPTIONS)
    observation, _ = env.reset(seed=list(SEEDS))
    state = policy.initial_state(4)
    ends = np.cumsum(env.single_action_space.nvec)
    for epoch in range(14):
        inputs = [torch.from_numpy(observation[name]) for name in ("features", "blueprint_index")]
        begins = torch.full((4,), epoch == 0)
        with torch.no_grad():
            logits, values, memory = policy.network(*inputs, begins, *(state[key] for key in policy.state_keys))
        state.update(dict(zip(policy.state_keys, memory, strict=True)))
        for i, recording in enumerate(recordings):
            slot, op = recording.action[epoch, [HEAD_INDEX["slot"], HEAD_INDEX["op"]]]
            for head, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                legal = observation["action_mask"][i, start:end] == 1
                if ACTION_HEADS[head].name == "slot":
                    legal = observation["slot_by_op"][i].reshape(len(Op), 3)[op] == 1
                raw = logits[i, start:end].double().numpy()
                if ACTION_HEADS[head].name == "blueprint":
                    raw = raw + logits[i, ends[-1] :].reshape(3, -1)[slot].numpy()
                weights = np.exp(raw) * legal
                told = recording.probabilities[epoch, head, : end - start]
                np.testing.assert_array_equal(np.isnan(told), ~legal)
                np.testing.assert_allclose(told[legal], (weights / weights.sum())[legal], rtol=1e-4)
                assert np.isnan(recording.probabilities[epoch, head, end - start :]).all()
                if CAUSAL_MASK[op, head]:
                    assert told[recording.action[epoch, head]] > 0
            np.testing.assert_allclose(recording.values[epoch], UNIT * values[i].numpy(), rtol=1e-4, atol=1e-6)
        observation, *_ = env.step(np.stack([recording.action[epoch] for recording in recordings]))
    env.close()


def test_a_critic_of_states_has_one_value_and_a_script_none(drawn):
    spec = SeedVectorEnv(**OPTIONS)
    policy = create_policy("lstm-v1", spec, seed=0, width=16, head_width=8)
    recorder = Recorder()
    evaluate(policy, OPTIONS, SEEDS[:2], agent="lstm-v1", observer=recorder)
    assert [recording.values.shape for recording in recorder.recordings] == [(14, 1)] * 2
    assert all(recording.values is recording.probabilities is None for recording in drawn[1])


def test_an_episode_that_ended_early_is_recorded_to_its_end_and_no_further():
    training = {"batches_per_epoch": 2, "val_samples": 64, "host_lr": 1e4}
    options = OPTIONS | {"on_panic": "terminate", "training": training}
    recorder = Recorder()
    rows = evaluate_named(["random"], options, held_out_seeds(8), observer=recorder)
    lengths = {row.evaluation_seed: row.env_steps for row in rows}
    assert min(lengths.values()) < 14
    assert {recording.seed: recording.steps for recording in recorder.recordings} == lengths
    assert all(len(recording.states["stage"]) == recording.steps + 1 for recording in recorder.recordings)


def test_the_best_the_worst_and_some_between_are_chosen(drawn):
    recordings = drawn[1]
    ranked = sorted((recording.objective_return for recording in recordings), reverse=True)
    chosen = choose(recordings, 3)
    assert list(chosen) == [1, 4, 8] or list(chosen) == [1, 5, 8]
    assert [recording.objective_return for recording in chosen.values()] == [ranked[place - 1] for place in chosen]
    assert list(choose(recordings, 1)) == [1]
    assert list(choose(recordings, 99)) == [*range(1, 9)]
    assert choose(recordings, 0) == choose([], 4) == {}
