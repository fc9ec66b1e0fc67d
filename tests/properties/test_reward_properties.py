"""What the reward must never do, through the real environment (domain page, section 8)."""

from functools import cache

import numpy as np
import pytest
import torch

from esper_env.actions import ALPHA_SPEEDS, ALPHA_TARGETS, BLUEPRINTS, CNN, TEMPOS, TRANSFORMER, Curve, Op, Style
from esper_env.lifecycle.stages import Stage
from esper_env.tasks import TASKS
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import action
from tests.properties.episodes import GAMMA, OBJECTIVE, full_episodes, potential, record
from tests.properties.players import Player

CHEAP = {"batches_per_epoch": 1, "batch_size": 32, "val_samples": 64}
QUICK = {"min_training_epochs": 1, "embargo_epochs": 2}
CHEAP_TEXTS = {"batches_per_epoch": 1, "batch_size": 2, "val_samples": 4}
CHEAP_PHOTOGRAPHS = {"batches_per_epoch": 1, "batch_size": 2, "val_samples": 8}
PHOTOGRAPHS = ("cifar10_impaired", "cifar10_postpool")
NAMES, FOR_TEXTS = ([row.name for row in BLUEPRINTS if kind in row.topologies] for kind in (CNN, TRANSFORMER))
HOSTS = 8
DRAWS = 6
"""How often slot, style, ramp and times are drawn for each blueprint, or for all choices of a change."""
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
    """Random legal play of hosts that lose their weights now and then, half of them in every kind of state.

    More of them are capable ones: it is rare that a seed is made permanent which others have helped.
    """
    hosts = 32 if STORMS[storm]["task"] == "digits_capable" else 16
    envs = make(hosts, max_epochs=24, reward={"hindsight": 0.1}, **STORMS[storm])
    player, rng = Player(envs.config.num_slots, np.random.default_rng(storm)), np.random.default_rng(99)

    def lose_weights(simulation, step):
        for env in np.flatnonzero(rng.random(hosts // 2) < 0.06).tolist():
            network, local = simulation.population.home(env)
            network.trunk.value[local] = np.nan

    return record(envs, lambda observation, step: player.eager(observation), range(hosts), lose_weights)


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


@pytest.mark.parametrize("task", ["digits", "digits_deep", "shapes", "story_grammar", *PHOTOGRAPHS])
def test_planting_and_pruning_before_blending_costs_exactly_the_ops_for_every_blueprint_and_timing(task):
    steps, rng = 13, np.random.default_rng(17)
    names, training = {
        "story_grammar": (FOR_TEXTS, CHEAP_TEXTS),
        **dict.fromkeys(PHOTOGRAPHS, (NAMES, CHEAP_PHOTOGRAPHS)),
    }.get(task, (NAMES, CHEAP))
    slots = len(TASKS[task].host.slots)
    plans, costs = [{}], [0.0]
    for name in names * DRAWS:
        plant, prune = np.sort(rng.choice(steps, 2, replace=False)).tolist()
        slot, (style, tempo, target, speed, curve) = int(rng.integers(slots)), rng.integers([4, 3, 3, 4, 5]).tolist()
        plan = {
            plant: action(Op.GERMINATE, slot, name, style=style, tempo=tempo, target=target),
            prune: action(Op.PRUNE, slot, speed=speed, curve=curve),
        }
        advance = int(rng.integers(plant, prune))  # it stays GERMINATED when this is the step of planting
        plans.append({advance: action(Op.ADVANCE, slot)} | plan)
        costs.append(-0.02 * GAMMA**plant - 0.005 * GAMMA**prune)
    episodes = record(
        make(len(plans), task=task, max_epochs=steps, training=training), timetable(*plans), [7] * len(plans)
    )
    assert (episodes.last("seeds_pruned")[1:] == 1).all()
    assert {Stage.GERMINATED, Stage.TRAINING} <= set(np.unique(episodes.info["stage"]))
    assert episodes.info["action_executed"].all()
    total = episodes.discounted()
    np.testing.assert_allclose(total - total[0], costs, atol=1e-9)
    for name in ("progress", "forfeit", "rent", "shock", "hindsight"):
        assert (episodes.terms[name] == episodes.terms[name][:, :1]).all(), name
    for name in ("train_loss", "val_loss"):  # the few samples leave the score where it is in most epochs
        assert (episodes.info[name] == episodes.info[name][:, :1]).all(), name


def growth(blueprint, slot, *, begin=0, style=Style.LINEAR_ADD, tempo=0, target=2):
    """The plan that brings a seed to the end of its first ramp, and to HOLDING if that ends at 1; and its last step."""
    advance = action(Op.ADVANCE, slot)
    germinate = action(Op.GERMINATE, slot, blueprint, style=style, tempo=tempo, target=target)
    last = begin + 2 + int(TEMPOS[tempo])
    plan = {begin: germinate, begin + 1: advance, begin + 2: advance}
    return (plan | {last: advance} if target == 2 else plan), last


def test_a_bigger_seed_pays_more_rent():
    steps, rng, plans, seeds = 16, np.random.default_rng(23), [], []
    for draw in range(DRAWS):
        begin, slot, style, tempo, target = rng.integers([4, 3, 4, 3, 3]).tolist()
        grown = [growth(name, slot, begin=begin, style=style, tempo=tempo, target=target) for name in NAMES]
        plans += [plan for plan, _ in grown]
        seeds += [draw] * len(NAMES)
    episodes = record(make(len(plans), max_epochs=steps), timetable(*plans), seeds)
    assert episodes.info["action_executed"].all()
    assert not episodes.info["rolled_back"].any()
    for drawn in np.split(np.arange(len(plans)), DRAWS):
        size, rent = episodes.info["seed_params"][-1, drawn], episodes.terms["rent"][:, drawn]
        alpha = episodes.info["alpha"][:, drawn]
        assert (alpha == alpha[:, :1]).all()
        assert (np.diff(size[np.argsort(size)]) > 0).all()
        blended = alpha.any((1, 2))
        assert (rent[~blended] == 0).all()
        rent = rent[blended]
        assert (np.diff(rent[:, np.argsort(size)], axis=1) < 0).all()
        np.testing.assert_allclose(rent / rent[:, :1], np.broadcast_to(size / size[0], rent.shape))


@pytest.mark.parametrize("op", [Op.SET_ALPHA_TARGET, Op.PRUNE])
def test_an_instant_change_shocks_more_than_any_ramp_and_a_longer_ramp_less(op):
    choices = [(0, Curve.LINEAR)] + [(speed, curve) for curve in Curve for speed in (1, 2, 3)]
    rng, plans, seeds, steps, ends = np.random.default_rng(29), [], [], [], []
    for draw in range(DRAWS):
        begin, wait, slot, style, tempo, first = rng.integers([3, 3, 3, 4, 3, 3]).tolist()
        target = int(rng.choice([target for target in range(3) if target != first]))
        grown, last = growth(rng.choice(NAMES), slot, begin=begin, style=style, tempo=tempo, target=first)
        steps.append(last + 1 + wait)
        for speed, curve in choices:
            change = action(op, slot, style=style, target=target, speed=speed, curve=curve)
            plans.append(grown | {steps[-1]: change})
        seeds += [draw] * len(choices)
        ends.append(ALPHA_TARGETS[target] if op == Op.SET_ALPHA_TARGET else 0.0)
    envs = make(len(plans), max_epochs=max(steps) + 1 + int(ALPHA_SPEEDS.max()))
    episodes = record(envs, timetable(*plans), seeds)
    assert episodes.info["action_executed"].all()
    assert not episodes.info["rolled_back"].any()
    for drawn, step, end in zip(np.split(np.arange(len(plans)), DRAWS), steps, ends, strict=True):
        assert (episodes.info["alpha"][-1, drawn].sum(1) == end).all()
        shock = episodes.terms["shock"][step:, drawn].sum(0)
        ramps = shock[1:].reshape(len(Curve), 3)
        assert (shock[0] < ramps).all()
        assert (np.diff(ramps, axis=1) > 0).all()


def test_a_seed_that_the_host_merely_leans_on_ends_below_the_waiting_twin():
    """Ransomware: the seed adds a constant and the classifier subtracts it, so only its removal changes anything."""
    last, slot, rng, plans, names = 13, 2, np.random.default_rng(31), [], []
    for _ in range(HOSTS):
        tempo, style = int(rng.integers(3)), rng.choice([Style.LINEAR_ADD, Style.SIGMOID_ADD])
        begin = int(rng.integers(last - 3 - TEMPOS[tempo]))
        names.append(str(rng.choice(["conv_small", "conv_light", "conv_heavy"])))
        plan, held = growth(names[-1], slot, begin=begin, style=style, tempo=tempo)
        plans.append((plan, plan | {held + 1: action(Op.FOSSILIZE, slot)}))
    keeping, holding = [keep for _, keep in plans], [hold for hold, _ in plans]

    def take_hostage(simulation, step):
        for env in range(HOSTS, 3 * HOSTS) if step == last else ():
            network, row = simulation.population.home(env)
            bank = network.banks[slot, names[env % HOSTS]]
            seed = {name: p[bank.envs.index(row)] for name, p in bank.seeds.parameters.items()}
            host = {name: p[row] for name, p in network.trunk.parameters.items()}
            final = sum(name.startswith("conv") for name in seed) - 1
            with torch.no_grad():
                weight = host["classifier.weight"]
                constant = 10 * weight[:, 0] / weight[:, 0].norm()
                seed[f"conv{final}"].zero_()
                seed[f"shift{final}"].fill_(1.0)
                seed["gamma"].copy_(constant)
                host["classifier.bias"].sub_(constant @ weight)

    training = {"val_samples": 128, "batches_per_epoch": 6}
    envs = make(3 * HOSTS, task="digits_capable", max_epochs=last + 1, training=training)
    episodes = record(envs, timetable(*[{}] * HOSTS, *keeping, *holding), [*range(HOSTS)] * 3, take_hostage)
    assert episodes.info["action_executed"].all()
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
