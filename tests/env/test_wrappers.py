import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation

from esper_env import actions
from esper_env.actions import BLUEPRINTS, CAUSAL_MASK, CNN, HEAD_INDEX, BlueprintRow, Op, blueprint_names
from esper_env.config import ConfigError
from esper_env.lifecycle.legality import permitted
from esper_env.wrappers import FlatDiscrete, FlatDiscreteVector, JointActions
from tests.conftest import BRIEF, HASTY

ID = "esper_env:Esper-Seed-v0"
OPTIONS = {"max_epochs": 25, "training": BRIEF, "lifecycle": HASTY}
CNN_BLUEPRINTS = 7


def make(**options):
    return gym.make(ID, **OPTIONS | options)


def test_every_combination_of_what_matters_has_one_number_and_nothing_else_has():
    flat = FlatDiscrete(make())
    vectors = flat.joint_actions.vectors
    germinate, retarget, prune = 3 * CNN_BLUEPRINTS * 4 * 3 * 3, 3 * 4 * 3 * 4 * 5, 3 * 4 * 5
    assert flat.action_space.n == len(vectors) == 1 + germinate + retarget + prune + 3 + 3
    assert len(np.unique(vectors, axis=0)) == len(vectors)
    assert vectors[0, HEAD_INDEX["op"]] == Op.WAIT
    assert all(vector in flat.env.action_space for vector in vectors)
    idle = ~CAUSAL_MASK[vectors[:, HEAD_INDEX["op"]]]
    assert (np.where(idle, vectors, vectors[0]) == vectors[0]).all()


def test_the_mask_does_not_depend_on_what_other_wrappers_made_of_the_observation():
    inside, outside = FlatDiscrete(FlattenObservation(make())), FlattenObservation(FlatDiscrete(make()))
    (seen, info), (same, expected) = inside.reset(seed=0), outside.reset(seed=0)
    np.testing.assert_array_equal(seen, same)
    np.testing.assert_array_equal(info["action_mask"], expected["action_mask"])


def retraced(env, play):
    """The masks along an episode and the state after each, and the masks once each state is set again."""
    env.reset(seed=3)
    masks, states = [env.action_masks()], [env.unwrapped.get_state()]
    for _ in range(6):
        play(env)
        masks.append(env.action_masks())
        states.append(env.unwrapped.get_state())
    again = []
    for state in states:
        env.unwrapped.set_state(state)
        again.append(env.action_masks())
    return np.array(masks), np.array(again)


def test_the_mask_is_that_of_the_present_state_whoever_set_it():
    rng = np.random.default_rng(0)

    def draw(mask):
        return rng.choice(np.flatnonzero(mask))

    stack = FlatDiscreteVector(gym.make_vec(ID, 3, "vector_entry_point", **OPTIONS))
    for masks, again in (
        retraced(FlatDiscrete(make()), lambda env: env.step(draw(env.action_masks()))),
        retraced(stack, lambda envs: envs.step(np.array([draw(mask) for mask in envs.action_masks()]))),
    ):
        np.testing.assert_array_equal(again, masks)
        assert len(np.unique(masks, axis=0)) > 1


def test_before_an_episode_the_mask_is_that_of_a_host_without_seeds():
    env = FlatDiscrete(make())
    before = env.action_masks()
    env.reset(seed=0)
    np.testing.assert_array_equal(env.action_masks(), before)
    ops = env.joint_actions.vectors[before, HEAD_INDEX["op"]]
    assert set(ops) == {Op.WAIT, Op.GERMINATE}


def test_a_blueprint_registered_later_does_not_disturb_an_environment_that_is_there(monkeypatch):
    env = make()
    monkeypatch.setattr(actions, "BLUEPRINTS", [*BLUEPRINTS, BlueprintRow("later", (CNN,))])
    flat = FlatDiscrete(env)
    _, info = flat.reset(seed=0)
    assert info["action_mask"].shape == (flat.action_space.n,)


def test_blueprints_that_are_not_offered_have_no_number():
    joint = JointActions(2, ("norm",))
    germinates = joint.vectors[:, HEAD_INDEX["op"]] == Op.GERMINATE
    assert set(joint.vectors[germinates, HEAD_INDEX["blueprint"]]) == {blueprint_names().index("norm")}
    assert germinates.sum() == 2 * 4 * 3 * 3


@pytest.mark.parametrize("seed", range(3))
def test_the_mask_is_exactly_what_would_execute_and_what_it_allows_does(seed):
    env = FlatDiscrete(make())
    env.action_space.seed(seed)
    _, info = env.reset(seed=seed)
    columns = {name: env.joint_actions.vectors[:, i] for name, i in HEAD_INDEX.items()}
    over, ops = False, set()
    while not over:
        simulation = env.unwrapped._simulation
        legal = np.repeat(simulation.legality(), len(columns["op"]), 0)
        want = permitted(legal, columns["op"], columns["slot"], columns["blueprint"], simulation.plantable)
        np.testing.assert_array_equal(env.action_masks(), want)
        np.testing.assert_array_equal(info["action_mask"], want)
        action = env.action_space.sample(mask=info["action_mask"])
        _, _, over, _, info = env.step(action)
        assert info["action_executed"]
        ops.add(int(columns["op"][action]))
    assert {Op.GERMINATE, Op.PRUNE} <= ops


def test_a_seed_gives_the_episode_that_the_wrapped_environment_gives():
    plain, flat = make(), FlatDiscrete(make())
    flat.action_space.seed(5)
    (mine, info), (theirs, _) = flat.reset(seed=5, options={}), plain.reset(seed=5, options={})
    over = False
    while not over:
        number = flat.action_space.sample(mask=info["action_mask"])
        mine, my_reward, over, _, info = flat.step(number)
        theirs, reward, _, _, _ = plain.step(flat.joint_actions.vectors[number])
        assert my_reward == reward
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)


def test_what_is_given_to_reset_reaches_the_wrapped_environment(monkeypatch):
    env, asked = make(), {}
    flat = FlatDiscrete(env)
    real = env.reset
    monkeypatch.setattr(env, "reset", lambda **given: asked.update(given) or real(**given))
    flat.reset(seed=3, options={"whatever": 1})
    assert asked == {"seed": 3, "options": {"whatever": 1}}


def test_hosts_of_a_stack_restart_alone_with_their_seed_as_they_do_without_the_wrapper():
    options = OPTIONS | {"autoreset_mode": "disabled"}
    plain, wrapped = (gym.make_vec(ID, 3, "vector_entry_point", **options) for _ in range(2))
    flat, restart = FlatDiscreteVector(wrapped), {"reset_mask": np.array([False, True, False])}
    flat.reset(seed=4), plain.reset(seed=4)
    rng = np.random.default_rng(0)
    for step in range(6):
        numbers = np.array([rng.choice(np.flatnonzero(mask)) for mask in flat.action_masks()])
        mine, my_rewards, _, _, info = flat.step(numbers)
        theirs, rewards, _, _, _ = plain.step(flat.joint_actions.vectors[numbers])
        np.testing.assert_array_equal(my_rewards, rewards)
        if step == 3:
            (mine, info), (theirs, _) = (envs.reset(seed=[7, 8, 9], options=restart) for envs in (flat, plain))
            assert info["epoch"].tolist() == [4, 0, 4]
        np.testing.assert_array_equal(info["action_mask"], flat.joint_actions.mask(mine))
        for name in theirs:
            np.testing.assert_array_equal(mine[name], theirs[name])


def test_gymnasium_checks_remakes_and_flattens_it():
    env = FlatDiscrete(make())
    with pytest.warns(UserWarning, match="different from the unwrapped"):
        check_env(env, skip_render_check=True)
    again = gym.make(env.spec)
    assert isinstance(again, FlatDiscrete)
    assert again.action_space == env.action_space
    observation, _ = FlattenObservation(FlatDiscrete(make())).reset(seed=0)
    assert observation.ndim == 1


def test_a_stack_has_the_same_numbers_and_masks():
    envs = FlatDiscreteVector(gym.make_vec(ID, 3, "vector_entry_point", **OPTIONS | {"max_epochs": 8}))
    envs.action_space.seed(0)
    _, info = envs.reset(seed=[1, 2, 3])
    single = FlatDiscrete(make())
    _, alone = single.reset(seed=2)
    np.testing.assert_array_equal(info["action_mask"][1], alone["action_mask"])
    for _ in range(8):
        executed = envs.action_masks()
        actions = [single.action_space.sample(mask=mask) for mask in info["action_mask"]]
        assert executed[range(3), actions].all()
        *_, info = envs.step(np.array(actions))
        assert info["action_executed"].all()


def test_the_last_info_of_an_episode_has_the_mask_of_its_last_observation():
    options = OPTIONS | {"max_epochs": 3, "autoreset_mode": "same_step"}
    envs, single = FlatDiscreteVector(gym.make_vec(ID, 2, "vector_entry_point", **options)), FlatDiscrete(make())
    envs.reset(seed=[1, 2])
    envs.step(np.zeros(2, int))
    envs.reset(options={"reset_mask": np.array([True, False])})  # so that one ends alone
    single.reset(seed=2)
    germinate = int(np.flatnonzero(envs.action_masks()[1])[-1])
    single.step(0)
    for number in (germinate, 0):
        *_, info = envs.step(np.array([0, number]))
        *_, expected = single.step(number)
    final = info["final_info"]
    assert final["_action_mask"].tolist() == [False, True]
    np.testing.assert_array_equal(final["action_mask"][1], expected["action_mask"])
    assert not np.array_equal(info["action_mask"][1], expected["action_mask"])
    assert (final["action_mask"].shape, final["action_mask"].dtype) == (info["action_mask"].shape, np.int8)


def test_actions_of_another_shape_are_refused_in_numbers_not_in_heads():
    env, envs = FlatDiscrete(make()), FlatDiscreteVector(gym.make_vec(ID, 2, "vector_entry_point", **OPTIONS))
    env.reset(seed=0), envs.reset(seed=0)
    for action in ([0], [0] * 8):
        with pytest.raises(ValueError, match=r"An action is a single number here; got \[0"):
            env.step(action)
    for numbers in (0, [0], [[0, 0]]):
        with pytest.raises(ValueError, match="An action is 2 numbers, one for each host, here; got"):
            envs.step(numbers)


def test_environments_of_others_are_refused():
    with pytest.raises(ConfigError, match=r"FlatDiscrete wraps Esper's environments, .* not a CartPoleEnv"):
        FlatDiscrete(gym.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="vectorization_mode='vector_entry_point', not a SyncVectorEnv"):
        FlatDiscreteVector(gym.make_vec(ID, 2, "sync", **OPTIONS))


@pytest.mark.parametrize("number", [-1, 10**6, 0.5, np.nan])
def test_a_number_outside_is_refused_with_the_range(number):
    env = FlatDiscrete(make())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"whole number from 0 to {env.action_space.n - 1}"):
        env.step(number)
