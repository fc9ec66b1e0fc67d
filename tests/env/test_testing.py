"""The checker passes sound environments and names what is wrong with others; the controls do what they say."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from esper_env import Blueprint, register_blueprint, register_task
from esper_env.actions import BLUEPRINTS, Op
from esper_env.env import SeedEnv
from esper_env.lifecycle.legality import permitted
from esper_env.lifecycle.stages import Stage
from esper_env.lifecycle.transitions import apply_ops
from esper_env.masks import head_slices
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.observation import BASE_FEATURES, SLOT_FEATURES
from esper_env.registration import IDS
from esper_env.tasks import TASKS, find_task
from esper_env.testing import ScriptedGrower, check_seed_env, waiting_twin
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import HASTY, action

TRAINING = {"batches_per_epoch": 1, "val_samples": 48}
SHORT = {"max_epochs": 14, "training": TRAINING, "lifecycle": HASTY}


@pytest.mark.parametrize("name", IDS)
def test_every_registered_environment_keeps_its_promises(name):
    options = SHORT | {"training": TRAINING | {"batch_size": 8}}
    check_seed_env(gym.make(name, **options), steps=20)


@pytest.mark.parametrize(
    "options",
    [
        {"auto_advance": True, "reward": "minimal"},
        {"strict_gates": True, "max_seeds": 1, "blueprints": ["norm", "conv_light"]},
        {"training": TRAINING | {"host_lr": 1e6}, "on_panic": "terminate"},
        {"training": TRAINING | {"host_lr": 1e6}},
        {"counterfactual_interval": 3, "num_slots": 1},
        {"max_seeds": 0},
    ],
)
def test_so_it_does_with_other_options(options):
    check_seed_env(SeedEnv(**SHORT | options), steps=14)


class Shift(Blueprint):
    """A blueprint of somebody else's."""

    name = "shift"

    def init(self, channels, rng):
        return {"shift": np.zeros(channels, np.float32)}

    def delta(self, p, x):
        return x * 0 + p["shift"].reshape(1, -1, 1, 1)


@pytest.fixture
def extended():
    """A task and a blueprint of somebody else's, gone afterwards."""
    register_blueprint(Shift)
    register_task(dataclasses.replace(find_task("digits"), name="mine", batch_size=32))
    yield
    BLUEPRINTS.pop()
    del IMPLEMENTATIONS["shift", "cnn"], TASKS["mine"]


def test_it_checks_tasks_and_blueprints_of_others(extended):
    env = gym.make("esper_env:Esper-Seed-v0", task="mine", blueprints=["shift"], max_episode_steps=9, **SHORT)
    assert env.action_space.nvec[1] == 14
    check_seed_env(env, steps=14)


def broken(method, wrong):
    """An environment that differs in one method: `wrong(env, what it should return)`."""
    real = getattr(SeedEnv, method)

    def replaced(self, *arguments, **keywords):
        return wrong(self, real(self, *arguments, **keywords))

    return type("Broken", (SeedEnv,), {method: replaced})(**SHORT)


def observing(change):
    """An environment whose observation and info are changed by `change(observation, info)`."""

    def wrong(env, told):
        change(*told)
        return told

    return broken("_observe", wrong)


def masking(change):
    """An environment that believes in masks changed by `change(masks)`, wherever it tells them."""
    env = SeedEnv(**SHORT)
    real = env._simulation.masks

    def wrong():
        masks = real()
        change(masks)
        return masks

    env._simulation.masks = wrong
    return env


HEADS = head_slices(3, len(BLUEPRINTS))


def let_alpha_leak(observation, info):
    observation["features"][len(BASE_FEATURES) + [f.name for f in SLOT_FEATURES].index("alpha")] = 0.5
    info["alpha"][0] = 0.5


def count_a_seed_that_came_and_went(observation, info):
    for name in ("seeds_created", "seeds_pruned"):
        info[name] += info["epoch"] > 0


def unmask(observation, info):
    observation["slot_by_op"][...] = 1
    observation["action_mask"][-6:] = 1
    info["action_mask"][-1][:] = 1


def mask_planting(observation, info):
    observation["action_mask"][-6 + Op.GERMINATE] = 0


def fossilize_a_trained_seed(observation, info):
    info["stage"][info["stage"] == Stage.TRAINING] = Stage.FOSSILIZED


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: observing(lambda o, i: o["features"].__setitem__(0, 3)), r"outside its space \(features\)"),
        (lambda: observing(lambda o, i: o.pop("slot_by_op")), r"outside its space \(slot_by_op\)"),
        (lambda: observing(lambda o, i: o["features"].__setitem__(3, 0.5)), "features and info disagree.*accuracy"),
        (lambda: observing(lambda o, i: i.update(note="hello")), "other things than numbers: note"),
        (lambda: observing(lambda o, i: i.update(val_loss=float("nan"))), "not finite: val_loss"),
        (lambda: observing(lambda o, i: i["epoch"] and i.update(extra=1)), "keys, dtypes or shapes .*: extra"),
        (lambda: observing(lambda o, i: i["epoch"] and i.update(epoch=1.0)), "keys, dtypes or shapes .*: epoch"),
        (lambda: observing(lambda o, i: i["reward_terms"].pop("rent")), "its terms add up to"),
        (lambda: observing(lambda o, i: i.update(seeds_created=0)), "seeds created, pruned and present differ"),
        (lambda: observing(lambda o, i: i.update(epoch=0)), "the epoch went from|features and info disagree"),
        (lambda: observing(lambda o, i: i.update(flops=7.0)), "no flops"),
        (lambda: observing(fossilize_a_trained_seed), "features and info disagree.*stage_training"),
        (lambda: observing(mask_planting), "masks of observation and info differ"),
        (lambda: observing(unmask), "action_masks"),
        (lambda: masking(lambda m: m.heads[:, HEADS["style"]].fill(False)), "a head allows nothing"),
        (lambda: masking(lambda m: m.heads[:, HEADS["op"]][:, Op.WAIT].fill(False)), "WAIT is masked"),
        (lambda: masking(lambda m: m.heads[:, HEADS["slot"]][:, 1].fill(False)), "not the union of the legal ops"),
        (lambda: masking(lambda m: m.slot_by_op[:, Op.PRUNE].fill(False)), "a row of slot_by_op allows nothing"),
        (lambda: masking(lambda m: m.slot_by_op[:, Op.WAIT].fill(True)), "does not allow the canonical slot alone"),
        (lambda: masking(lambda m: m.slot_by_op[:, Op.ADVANCE].fill(True)), "does not allow the canonical slot alone"),
        (lambda: observing(lambda o, i: o["blueprint_index"].fill(0)), "blueprint_index is not -1 just where DORMANT"),
        (lambda: observing(lambda o, i: np.putmask(o["blueprint_index"], i["stage"] > 1, 12)), "planted blueprint 12"),
        (lambda: observing(let_alpha_leak), "a seed that is not blended has alpha"),
        (lambda: observing(lambda o, i: i.update(seeds_fossilized=1)), "seeds_fossilized is not 0"),
        (lambda: observing(lambda o, i: i.update(contributing_fossilized=1)), "more fossils contribute than there are"),
        (lambda: observing(lambda o, i: i.update(seed_params=7)), "seed_params without a seed"),
        (lambda: observing(count_a_seed_that_came_and_went), "seeds_created rose by . where . slots did it"),
        (lambda: observing(lambda o, i: i.update(test_accuracy=50.0)), "test_accuracy is not there just at the end"),
        (lambda: broken("action_masks", lambda env, masks: ~masks), r"action_masks\(\) differs"),
        (lambda: broken("step", lambda env, out: (out[0], np.float32(out[1]), *out[2:])), "the reward is"),
        (lambda: broken("step", lambda env, out: (out[0], out[1] + 1, *out[2:])), "its terms add up to"),
        (lambda: broken("step", lambda env, out: (*out[:3], True, out[4])), "truncated by itself"),
        (lambda: broken("step", lambda env, out: (*out[:2], True, *out[3:])), "terminated is True"),
        (
            lambda: broken("step", lambda env, out: (*out[:4], out[4] | {"action_executed": True})),
            "features and info disagree|masked .* was executed",
        ),
        (
            lambda: broken("get_state", lambda env, state: state | {"shell": state["shell"] | {"_running": False}}),
            "over|begun",
        ),
    ],
)
def test_it_names_what_is_wrong(env, message):
    with pytest.raises((AssertionError, gym.error.ResetNeeded), match=message):
        check_seed_env(env(), steps=14)


def test_it_notices_an_illegal_action_that_runs(monkeypatch):
    def lax(legal, op, slot, blueprint, plantable):
        return permitted(legal, op, slot, blueprint, plantable) | (op == Op.ADVANCE)

    monkeypatch.setattr("esper_env.simulation.permitted", lax)
    found = r"In the episode of seed 0 at epoch 0: the masked ADVANCE on slot 0 .* was executed"
    with pytest.raises(AssertionError, match=found):
        check_seed_env(SeedEnv(**SHORT))


def test_it_notices_a_legal_action_that_is_refused(monkeypatch):
    monkeypatch.setattr("esper_env.simulation.permitted", lambda legal, op, slot, blueprint, plantable: op == Op.WAIT)
    with pytest.raises(AssertionError, match=r"the unmasked GERMINATE of conv_light on slot 0 .* was not executed"):
        check_seed_env(SeedEnv(**SHORT | {"blueprints": ["conv_light"]}))


def test_it_notices_a_stage_that_is_skipped(monkeypatch):
    def hasty(slots, epoch, accuracy, actions, executed):
        events = apply_ops(slots, epoch, accuracy, actions, executed)
        slots.stage[events.germinated] = Stage.TRAINING
        return events

    monkeypatch.setattr("esper_env.simulation.apply_ops", hasty)
    with pytest.raises(AssertionError, match=r"after GERMINATE of .* slot \d went from DORMANT to TRAINING"):
        check_seed_env(SeedEnv(**SHORT))


def test_it_notices_a_refused_action_that_leaves_a_trace():
    env = SeedEnv(**SHORT)
    real = env._simulation._decide

    def decide(vectors):
        actions, executed = real(vectors)
        if not executed.all():
            env._simulation.signals.accuracy_delta += 1
            env._simulation.streams[0].order.random()
        return actions, executed

    env._simulation._decide = decide
    with pytest.raises(AssertionError, match=r"the refused .* did not do the same as WAIT .at .0.*'features'"):
        check_seed_env(env)


def test_it_notices_what_is_not_deterministic():
    class Drifting(SeedEnv):
        resets = 0

        def reset(self, **arguments):
            self.resets += 1
            observation, info = super().reset(**arguments)
            if self.resets == 2:
                self._simulation.streams[0].order.random()
            return observation, info

    with pytest.raises(AssertionError, match="In a second episode of seed 0: the same actions lead elsewhere"):
        check_seed_env(Drifting(**SHORT), steps=3)


def test_it_notices_a_state_that_is_not_complete():
    class Forgetful(SeedEnv):
        def set_state(self, state):
            super().set_state(state)
            self._simulation.population.stacks[0].trunk.momentum.zero_()

    with pytest.raises(AssertionError, match=r"another way|elsewhere"):
        check_seed_env(Forgetful(**SHORT), steps=10)


def test_what_was_checked_can_be_stepped_through_its_wrappers():
    env = gym.make("esper_env:Esper-Seed-v0", max_epochs=3, training={"batches_per_epoch": 1, "val_samples": 32})
    check_seed_env(env, steps=3)
    env.step(env.action_space.sample())


def test_it_checks_nothing_else():
    with pytest.raises(AssertionError, match="checks a SeedEnv, got CartPoleEnv"):
        check_seed_env(gym.make("CartPole-v1"))


def test_the_waiting_twin_is_waiting_bit_for_bit():
    env = SeedEnv(task="digits", **SHORT)
    twin = waiting_twin("digits", 5, **SHORT)
    infos, rewards = [env.reset(seed=5)[1]], [0.0]
    for _ in range(14):
        _, reward, *_, info = env.step(action())
        infos.append(info)
        rewards.append(reward)
    for name in ("train_loss", "val_loss", "val_accuracy", "score", "committed_accuracy", "objective_reward", "flops"):
        np.testing.assert_array_equal(getattr(twin, name), [info[name] for info in infos])
    np.testing.assert_array_equal(twin.reward, rewards)
    assert twin.test_accuracy == infos[-1]["test_accuracy"]
    assert twin.objective_return == pytest.approx(0.1 * (twin.score[-1] - twin.score[0]))


def test_a_host_whose_seeds_have_not_blended_in_is_its_waiting_twin():
    env, twin = SeedEnv(**SHORT), waiting_twin("digits", 5, **SHORT)
    env.reset(seed=5)
    for epoch, op in enumerate((Op.GERMINATE, Op.ADVANCE, Op.WAIT, Op.WAIT), 1):
        info = env.step(action(op, 0, "conv_heavy"))[4]
        assert info["val_loss"] == twin.val_loss[epoch]
    assert info["stage"][0] == Stage.TRAINING


def test_the_waiting_twin_is_played_once_and_can_not_be_changed():
    twin = waiting_twin("digits", 5, **SHORT)
    assert waiting_twin("digits", 5, **SHORT, reward="shaped") is twin
    assert waiting_twin("digits", 6, **SHORT) is not twin
    assert waiting_twin("digits", 5, **SHORT | {"max_epochs": 3}) is not twin
    with pytest.raises(ValueError, match="read-only"):
        twin.score[0] = 1


@pytest.mark.parametrize("blueprints", [None, ["norm"], ["attention", "conv_small", "conv_heavy"]])
def test_the_scripted_grower_makes_every_slot_permanent(blueprints):
    env, policy = SeedEnv(**SHORT | {"max_epochs": 30}), ScriptedGrower(blueprints)
    observation, info = env.reset(seed=1)
    while (info["stage"] != Stage.FOSSILIZED).any():
        observation, _, _, _, info = env.step(policy(observation))
        assert info["action_executed"]
    names = [BLUEPRINTS[i].name for i in observation["blueprint_index"]]
    assert names == (["conv_light"] * 3 if blueprints is None else list(np.resize(blueprints, 3)))
    assert policy(observation)[7] == Op.WAIT


def test_the_scripted_grower_acts_alike_on_one_and_on_many():
    envs, policy = SeedVectorEnv(3, **SHORT), ScriptedGrower(["norm", "conv_light"])
    observation, _ = envs.reset(seed=1)
    for step in range(10):
        if step == 4:
            observation, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
        actions = policy(observation)
        for env in range(3):
            alone = policy({name: array[env] for name, array in observation.items()})
            np.testing.assert_array_equal(alone, actions[env])
        observation = envs.step(actions)[0]
