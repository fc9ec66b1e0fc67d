import numpy as np
import pytest
import torch
from tensordict import TensorDict

from esper_agent import create_policy
from esper_agent.evaluate import evaluate, evaluate_named, held_out_seeds
from esper_agent.policies.baselines import BASELINES
from esper_agent.spec import EnvSpec
from esper_env import SeedEnv, SeedVectorEnv
from esper_env.actions import CANONICAL_ACTION, HEAD_INDEX, Op, Style, blueprint_names
from esper_env.config import ConfigError
from esper_env.observation import BASE_FEATURES, SLOT_FEATURES
from tests.agent.observations import mask_tensors
from tests.conftest import BRIEF, HASTY

OPTIONS = {"task": "digits", "max_epochs": 24, "training": BRIEF, "lifecycle": HASTY}


def play(policy, envs=6, seed=0, **options):
    """Actions and infos of every step of one episode per host."""
    env = SeedVectorEnv(envs, **OPTIONS | options)
    observation, _ = env.reset(seed=seed)
    actions, infos = [], []
    for epoch in range(env.config.max_epochs):
        td = TensorDict({name: torch.from_numpy(array) for name, array in observation.items()}, [envs])
        td["is_init"] = torch.full((envs, 1), epoch == 0)
        actions.append(policy(td)["action"].numpy())
        observation, _, _, _, info = env.step(actions[-1])
        infos.append(info)
    env.close()
    return np.stack(actions), infos


def head(actions, name):
    return actions[..., HEAD_INDEX[name]]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("task", ["digits", "digits_deep"])
def test_a_baseline_acts_legally_in_every_step(name, task):
    policy = create_policy(name, SeedEnv(**OPTIONS | {"task": task}), seed=0)
    _, infos = play(policy, task=task)
    assert all(info["action_executed"].all() for info in infos)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_is_a_policy_like_any_other(name):
    policy = create_policy(name, SeedEnv(**OPTIONS), seed=0)
    rows = evaluate(policy, OPTIONS, held_out_seeds(3), agent=name)
    assert [row.env_steps for row in rows] == [24] * 3
    assert rows == evaluate_named([name], OPTIONS, held_out_seeds(3))


def test_random_takes_every_op_and_follows_its_seed():
    actions, _ = play(create_policy("random", SeedEnv(**OPTIONS), seed=3), envs=12)
    again, _ = play(create_policy("random", SeedEnv(**OPTIONS), seed=3), envs=12)
    other, _ = play(create_policy("random", SeedEnv(**OPTIONS), seed=4), envs=12)
    # Few of its seeds live long enough to be fossilized.
    assert set(head(actions, "op").ravel()) >= set(Op) - {Op.FOSSILIZE}
    assert (actions == again).all()
    assert (actions != other).any()


def test_wait_waits():
    actions, _ = play(create_policy("wait", SeedEnv(**OPTIONS)))
    assert (actions == CANONICAL_ACTION).all()


def test_the_schedule_fills_every_slot_with_its_blueprint_and_fossilizes_it():
    policy = create_policy("schedule", SeedEnv(**OPTIONS), blueprint="norm", style="LINEAR_ADD", start=2)
    actions, infos = play(policy)
    planting = head(actions, "op") == Op.GERMINATE
    assert planting.sum(0).tolist() == [3] * 6
    assert not planting[:2].any()
    assert planting[2].all()
    assert set(head(actions, "blueprint")[planting]) == {blueprint_names().index("norm")}
    assert set(head(actions, "style")[planting]) == {Style.LINEAR_ADD}
    assert infos[-1]["seeds_fossilized"].tolist() == [3] * 6
    assert play(policy)[0].tolist() == actions.tolist(), "a second episode is played like the first"


@pytest.mark.parametrize(
    ("options", "reason"), [({"blueprint": "nrom"}, "Did you mean 'norm'"), ({"style": "ADD"}, "Unknown style 'ADD'")]
)
def test_a_schedule_of_things_that_do_not_exist_is_refused(options, reason):
    with pytest.raises(ConfigError, match=reason):
        create_policy("schedule", SeedEnv(**OPTIONS), **options)


def seen(op=None, stage=None, contribution=0.0, age=0, **host):
    """What a lone host shows: a seed in slot 1 perhaps, for which `op` is legal, or room for one in slots 1 and 2."""
    legal = np.zeros((1, len(Op), 3), bool)
    legal[0, Op.WAIT] = True
    legal[0, Op.GERMINATE, 2 if stage else slice(1, 3)] = True
    if op is not None:
        legal[0, op, 1] = True
    values = {"contribution": contribution, "epochs_in_stage": age, f"stage_{stage}": 1.0}
    slots = np.zeros((3, len(SLOT_FEATURES)), np.float32)
    slots[1] = [values.get(feature.name, 0.0) / feature.unit for feature in SLOT_FEATURES]
    base = np.array([host.get(feature.name, 0.0) / feature.unit for feature in BASE_FEATURES], np.float32)
    td = TensorDict(mask_tensors(legal, len(blueprint_names())), [1])
    td["features"] = torch.from_numpy(np.concatenate([base, slots.ravel()]))[None]
    return td


def chosen(*steps):
    """Op, slot and blueprint of the heuristic's last action, having seen these steps of an episode."""
    policy = create_policy("heuristic", EnvSpec())
    for number, td in enumerate(steps):
        td["is_init"] = torch.tensor([[number == 0]])
        action = policy(td)["action"][0]
    return Op(int(head(action, "op"))), int(head(action, "slot")), int(head(action, "blueprint"))


SETTLED = {"host_stabilized": 1}


@pytest.mark.parametrize(
    ("observed", "op"),
    [
        ([seen(**SETTLED)], Op.GERMINATE),
        ([seen(plateau=3)] * 5, Op.WAIT),
        ([seen(plateau=3)] * 6, Op.GERMINATE),
        ([seen(plateau=2)] * 6, Op.WAIT),
        *(([seen(stage=stage, **SETTLED)], Op.WAIT) for stage in ("germinated", "training", "blending")),
        ([seen(stage="holding", **SETTLED)], Op.GERMINATE),
        ([seen(Op.ADVANCE, "training")], Op.ADVANCE),
        ([seen(Op.PRUNE, "blending", -2.1, age=5)], Op.PRUNE),
        ([seen(Op.PRUNE, "blending", -1.9, age=5)], Op.WAIT),
        ([seen(Op.PRUNE, "blending", -2.1, age=4)], Op.WAIT),
        ([seen(Op.PRUNE, "training", -2.1, age=5)], Op.WAIT),
        ([seen(Op.FOSSILIZE, "holding", 0.6)], Op.FOSSILIZE),
        ([seen(Op.FOSSILIZE, "holding", 0.4)], Op.WAIT),
        ([seen(Op.PRUNE, "holding", 0.4, age=5)], Op.PRUNE),
        ([seen(Op.PRUNE, "holding", 0.4, age=4)], Op.WAIT),
        ([seen(Op.PRUNE, "holding", 0.6, age=5)], Op.WAIT),
    ],
)
def test_the_heuristic_follows_its_rules(observed, op):
    took, slot, _ = chosen(*(td.clone() for td in observed))
    assert took == op
    if op not in (Op.WAIT, Op.GERMINATE):
        assert slot == 1


def test_the_heuristic_plants_in_the_first_free_slot_and_each_time_another_blueprint():
    took = [chosen(*(seen(**SETTLED) for _ in range(steps))) for steps in range(1, 15)]
    plantable = list(range(1, len(blueprint_names())))
    assert took == [(Op.GERMINATE, 1, (plantable * 2)[i]) for i in range(14)]


@pytest.mark.slow
def test_the_heuristic_makes_a_seed_permanent_in_nearly_every_episode():
    policy = create_policy("heuristic", SeedEnv(task="digits"))
    env = SeedEnv(task="digits")
    _, infos = play(policy, envs=16, max_epochs=env.config.max_epochs, training=None, lifecycle=None)
    assert (infos[-1]["seeds_fossilized"] >= 1).mean() >= 0.9
