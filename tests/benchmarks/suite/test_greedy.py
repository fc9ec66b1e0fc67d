from contextlib import closing

import numpy as np

from benchmarks.suite.greedy import PLANTED, candidates, finishing, plan, play_greedily
from benchmarks.suite.playing import replay
from esper_env.actions import HEAD_INDEX, Op, blueprint_names
from esper_env.lifecycle.stages import Stage
from esper_env.testing import legal_slots
from esper_env.vector_env import SeedVectorEnv
from tests.benchmarks.suite.tiny import ENV
from tests.conftest import action

DIGITS = {"task": "digits", **ENV}
OP, SLOT, BLUEPRINT = (HEAD_INDEX[name] for name in ("op", "slot", "blueprint"))
GROWN = [Op.GERMINATE, Op.ADVANCE, Op.ADVANCE, Op.WAIT, Op.WAIT, Op.ADVANCE]
"""A seed in HOLDING, after the shortest of ramps."""


def played(*ops, envs=2):
    env = SeedVectorEnv(envs, **DIGITS | {"max_epochs": 8}, autoreset_mode="disabled")
    observation, info = env.reset(seed=1)
    for op in ops:
        observation, _, _, _, info = env.step(np.array([action(op, 0, "conv_light")] * envs))
    return observation, info


def test_every_candidate_can_be_carried_out():
    for length in range(len(GROWN) + 1):
        observation, info = played(*GROWN[:length])
        legal = legal_slots(observation)
        for choice in candidates(observation, info):
            for env in range(2):
                assert choice[env, OP] == Op.WAIT or legal[env, choice[env, OP], choice[env, SLOT]]


def test_it_plants_in_the_first_and_last_free_slot_and_prunes_what_holds():
    observation, info = played()
    tried = {(c[0, OP], c[0, SLOT], blueprint_names()[c[0, BLUEPRINT]]) for c in candidates(observation, info)}
    assert tried == {(Op.WAIT, 0, "noop"), *((Op.GERMINATE, slot, name) for slot in (0, 2) for name in PLANTED)}
    observation, info = played(*GROWN)
    assert (info["stage"][:, 0] == Stage.HOLDING).all()
    assert candidates(observation, info)[-1][:, OP].tolist() == [Op.PRUNE] * 2


def test_what_hurts_is_not_made_permanent():
    observation, info = played(*GROWN)
    info["shapley"] = np.array([[2.0, 0, 0], [-2.0, 0, 0]])
    assert finishing(observation, info)[:, OP].tolist() == [Op.FOSSILIZE, Op.WAIT]


def test_a_plan_does_not_depend_on_what_is_planned_beside_it():
    together, alone = plan(DIGITS, [1, 2, 3], every=2, horizon=2), plan(DIGITS, [2], every=2, horizon=2)
    np.testing.assert_array_equal(together.actions[1], alone.actions[0])
    assert (together.flops[1], together.steps[1]) == (alone.flops[0], alone.steps[0])


def test_what_forks_cost_is_added_to_what_the_episode_costs():
    rows = play_greedily(DIGITS, [1, 2], agent="greedy", every=3, horizon=2)
    bare = replay(rows.actions, DIGITS, [1, 2], agent="greedy")
    planned = plan(DIGITS, [1, 2], every=3, horizon=2)
    for row, own, flops, steps in zip(rows.episodes, bare, planned.flops, planned.steps, strict=True):
        assert row.flops == own.flops + flops > own.flops
        assert row.env_steps == own.env_steps + steps
        assert row.objective_return == own.objective_return
    # Two decisions of five or six candidates, two epochs each.
    assert all(2 * 2 * 2 <= steps <= 2 * 6 * 2 for steps in planned.steps)


def test_a_plan_takes_what_pays_best_when_every_candidate_is_played_from_the_beginning_without_forks():
    seeds, epochs, horizon = [1, 2], 12, 5
    options = DIGITS | {"max_epochs": epochs, "reward": {"rent": 0.5}}  # the rent to come decides against one planting
    found = plan(options, seeds, every=4, horizon=horizon)
    spent, steps, led = np.zeros(2), np.zeros(2, int), set()
    for epoch in range(0, epochs, 4):
        past, ahead = found.actions[:, :epoch].swapaxes(0, 1), min(horizon, epochs - epoch)
        choices = after(options, seeds, past, candidates, 0)
        ends = [after(options, seeds, past, lambda *seen, choice=choice: choice, ahead) for choice in choices]
        for env in range(2):
            tried = [i for i, choice in enumerate(choices) if i == 0 or (choice[env] != choices[0][env]).any()]
            best = max(tried, key=lambda i: ends[i][0][env])
            np.testing.assert_array_equal(found.actions[env, epoch], choices[best][env])
            if len(tried) > 1:
                spent[env] += sum(ends[i][1][env] for i in tried)
                steps[env] += ahead * len(tried)
            led.add(best)
    np.testing.assert_allclose(found.flops, spent)
    np.testing.assert_array_equal(found.steps, steps)
    assert len(led) > 1


def after(options, seeds, past, choose, ahead):
    """What is chosen after the past; or, some epochs later, what that and finishing were worth and cost in FLOPs."""
    with closing(SeedVectorEnv(2, **options, autoreset_mode="disabled")) as env:
        observation, info = env.reset(seed=seeds)
        for taken in past:
            observation, _, _, _, info = env.step(taken)
        chosen, paid, begun = choose(observation, info), np.zeros(2), info["flops"].copy()
        if not ahead:
            return chosen
        for _ in range(ahead):
            observation, _, _, _, info = env.step(chosen)
            chosen, paid = finishing(observation, info), paid + info["objective_reward"]
    rent = 0.5 / env.config.max_epochs / 3_108  # of a parameter in an epoch; three conv_light together have 3,108
    left = env.config.max_epochs - len(past) - ahead
    return paid - rent * left * info["seed_params"], info["flops"] - begun
