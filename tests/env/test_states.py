"""States are complete: from wherever they are taken, the future is the same bit for bit."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from esper_env import actions
from esper_env.actions import Op
from esper_env.env import SeedEnv
from esper_env.lifecycle.stages import Stage
from esper_env.scaffolding import Ledger
from esper_env.simulation import Simulation
from esper_env.states import StateError
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import BRIEF_FEW, HASTY, action, random_actions, write_cifar

OPTIONS = {"max_epochs": 9, "training": {"batches_per_epoch": 2, "val_samples": 64}, "lifecycle": HASTY}
WAIT, PLANT = action(), action(Op.GERMINATE, 0, "conv_light")
ALL_STAGES = {stage for stage in Stage if stage != Stage.UNKNOWN}


def same(a, b):
    return data_equivalence(a, b, exact=True)


@pytest.mark.parametrize("task", ["digits", "shapes"])
def test_a_single_environment_continues_from_states_forks_and_pickles(task):
    env, other = SeedEnv(task=task, **OPTIONS | {"max_epochs": 30}), SeedEnv(task=task, **OPTIONS | {"max_epochs": 30})
    env.reset(seed=1)
    generator, met = np.random.default_rng(6), set()
    for epoch in range(30):
        met |= set(env.get_state()["simulation"]["slots"].stage[0].tolist())
        chosen = random_actions(env._simulation, [generator])[0]
        state = env.get_state()
        if epoch % 3 == 0:
            other.set_state(state)
        elif epoch % 3 == 1:
            other = env.fork()
        else:
            other = pickle.loads(pickle.dumps(env))
        outcome = env.step(chosen)
        assert same(outcome, other.step(chosen))
        env.set_state(state)
        assert same(outcome, env.step(chosen))
    assert met == ALL_STAGES
    assert same(env.reset(), other.reset())


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_vector_environment_continues_from_states_forks_and_pickles(mode):
    envs = SeedVectorEnv(4, chunk=2, threads=2, autoreset_mode=mode, **OPTIONS | {"max_epochs": 18})
    envs.reset(seed=1)
    # Out of step, so that episodes end one by one.
    envs.step(np.zeros((4, 8), int))
    envs.reset(options={"reset_mask": np.array([True, False, False, True])})
    other = envs.fork()
    generators = [np.random.default_rng(i) for i in range(4)]
    met = set()
    for epoch in range(30):
        met |= set(envs.get_state()["simulation"]["slots"].stage.ravel().tolist())
        chosen = random_actions(envs._simulation, generators)
        if epoch % 4 == 0:
            other.set_state(envs.get_state())
        elif epoch % 4 == 1:
            other.close()
            other = envs.fork()
        elif epoch % 4 == 2:
            other.close()
            other = pickle.loads(pickle.dumps(envs))
        assert same(envs.step(chosen), other.step(chosen))
    assert met == ALL_STAGES
    assert same(envs.reset(), other.reset())
    envs.close()
    other.close()


def test_a_fork_tells_of_the_hosts_that_a_partial_reset_leaves_alone_what_its_origin_tells():
    envs = SeedVectorEnv(3, autoreset_mode="disabled", **OPTIONS)
    envs.reset(seed=1)
    envs.step(np.zeros((3, 8), int))
    fork, mask = envs.fork(), {"reset_mask": np.array([False, True, False])}
    assert same(envs.reset(seed=[None, 5, None], options=mask), fork.reset(seed=[None, 5, None], options=mask))


def test_a_state_does_not_move_on_with_the_environment_it_came_from():
    env = single()
    state = env.get_state()
    outcomes = []
    for _ in range(2):
        outcomes.append([env.step(PLANT), env.step(WAIT)])
        env.set_state(state)
    assert same(*outcomes)


def test_a_fork_goes_its_own_way():
    env, undisturbed = single(), single()
    env.fork().step(PLANT)
    assert same(env.step(WAIT), undisturbed.step(WAIT))


def test_a_fork_of_a_made_environment_keeps_its_spec():
    env = gym.make("Esper-Seed-v0", **OPTIONS).unwrapped
    assert env.fork().spec is env.spec


def test_states_before_the_first_reset_and_after_the_end_are_states_too():
    env, other = SeedEnv(**OPTIONS | {"max_epochs": 1}), SeedEnv(**OPTIONS | {"max_epochs": 1})
    other.set_state(env.get_state())
    with pytest.raises(gym.error.ResetNeeded, match="No episode has begun"):
        other.step(WAIT)
    env.reset(seed=1)
    env.step(WAIT)
    other.set_state(env.get_state())
    with pytest.raises(gym.error.ResetNeeded, match="over"):
        other.step(WAIT)
    assert same(env.reset(), other.reset())


def single(**options):
    env = SeedEnv(**OPTIONS | options)
    env.reset(seed=1)
    return env


def several(count=2, **options):
    envs = SeedVectorEnv(count, **OPTIONS | options)
    envs.reset(seed=1)
    return envs


def test_a_state_goes_on_where_the_same_data_is_kept_elsewhere(tmp_path):
    write_cifar(tmp_path)
    options = {"task": "cifar10_impaired", "training": BRIEF_FEW}
    env, other = single(**options), SeedEnv(**OPTIONS | options, data_dir=str(tmp_path), download=True)
    other.set_state(env.get_state())
    assert same(env.step(PLANT), other.step(PLANT))


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lambda: {"weights": 1}, "no state of an Esper environment but a dict"),
        (lambda: None, "no state of an Esper environment but a NoneType"),
        (lambda: b"bytes", "no state of an Esper environment but a bytes"),
        (lambda: single().get_state() | {"version": 0}, "version 0, this package reads version 3"),
        (lambda: single(max_epochs=8).get_state(), "max_epochs: 8 there, 9 here"),
        (lambda: single(reward="sparse").get_state(), "another configuration .*reward"),
        (lambda: single(task="shapes").get_state(), "task: 'shapes' there, 'digits' here"),
        (lambda: several(2).get_state(), "state is of 2 environment"),
        (lambda: several(1).get_state(), "vector environment"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(state, reason):
    env, undisturbed = single(), single()
    with pytest.raises(StateError, match=reason):
        env.set_state(state())
    assert same(env.step(PLANT), undisturbed.step(PLANT))
    assert same(env.reset(), undisturbed.reset())


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lambda: several(3).get_state(), "state is of 3 environment"),
        (lambda: single().get_state(), "state is of 1 environment"),
        (lambda: several(4, chunk=2).get_state(), r"stacks of \[2, 2\], here they are \[4\].*same chunk"),
    ],
)
def test_a_state_of_another_vector_environment_is_refused_and_changes_nothing(state, reason):
    envs, undisturbed = several(4), several(4)
    with pytest.raises(StateError, match=reason):
        envs.set_state(state())
    assert same(envs.step(np.tile(PLANT, (4, 1))), undisturbed.step(np.tile(PLANT, (4, 1))))
    assert same(envs.reset(), undisturbed.reset())


def test_a_vector_environment_of_one_refuses_the_state_of_a_single_one():
    envs = several(1)
    with pytest.raises(StateError, match="vector environment"):
        envs.set_state(single().get_state())


def test_a_state_with_other_blueprints_is_refused(monkeypatch):
    state = single().get_state()
    monkeypatch.setattr(actions, "BLUEPRINTS", [*actions.BLUEPRINTS[:3], *actions.BLUEPRINTS[:2:-1]])
    other = SeedEnv(**OPTIONS)
    with pytest.raises(StateError, match="register the same ones in the same order"):
        other.set_state(state)


@pytest.mark.parametrize("part", ["envs", "config", "blueprints", "simulation", "shell"])
def test_a_state_that_lacks_a_part_is_refused_and_changes_nothing(part):
    env, undisturbed, state = single(), single(), single().get_state()
    del state[part]
    with pytest.raises(StateError, match=f"not whole: it lacks {part}"):
        env.set_state(state)
    state = single().get_state()
    del state["simulation"]["ledger"]
    with pytest.raises(StateError, match="its simulation lacks ledger"):
        env.set_state(state)
    assert same(env.step(PLANT), undisturbed.step(PLANT))


DAMAGE = [
    (place, part)
    for place, parts in {
        (): {"envs": None, "stacks": None, "config": None, "blueprints": None, "simulation": None, "shell": []},
        ("simulation",): {
            "slots": None,
            "signals": {},
            "coalition_score": np.zeros(3),
            "streams": [],
            "networks": None,
            "terms": [],
            "counters": Ledger.start(np.zeros(2), 3),
            "ledger": Ledger.start(np.zeros(3), 3),
        },
        ("shell",): {"_generators": [], "_steps": np.zeros(5), "_over": [False]},
    }.items()
    for part in parts.items()
]


@pytest.mark.parametrize(("place", "part"), DAMAGE, ids=[part[0] for _, part in DAMAGE])
def test_a_state_with_a_damaged_part_is_refused_and_changes_nothing(place, part):
    (name, value), envs, undisturbed, state = part, several(2), several(2), several(2).get_state()
    envs.step(np.tile(PLANT, (2, 1))), undisturbed.step(np.tile(PLANT, (2, 1)))
    holder = state[place[0]] if place else state
    holder[name] = value
    with pytest.raises(StateError, match=f"damaged: its {name} does not fit here"):
        envs.set_state(state)
    assert same(envs.step(np.tile(WAIT, (2, 1))), undisturbed.step(np.tile(WAIT, (2, 1))))
    assert same(envs.reset(), undisturbed.reset())


def test_a_state_with_stacks_of_another_number_is_refused():
    envs, state = several(4, chunk=2), several(4, chunk=2).get_state()
    state["simulation"]["networks"].pop()
    with pytest.raises(StateError, match="its networks does not fit here, it is a list of 1"):
        envs.set_state(state)


def test_a_shell_that_lacks_something_is_not_mistaken_for_that_of_another_kind():
    state = single().get_state()
    del state["shell"]["_np_random"]
    with pytest.raises(StateError, match="not whole: its shell lacks _np_random"):
        single().set_state(state)


def test_a_state_is_looked_at_without_a_copy_of_what_is_there(monkeypatch):
    env, state = single(), single().get_state()
    monkeypatch.setattr(Simulation, "get_state", lambda self: pytest.fail("copied"))
    env.set_state(state)


def test_a_state_without_a_version_is_refused():
    state = single().get_state()
    del state["version"]
    with pytest.raises(StateError, match="version None"):
        single().set_state(state)
