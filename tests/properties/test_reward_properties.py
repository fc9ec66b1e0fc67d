"""What the reward must never do, through the real environment (domain page, section 8)."""

from functools import cache

import numpy as np
import pytest
import torch

from esper_env.actions import BLUEPRINTS, CNN, TRANSFORMER, Curve, Op, Style
from esper_env.lifecycle.stages import Stage
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import action
from tests.properties.episodes import GAMMA, OBJECTIVE, full_episodes, potential, record
from tests.properties.players import Player

CHEAP = {"batches_per_epoch": 1, "batch_size": 32, "val_samples": 64}
QUICK = {"min_training_epochs": 1, "embargo_epochs": 2}
CHEAP_TEXTS = {"batches_per_epoch": 1, "batch_size": 2, "val_samples": 4}
NAMES, FOR_TEXTS = ([row.name for row in BLUEPRINTS if kind in row.topologies] for kind in (CNN, TRANSFORMER))
HOSTS = 8
STORMS = (
    {"task": "digits", "on_panic": "rollback"},
    {"task": "digits", "on_panic": "terminate", "counterfactual_interval": 3},
    {"task": "digits_deep", "on_panic": "rollback", "auto_advance": True},
    {"task": "digits_capable", "on_panic": "terminate"},
)


def make(envs, **options):
    options = {"task": "digits", "training": CHEAP, "lifecycle": QUICK, **options}
    return SeedVectorEnv(envs, autoreset_mode="disabled", **options)


def timetable(*plans):
    """Actions by the clock: each plan maps steps to the action of one host, which waits in between."""
    return lambda observation, step: np.array([plan.get(step, action()) for plan in plans])


@cache
def stormy(storm):
    """Random legal play of 16 hosts that lose their weights now and then, half of them in every kind of state."""
    envs = make(16, max_epochs=24, reward={"hindsight": 0.1}, **STORMS[storm])
    player, rng = Player(envs.config.num_slots, np.random.default_rng(storm)), np.random.default_rng(99)

    def lose_weights(simulation, step):
        for env in np.flatnonzero(rng.random(8) < 0.06).tolist():
            network, local = simulation.population.home(env)
            network.trunk.value[local] = np.nan

    return record(envs, lambda observation, step: player.eager(observation), range(16), lose_weights)


@pytest.mark.parametrize("storm", range(len(STORMS)))
def test_discounted_shaping_sums_to_nothing_over_every_terminated_episode(storm):
    episodes = stormy(storm)
    assert np.abs(episodes.discounted("attribution", "stage")).max() < 1e-6
    assert np.abs(episodes.terms["attribution"]).max() > 0.1
    assert np.abs(episodes.terms["stage"]).max() > 0.1
    assert episodes.info["rolled_back"][episodes.alive].sum() >= 3
    assert (episodes.last("seeds_fossilized") > 0).any()


def test_at_a_truncation_the_discounted_shaping_is_the_discounted_potential_of_the_last_state():
    steps = 11
    envs = make(16, max_epochs=30, max_episode_steps=steps)
    player = Player(3, np.random.default_rng(5))
    episodes = record(envs, lambda observation, step: player.eager(observation), range(16))
    assert (episodes.alive.sum(0) == steps).all()
    left = GAMMA**steps * potential(episodes.info, -1)
    assert left.max() > 0.5
    np.testing.assert_allclose(episodes.discounted("attribution", "stage"), left, atol=1e-9)


@pytest.mark.parametrize("storm", range(len(STORMS)))
def test_the_objective_is_what_was_committed_minus_its_price(storm):
    episodes = stormy(storm)
    gained = 0.1 * (episodes.last("committed_accuracy") - episodes.start["score"])
    price = episodes.total("rent", "shock", "op_cost", "governor")
    np.testing.assert_allclose(episodes.objective_return(), gained + price, atol=1e-9)
    np.testing.assert_allclose(episodes.objective_return(), episodes.total(*OBJECTIVE), atol=1e-9)


@pytest.mark.parametrize("storm", range(len(STORMS)))
def test_hindsight_is_paid_only_when_a_fossilization_raises_the_committed_score(storm):
    episodes = stormy(storm)
    committed = np.vstack([episodes.start["committed_accuracy"][None], episodes.info["committed_accuracy"]])
    best = np.maximum.accumulate(committed)[:-1]
    fossilized = np.diff(episodes.info["seeds_fossilized"], axis=0, prepend=0) > 0
    earned = fossilized & (episodes.info["committed_accuracy"] > best)
    paid = episodes.terms["hindsight"]
    assert (paid >= 0).all()
    assert (paid <= 0.2).all()
    if STORMS[storm]["task"] == "digits_capable":  # elsewhere seeds learn too little to help each other
        assert paid.any()
    assert (paid[episodes.alive & ~earned] == 0).all()


@pytest.mark.parametrize("task", ["digits", "digits_deep", "shapes", "story_grammar"])
def test_planting_and_pruning_before_blending_costs_exactly_the_ops_for_every_blueprint_and_timing(task):
    timings = [(0, None, 1), (3, None, 9), (1, 2, 4), (0, 1, 11), (10, 11, 12)]
    plans, costs = [{}], [0.0]
    names, training = (FOR_TEXTS, CHEAP_TEXTS) if task == "story_grammar" else (NAMES, CHEAP)
    for i, name in enumerate(names):
        for j, (plant, advance, prune) in enumerate(timings):
            slot, style = (i + j) % 3, Style((i + j) % 4)
            plan = {
                plant: action(Op.GERMINATE, slot, name, style=style),
                prune: action(Op.PRUNE, slot, speed=(i + j) % 4),
            }
            plans.append(plan if advance is None else plan | {advance: action(Op.ADVANCE, slot)})
            costs.append(-0.02 * GAMMA**plant - 0.005 * GAMMA**prune)
    episodes = record(
        make(len(plans), task=task, max_epochs=13, training=training), timetable(*plans), [7] * len(plans)
    )
    assert (episodes.last("seeds_pruned")[1:] == 1).all()
    assert episodes.info["action_executed"].all()
    total = episodes.discounted()
    np.testing.assert_allclose(total - total[0], costs, atol=1e-9)
    for name in ("progress", "forfeit", "rent", "shock", "hindsight"):
        assert (episodes.terms[name] == episodes.terms[name][:, :1]).all(), name


def growth(blueprint="conv_light", style=Style.LINEAR_ADD, slot=1):
    """The plan that brings a seed to HOLDING in step 6."""
    advance = action(Op.ADVANCE, slot)
    return {0: action(Op.GERMINATE, slot, blueprint, style=style), 1: advance, 2: advance, 5: advance}


def test_a_bigger_seed_pays_more_rent():
    episodes = record(make(len(NAMES), max_epochs=10), timetable(*map(growth, NAMES)), [3] * len(NAMES))
    size, rent = episodes.info["seed_params"][0], episodes.terms["rent"]
    assert (episodes.info["alpha"] == episodes.info["alpha"][:, :1]).all()
    assert (np.diff(size[np.argsort(size)]) > 0).all()
    assert (rent[:2] == 0).all()
    assert (np.diff(rent[2:, np.argsort(size)], axis=1) < 0).all()
    np.testing.assert_allclose(rent[2:] / rent[2:, :1], np.broadcast_to(size / size[0], rent[2:].shape))


@pytest.mark.parametrize("op", [Op.SET_ALPHA_TARGET, Op.PRUNE])
def test_an_instant_change_shocks_more_than_any_ramp_and_a_longer_ramp_less(op):
    def change(speed, curve):
        return growth() | {6: action(op, 1, style=Style.LINEAR_ADD, target=0, speed=speed, curve=curve)}

    choices = [(0, Curve.LINEAR)] + [(speed, curve) for curve in Curve for speed in (1, 2, 3)]
    episodes = record(make(16, max_epochs=16), timetable(*(change(*choice) for choice in choices)), [3] * 16)
    assert episodes.info["action_executed"].all()
    assert (episodes.info["alpha"][-1, :, 1] == (0.5 if op == Op.SET_ALPHA_TARGET else 0)).all()
    shock = episodes.terms["shock"][6:].sum(0)
    ramps = shock[1:].reshape(len(Curve), 3)
    assert (shock[0] < ramps).all()
    assert (np.diff(ramps, axis=1) > 0).all()


def test_a_seed_that_the_host_merely_leans_on_ends_below_the_waiting_twin():
    """Ransomware: the seed adds a constant and the classifier subtracts it, so only its removal changes anything."""
    last, slot = 13, 2
    keep = growth("conv_small", slot=slot) | {6: action(Op.FOSSILIZE, slot)}
    plans = [{}] * HOSTS + [keep] * HOSTS + [growth("conv_small", slot=slot)] * HOSTS

    def take_hostage(simulation, step):
        for env in range(HOSTS, 3 * HOSTS) if step == last else ():
            network, row = simulation.population.home(env)
            bank = network.banks[slot, "conv_small"]
            seed = {name: p[bank.envs.index(row)] for name, p in bank.seeds.parameters.items()}
            host = {name: p[row] for name, p in network.trunk.parameters.items()}
            with torch.no_grad():
                weight = host["classifier.weight"]
                constant = 10 * weight[:, 0] / weight[:, 0].norm()
                seed["conv0"].zero_()
                seed["shift0"].fill_(1.0)
                seed["gamma"].copy_(constant)
                host["classifier.bias"].sub_(constant @ weight)

    training = {"val_samples": 128, "batches_per_epoch": 6}
    envs = make(3 * HOSTS, task="digits_capable", max_epochs=last + 1, training=training)
    episodes = record(envs, timetable(*plans), [*range(HOSTS)] * 3, take_hostage)
    waiting, fossilized, held = np.split(np.arange(3 * HOSTS), 3)
    score, value = episodes.last("score"), episodes.objective_return()
    assert (episodes.last("stage")[fossilized, slot] == Stage.FOSSILIZED).all()
    assert (episodes.last("shapley")[fossilized, slot] > 10).all()
    no_better = score[fossilized] <= score[waiting]
    assert no_better.sum() >= HOSTS // 2
    assert (value[fossilized] < value[waiting])[no_better].all()
    assert (value[held] < value[waiting] - 1)[score[held] <= score[waiting]].all()


@pytest.mark.slow
def test_on_a_capable_host_growing_by_a_script_returns_less_than_waiting():
    waiting, growing = (full_episodes("digits_capable", player, HOSTS) for player in ("wait", "grow"))
    assert (growing.last("seeds_fossilized") == 3).all()
    assert growing.objective_return().mean() < waiting.objective_return().mean()


@pytest.mark.slow
def test_on_a_starved_host_growing_by_a_script_returns_more_than_waiting():
    waiting, growing = (full_episodes("digits", player, 10) for player in ("wait", "grow"))
    assert (growing.last("seeds_fossilized") == 3).all()
    assert growing.objective_return().mean() > waiting.objective_return().mean()
