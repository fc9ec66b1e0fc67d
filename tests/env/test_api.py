"""SeedEnv is a Gymnasium environment: made, checked, copied and carried to other processes like any other."""

import functools
import json
import multiprocessing
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from torch.nn import functional

import esper_env
from esper_env.actions import CANONICAL_ACTION, HEAD_NAMES, Op, Style
from esper_env.info import INFO
from esper_env.registration import IDS, register_ids
from esper_env.tasks import find_task
from tests.conftest import BRIEF, HASTY, action, random_actions

ID = "esper_env:Esper-Seed-v0"
SHORT = {"max_epochs": 6, "training": BRIEF, "lifecycle": HASTY}


def make(**options):
    return gym.make(ID, **(SHORT | options))


def same(a, b):
    return data_equivalence(a, b, exact=True)


@pytest.fixture(scope="module")
def worker():
    """A process that knows nothing of this package."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_checker_finds_nothing_to_say(name):
    check_env(gym.make(name, **SHORT).unwrapped)


def test_a_spec_survives_json_and_makes_the_same_environment():
    env = make(task="shapes", reward={"mode": "objective", "rent": 0.5}, blueprints=["norm"], max_episode_steps=4)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.config == env.unwrapped.config
    assert again.spec.to_json() == env.spec.to_json()
    assert same(env.reset(seed=1), again.reset(seed=1))


def test_registering_again_changes_nothing():
    before = {name: gym.registry[name] for name in IDS}
    register_ids()
    assert all(gym.registry[name] is spec for name, spec in before.items())


def test_max_episode_steps_truncates():
    env = make(max_episode_steps=2)
    env.reset(seed=1)
    ends = [env.step(CANONICAL_ACTION)[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]
    assert env.unwrapped.get_state()["simulation"]["counters"].test_accuracy == -1


def test_a_made_environment_continues_bit_for_bit_after_pickling():
    env = make()
    env.reset(seed=1)
    env.action_space.seed(3)
    env.step(action(Op.GERMINATE, 1, "conv_light"))
    copied = pickle.loads(pickle.dumps(env))
    for _ in range(9):
        chosen = env.action_space.sample()
        np.testing.assert_array_equal(chosen, copied.action_space.sample())
        outcome = env.step(chosen)
        assert same(outcome, copied.step(chosen))
        if outcome[2]:
            assert same(env.reset(), copied.reset())
    assert copied.np_random_seed == env.np_random_seed == 1
    assert copied.unwrapped.spec == env.unwrapped.spec


def test_a_spawned_worker_makes_it_by_name_and_plays_the_same_bits(worker):
    env = worker.apply(gym.make, (ID,), SHORT).unwrapped
    assert same(env.reset(seed=2), make().reset(seed=2))
    env.step(action(Op.GERMINATE, 0, "depthwise"))
    for _ in range(3):
        there = worker.apply(env.step, (action(Op.ADVANCE),))
        assert same(env.step(action(Op.ADVANCE)), there)


def test_spawned_vector_environments_make_it_by_name():
    envs = gym.vector.AsyncVectorEnv([functools.partial(gym.make, ID, **SHORT)], context="spawn")
    observation, _ = envs.reset(seed=5)
    after, reward, *_ = envs.step(CANONICAL_ACTION[None])
    env = make()
    assert same({name: array[0] for name, array in observation.items()}, env.reset(seed=5)[0])
    expected = env.step(CANONICAL_ACTION)
    assert same({name: array[0] for name, array in after.items()}, expected[0])
    assert reward[0] == expected[1]
    envs.close()


def test_tables_are_importable_without_torch():
    code = "import sys, esper_env as e; e.ACTION_HEADS, e.FEATURES, e.Stage, e.Op; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reset_without_a_seed_goes_on_from_the_seeded_one():
    runs = []
    for env in (make(), make()):
        first = env.reset(seed=4)
        runs.append((first, env.reset(), env.reset()))
    assert same(*runs)
    assert not same(runs[0][0], runs[0][1])
    assert not same(runs[0][1], runs[0][2])


def test_an_unseeded_environment_is_not_always_the_same():
    assert not same(make().reset(), make().reset())


def test_info_is_the_table_and_its_types_never_change():
    env = make()
    start = env.reset(seed=0)[1]
    assert [*start] == [*INFO, "reward_terms", "action_mask"]
    generator = np.random.default_rng(0)
    for _ in range(6):
        info = env.step(random_actions(env.unwrapped._simulation, [generator])[0])[4]
        assert [*info] == [*start]
        for name in INFO:
            assert type(info[name]) is type(start[name])
            assert np.asarray(info[name]).dtype == np.asarray(start[name]).dtype
            assert np.shape(info[name]) == np.shape(start[name])
    plain = {name: value for name, value in info.items() if not isinstance(value, (np.ndarray, tuple))}
    assert json.loads(json.dumps(plain)) == plain


def test_samples_under_the_mask_are_valid_in_every_head():
    env = make()
    env.action_space.seed(0)
    info = env.reset(seed=0)[1]
    for _ in range(6):
        chosen = env.action_space.sample(mask=info["action_mask"])
        valid = [mask[choice] for mask, choice in zip(info["action_mask"], chosen, strict=True)]
        assert all(valid), dict(zip(HEAD_NAMES, valid, strict=True))
        info = env.step(chosen)[4]


def test_masks_are_found_through_wrappers():
    env = make(max_episode_steps=3)
    observation, _ = env.reset(seed=0)
    masks = env.get_wrapper_attr("action_masks")()
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks, observation["action_mask"])


def grown(*styles, **options):
    """An environment with a fossil of every style."""
    env = make(max_epochs=30, **options).unwrapped
    env.reset(seed=3)
    for op in (Op.GERMINATE, Op.ADVANCE, Op.ADVANCE):
        for slot, style in enumerate(styles):
            env.step(action(op, slot, ("conv_light", "attention", "bottleneck")[slot], style))
    while not all(stage == esper_env.Stage.FOSSILIZED for stage in env.get_state()["simulation"]["slots"].stage[0]):
        legal = env._simulation.legality()[0]
        op, slot = next((op, s) for op in (Op.FOSSILIZE, Op.ADVANCE, Op.WAIT) for s in np.flatnonzero(legal[op]))
        info = env.step(action(op, slot))[4]
    return env, info


@pytest.fixture(scope="module")
def finished():
    return grown(Style.LINEAR_ADD, Style.LINEAR_MULTIPLY, Style.GATED_GATE)


def validation():
    split, count = find_task("digits").source.load(None).val, BRIEF["val_samples"]
    return torch.from_numpy(split.inputs[:count]).permute(0, 3, 1, 2), torch.from_numpy(split.labels[:count])


def percent_right(network):
    images, labels = validation()
    with torch.no_grad():
        return 100 * float((network(images).argmax(1) == labels).double().mean())


def test_the_exported_network_is_as_good_as_the_committed_one(finished):
    env, info = finished
    assert info["seeds_fossilized"] == 3
    assert percent_right(env.export_host()) == pytest.approx(info["committed_accuracy"])


def test_the_exported_network_is_the_committed_one_in_its_loss_too(finished):
    env, _ = finished
    simulation, (images, labels) = env._simulation, validation()
    everyone, all_slots = np.ones(1, bool), np.array([[0b111]])
    alpha, algorithm = simulation.alpha(), simulation.slots.algorithm
    assert set(algorithm[0]) == {0, 1, 2}
    loss, _, _ = simulation.population.evaluate(everyone, all_slots, alpha, algorithm)
    with torch.no_grad():
        found = functional.cross_entropy(env.export_host()(images), labels)
    assert found.item() == pytest.approx(loss.item(), rel=1e-5)


def test_live_seeds_are_not_exported():
    env = make(max_epochs=20).unwrapped
    env.reset(seed=3)
    for op in (Op.GERMINATE, Op.ADVANCE, Op.ADVANCE, Op.WAIT, Op.WAIT):
        info = env.step(action(op, 0, "conv_heavy", Style.LINEAR_ADD))[4]
    assert info["alpha"][0] > 0
    assert percent_right(env.export_host()) == pytest.approx(info["committed_accuracy"])


def test_the_exported_network_is_saved_and_loaded_like_any_module(finished, tmp_path):
    network = finished[0].export_host()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    torch.save(network, tmp_path / "network.pt")
    images, _ = validation()
    empty = finished[0].export_host()
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.zero_()
    empty.load_state_dict(torch.load(tmp_path / "weights.pt"))
    whole = torch.load(tmp_path / "network.pt", weights_only=False)
    for again in (empty, whole):
        torch.testing.assert_close(again(images), network(images), atol=0, rtol=0)


def test_the_exported_network_trains_on_and_leaves_the_environment_alone(finished):
    env, info = finished
    network, (images, labels) = env.export_host(), validation()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    losses = []
    for _ in range(20):
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(not torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    assert percent_right(env.export_host()) == pytest.approx(info["committed_accuracy"])
